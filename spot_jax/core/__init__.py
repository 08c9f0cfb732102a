"""What every other part stands on: types, networks, optimisers, and what a method is."""
