"""The estimators against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.core.networks import CVAE
from spot_jax.methods import density


@pytest.fixture(scope='module', params=[None, 3])
def cvae(request):
    net = CVAE(2, (8,), request.param)
    params = net.init(jax.random.key(0), jnp.zeros((1, 4)), jnp.zeros((1, 2)), jnp.zeros((1, net.num_latents)))
    return net, params


def inputs(net, num_samples):
    keys = jax.random.split(jax.random.key(1), 3)
    noise = jax.random.normal(keys[2], (5, num_samples, net.num_latents))
    return jax.random.normal(keys[0], (5, 4)), jax.random.uniform(keys[1], (5, 2), minval=-1), noise


def test_kl_by_hand():
    # ½(μ² + σ² − 1 − ln σ²)
    value = density.kl_divergence(jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(value, [0.0, 0.5 * (1 + 4 - 1) - math.log(2)], rtol=1e-6)


def test_decoder_variance_is_a_quarter_of_beta_by_default():
    assert density.decoder_variance(CVAE(3), 0.5) == pytest.approx(0.125)
    assert density.decoder_variance(CVAE(3, latent_dim=4), 0.5) == pytest.approx(0.5 * 3 / 8)


def test_loss_form_is_a_scaled_negative_elbo(cvae):
    net, params = cvae
    args = (net, params, *inputs(net, 3), jnp.float32(0.5))
    variance = density.decoder_variance(net, 0.5)
    constant = math.log(2 * math.pi * variance)
    expected = 2 * variance / 2 * (-density.elbo(*args)) - variance * constant
    np.testing.assert_allclose(density.elbo_loss(*args), expected, rtol=1e-4, atol=1e-6)


def test_importance_weighted_tightens_with_more_samples(cvae):
    net, params = cvae
    many = lambda num: np.mean(density.importance_weighted(net, params, *inputs(net, num), jnp.float32(0.5)))
    elbo = np.mean(density.elbo(net, params, *inputs(net, 4000), jnp.float32(0.5)))
    assert many(4000) >= elbo
    assert many(4000) >= np.mean([many(1), elbo]) - 0.05


def test_importance_weighted_equals_numerical_integral():
    net = CVAE(1, (8,), 1)
    params = net.init(jax.random.key(0), jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    s, a, beta = jnp.array([[0.3]]), jnp.array([[-0.2]]), 0.5
    z = jnp.linspace(-8, 8, 4001)[:, None]
    mean = np.asarray(net.apply(params, jnp.full((4001, 1), 0.3), z, method='decode'))[:, 0]
    variance = beta / 2  # β·A / (2·Z)
    likelihood = np.exp(-0.5 * (-0.2 - mean) ** 2 / variance) / math.sqrt(2 * math.pi * variance)
    prior = np.exp(-0.5 * np.asarray(z)[:, 0] ** 2) / math.sqrt(2 * math.pi)
    exact = math.log(np.sum(likelihood * prior) * 16 / 4000)
    noise = jax.random.normal(jax.random.key(2), (1, 50_000, 1))
    assert density.importance_weighted(net, params, s, a, noise, jnp.float32(beta))[0] == pytest.approx(exact, abs=0.02)
