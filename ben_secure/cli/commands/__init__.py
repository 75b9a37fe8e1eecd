"""The commands, one module each. ``cli._app`` collects them."""
