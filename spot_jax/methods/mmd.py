"""The maximum mean discrepancy of two sets of actions, by BEAR's kernels."""

from collections.abc import Callable

import jax.numpy as jnp

from spot_jax.core.types import Array

# Of differences `[..., A]`, the distances `[...]` that kernels exp(−distance / 2σ) take; σ is not squared.
KERNELS: dict[str, Callable[[Array], Array]] = {
    'gaussian': lambda x: jnp.sum(x**2, axis=-1),
    'laplacian': lambda x: jnp.sum(jnp.abs(x), axis=-1),
}


def mmd(x: Array, y: Array, kernel: str, sigma: Array) -> Array:
    """The MMD between two sets of samples of each state, `[B, M, A]` each to `[B]`: means are over all pairs."""
    # That of a sample to itself is 0 for certain: computed twice, it can round to another, whose sign has a gradient.
    others = 1 - jnp.eye(x.shape[1])[None, :, :, None]
    differences = lambda a, b: a[:, :, None] - b[:, None]
    similarity = lambda pairs: jnp.mean(jnp.exp(-KERNELS[kernel](pairs) / (2 * sigma)), axis=(1, 2))
    within = similarity(others * differences(x, x)) + similarity(others * differences(y, y))
    return jnp.sqrt(within - 2 * similarity(differences(x, y)) + 1e-6)
