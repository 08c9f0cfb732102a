"""What every method stands on: types, networks, optimisers, minibatches, and what a method is."""
