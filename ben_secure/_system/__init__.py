"""What the operating system has to be asked for with care: whole files, workers that Ctrl-C spares, processors."""
