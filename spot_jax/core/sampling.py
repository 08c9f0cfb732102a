"""How minibatches are drawn."""

import jax
import jax.numpy as jnp

from spot_jax.core.method import Data
from spot_jax.core.types import Array, Transition, unpack


def uniform_indices(key: Array, shape: tuple[int, ...], size: int) -> Array:
    """Indices uniform in [0, size), with replacement, int32 of `shape`; the key is consumed.

    One draw of bits. The bias, size / 2^32, is far below what could be noticed.
    """
    return (jax.random.bits(key, shape) % jnp.uint32(size)).astype(jnp.int32)


def uniform_rows(key: Array, data: Data, shape: tuple[int, ...]) -> Array:
    """Packed transitions `[*shape, D]`, uniform over the data with replacement; the key is consumed."""
    return data.rows[uniform_indices(key, shape, len(data.rows))]


def with_next_actions(data: Data, indices: Array, sizes: tuple[int, int]) -> tuple[Transition, Array, Array]:
    """Transitions at `indices`, what the data did at the next states `[..., A]`, and where that is known, bool `[...]`.

    It is not at an episode's last row. `sizes` are those of observations and actions.
    """
    last = data.last[indices]
    batch, following = (unpack(data.rows[i], *sizes) for i in (indices, jnp.minimum(indices + 1, last)))
    return batch, following.actions, indices < last
