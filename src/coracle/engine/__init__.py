"""The verbs of the engine: what every front door (command line, API, compose, ...) calls."""
