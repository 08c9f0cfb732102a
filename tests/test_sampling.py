"""How minibatches are drawn."""

import jax
import jax.numpy as jnp
import numpy as np

from spot_jax.core.sampling import uniform_indices


def test_indices_are_the_drawn_bits_modulo_the_size():
    """The very numbers: a run's data order, and so its results to the byte, depend on them."""
    bits = np.asarray(jax.random.bits(jax.random.key(3), (4, 5)))
    found = uniform_indices(jax.random.key(3), (4, 5), 7)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, bits % 7)


def test_every_index_comes_equally_often():
    counts = np.bincount(uniform_indices(jax.random.key(0), (20_000,), 10), minlength=10)
    assert len(counts) == 10
    assert np.abs(counts - 2000).max() < 200  # 4.7 standard deviations
