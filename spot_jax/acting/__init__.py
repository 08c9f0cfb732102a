"""Environments: which may be made, what a task makes of them, and episodes played in them, here or in processes."""
