"""SPOT in JAX: offline reinforcement learning inside the support of the data."""

__version__ = '0.1.0'
