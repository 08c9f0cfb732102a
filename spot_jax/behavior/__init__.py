"""Behaviour policies: online SAC that trains them, and the trained ones that the package ships, as NumPy functions.

policy = spot_jax.behavior.load('hopper-medium')
"""

from spot_jax.behavior.policy import Policy, load

__all__ = ['Policy', 'load']
