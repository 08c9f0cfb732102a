"""The behaviour density log π_β(a|s): a conditional VAE's loss and its estimators (SPOT, Sec. 4.1 and App. B).

The decoder is the density N(decode(s, z), σ²I). With the loss's means over dimensions, the training loss is
(2σ²/A)·(−ELBO) plus a constant when σ² = β·A/(2·Z), which is β/4 at the default Z = 2·A.

All functions take the noise that makes latents, z = mean + std·noise, so that they are deterministic.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from spot_jax.core.networks import CVAE
from spot_jax.core.types import Array, Metrics, Params, Transition

# (cvae, params, observations [B, O], actions [B, A], noise [B, L, Z], beta) -> [B]
Estimator = Callable[[CVAE, Params, Array, Array, Array, Array], Array]


def kl_divergence(mean: Array, std: Array) -> Array:
    """KL(N(mean, std²) ‖ N(0, 1)) of each dimension, `[..., Z]`."""
    return 0.5 * (mean**2 + std**2 - 1 - 2 * jnp.log(std))


def cvae_loss_fn(params: Params, cvae: CVAE, batch: Transition, noise: Array, beta: Array) -> tuple[Array, Metrics]:
    """The training loss recon + β·KL on a minibatch, with one latent sample from `noise` [B, Z].

    Reconstruction and KL are means over the batch *and* over dimensions, as the authors' code does.
    """
    mean, std = cvae.apply(params, batch.observations, batch.actions, method='encode')
    decoded = cvae.apply(params, batch.observations, mean + std * noise, method='decode')
    recon_loss = jnp.mean((decoded - batch.actions) ** 2)
    kl_loss = jnp.mean(kl_divergence(mean, std))
    loss = recon_loss + beta * kl_loss
    return loss, {'cvae_loss': loss, 'recon_loss': recon_loss, 'kl_loss': kl_loss}


def decoder_variance(cvae: CVAE, beta: Array) -> Array:
    """σ² for which the training loss is a scaled −ELBO: β·A/(2·Z)."""
    return beta * cvae.action_dim / (2 * cvae.num_latents)


def _sample(
    cvae: CVAE, params: Params, observations: Array, actions: Array, noise: Array
) -> tuple[Array, Array, Array, Array]:
    """Encodes once and decodes L samples: mean and std [B, Z], latents [B, L, Z], squared errors [B, L, A]."""
    mean, std = cvae.apply(params, observations, actions, method='encode')
    latents = mean[:, None] + std[:, None] * noise
    decode = jax.vmap(lambda z: cvae.apply(params, observations, z, method='decode'), in_axes=1, out_axes=1)
    return mean, std, latents, (decode(latents) - actions[:, None]) ** 2


def elbo_loss(cvae: CVAE, params: Params, observations: Array, actions: Array, noise: Array, beta: Array) -> Array:
    """The loss form of −ELBO that the actor loss uses, `[B]`: means over samples and dimensions.

    It is −ELBO times 2σ²/A, plus a constant.
    """
    mean, std, _, error = _sample(cvae, params, observations, actions, noise)
    # One sum over both terms' dimensions, since two would be two kernels.
    terms = (jnp.mean(error, axis=1) / cvae.action_dim, beta * kl_divergence(mean, std) / cvae.num_latents)
    return jnp.sum(jnp.concatenate(terms, axis=-1), axis=-1)


def _normal_log_prob(squared_error: Array, variance: Array) -> Array:
    """Σ over the last axis of log N(x; μ, σ²) from (x − μ)²."""
    return -0.5 * jnp.sum(squared_error / variance + jnp.log(2 * math.pi * variance), axis=-1)


def elbo(cvae: CVAE, params: Params, observations: Array, actions: Array, noise: Array, beta: Array) -> Array:
    """A lower bound of log π_β(a|s), `[B]` in nats: the mean over L samples of log p(a|s, z), minus KL."""
    mean, std, _, error = _sample(cvae, params, observations, actions, noise)
    log_prob = _normal_log_prob(error, decoder_variance(cvae, beta))
    return jnp.mean(log_prob, axis=1) - jnp.sum(kl_divergence(mean, std), axis=-1)


def importance_weighted(
    cvae: CVAE, params: Params, observations: Array, actions: Array, noise: Array, beta: Array
) -> Array:
    """A tighter bound of log π_β(a|s), `[B]` in nats: log (1/L) Σ p(a, z|s) / q(z|s, a) (poster, Eq. 6)."""
    _, std, latents, error = _sample(cvae, params, observations, actions, noise)
    one = jnp.ones(())
    log_weights = (
        _normal_log_prob(error, decoder_variance(cvae, beta))
        + _normal_log_prob(latents**2, one)
        - _normal_log_prob(noise**2, one)
        + jnp.sum(jnp.log(std), axis=-1)[:, None]  # q's density of z is that of the noise, over Π std
    )
    return jax.nn.logsumexp(log_weights, axis=1) - math.log(noise.shape[1])


ESTIMATORS: dict[str, Estimator] = {'elbo': elbo, 'importance_weighted': importance_weighted}
