"""A run from its config to its results: the shell around what is computed."""
