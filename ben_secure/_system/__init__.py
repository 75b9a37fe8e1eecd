"""What the operating system has to be asked for with care: files that appear whole, workers that Ctrl-C spares."""
