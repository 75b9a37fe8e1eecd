"""Services of the operating system that need care: complete files, workers that ignore Ctrl-C, processors."""
