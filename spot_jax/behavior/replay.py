"""The replay ring on the device, and the compiled chunk that adds new rows to it and learns from it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.behavior import sac as sac_lib
from spot_jax.behavior.sac import SAC, SACState
from spot_jax.core.types import Array, Metrics, unpack


class Ring(struct.PyTreeNode):
    """The newest rows, packed as in `types.unpack`."""

    rows: Array  # [capacity, D]
    count: Array  # int32 scalar, rows added so far


def empty_ring(capacity: int, row_size: int) -> Ring:
    """A ring without rows."""
    return Ring(jnp.zeros((capacity, row_size), jnp.float32), jnp.int32(0))


def add(ring: Ring, rows: Array, number: Array) -> Ring:
    """Adds the first `number` of `rows` [K, D]; the oldest ones give way."""
    capacity, i = ring.rows.shape[0], jnp.arange(rows.shape[0])
    positions = jnp.where(i < number, (ring.count + i) % capacity, capacity)  # the others fall outside
    return Ring(ring.rows.at[positions].set(rows, mode='drop'), ring.count + number)


# (state, ring, rows [K, D], how many of them, key) -> (state, ring, metrics); state and ring are donated
Chunk = Callable[[SACState, Ring, Array, Array, Array], tuple[SACState, Ring, Metrics]]


def chunk_fn(sac: SAC, observation_dim: int, batch_size: int, num_blocks: int) -> Chunk:
    """Compiles: add rows, then `num_blocks` scanned blocks of F updates each on uniform minibatches.

    Metrics are means over the blocks; the key is consumed.
    """

    def run(state: SACState, ring: Ring, rows: Array, number: Array, key: Array) -> tuple[SACState, Ring, Metrics]:
        ring = add(ring, rows, number)
        size = jnp.minimum(ring.count, ring.rows.shape[0])

        def body(state: SACState, key: Array) -> tuple[SACState, Metrics]:
            index_key, noise_key = jax.random.split(key)
            indices = jax.random.randint(index_key, (sac.policy_freq, batch_size), 0, size)
            batches = unpack(ring.rows[indices], observation_dim, sac.action_dim)
            return sac_lib.update(state, sac, batches, sac_lib.draw_noise(noise_key, sac, batch_size))

        state, metrics = jax.lax.scan(body, state, jax.random.split(key, num_blocks))
        return state, ring, jax.tree.map(jnp.mean, metrics)

    return jax.jit(run, donate_argnums=(0, 1))
