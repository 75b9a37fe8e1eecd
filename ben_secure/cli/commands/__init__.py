"""One module for each command; ``cli._app`` puts them together."""
