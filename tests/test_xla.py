"""The devices of the training step, by numbers; that they change no arithmetic, `test_golden` tells."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from test_methods import small

from spot_jax.core import xla
from spot_jax.core.networks import orthogonal
from spot_jax.methods import METHODS
from spot_jax.run.build import build


@pytest.mark.parametrize('shape', [(64, 64), (9, 64), (64, 1)])
def test_orthogonal_kernels_are_flaxs(shape):
    kernel_init, _ = orthogonal(shape[0])
    found = kernel_init(jax.random.key(3), shape)
    np.testing.assert_allclose(found, nn.initializers.orthogonal(2**0.5)(jax.random.key(3), shape), atol=2e-5)


def test_orthonormal_columns():
    columns = jax.jit(jax.vmap(lambda key: xla.orthonormal(key, (256, 256))))(jax.random.split(jax.random.key(0), 2))
    gram = np.einsum('bij,bik->bjk', columns, columns)
    np.testing.assert_allclose(gram, np.stack([np.eye(256)] * 2), atol=1e-5)
    assert np.abs(columns[0] - columns[1]).max() > 0.1


@pytest.mark.parametrize('name', METHODS)
def test_nothing_is_factorised(name):
    """jax's batched factorisations can hang on a CPU with few threads, see `xla.orthonormal`."""
    assert re.search(r' = cholesky[\[ ]', str(jax.make_jaxpr(jnp.linalg.cholesky)(jnp.eye(2))))  # it would be seen
    parts = build(small(name), 4, 2)
    for part in (parts.algorithm, *parts.stages):
        program = str(jax.make_jaxpr(jax.vmap(part.init))(jax.random.split(jax.random.key(0), 2)))
        for primitive in ('qr', 'svd', 'cholesky', 'eigh', 'lu', 'geqrf', 'householder_product'):
            assert re.search(rf' = {primitive}[\[ ]', program) is None


def test_sums_of_terms():
    np.testing.assert_allclose(xla.sum_of(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0, 5.0]])), [15.0])


def test_an_option_that_xla_does_not_know_is_left_out_with_one_warning(monkeypatch):
    known = xla.COMPILER_OPTIONS['cpu']
    monkeypatch.setitem(xla.COMPILER_OPTIONS, 'cpu', {'xla_no_such_option': 1, **known})
    xla.compiler_options.cache_clear()
    with pytest.warns(UserWarning, match='does not know xla_no_such_option: training goes on without') as warned:
        assert xla.compiler_options('cpu') == xla.compiler_options('cpu') == known
    assert len(warned) == 1
    xla.compiler_options.cache_clear()
