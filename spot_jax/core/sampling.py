"""How minibatches are drawn."""

import jax
import jax.numpy as jnp

from spot_jax.core.types import Array


def uniform_indices(key: Array, shape: tuple[int, ...], size: int) -> Array:
    """Indices uniform in [0, size), with replacement, int32 of `shape`; the key is consumed.

    One draw of bits. The bias, size / 2^32, is far below what could be noticed.
    """
    return (jax.random.bits(key, shape) % jnp.uint32(size)).astype(jnp.int32)
