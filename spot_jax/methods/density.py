"""The behaviour density log π_β(a|s): a conditional VAE's loss and its estimators (SPOT, Sec. 4.1 and App. B).

The decoder is the density N(decode(s, z), σ²I). With the loss's means over dimensions, the training loss is
(2σ²/A)·(−ELBO) plus a constant when σ² = β·A/(2·Z), which is β/4 at the default Z = 2·A.

All functions take the noise that makes latents, z = mean + std·noise, so that they are deterministic.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spot_jax.core import xla
from spot_jax.core.method import Data, Stage
from spot_jax.core.networks import CVAE
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.train_state import TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack

# (cvae, params, observations [B, O], actions [B, A], noise [B, L, Z], beta) -> [B]
Estimator = Callable[[CVAE, Params, Array, Array, Array, Array], Array]


class Density(NamedTuple):
    """A trained density of one member: what `spot_jax.load_density` takes."""

    cvae: CVAE
    params: Params
    beta: Array


def kl_divergence(mean: Array, std: Array) -> Array:
    """KL(N(mean, std²) ‖ N(0, 1)) of each dimension, `[..., Z]`."""
    return 0.5 * (mean**2 + std**2 - 1 - 2 * jnp.log(std))


def cvae_loss_fn(
    params: Params, cvae: CVAE, batch: Transition, noise: Array, beta: Array | float
) -> tuple[Array, Metrics]:
    """The training loss recon + β·KL on a minibatch, with one latent sample from `noise` [B, Z].

    Reconstruction and KL are means over the batch *and* over dimensions, as the authors' code does.
    """
    mean, std = cvae.apply(params, batch.observations, batch.actions, method='encode')
    decoded = cvae.apply(params, batch.observations, mean + std * noise, method='decode')
    recon_loss = jnp.mean((decoded - batch.actions) ** 2)
    kl_loss = jnp.mean(kl_divergence(mean, std))
    loss = recon_loss + beta * kl_loss
    return loss, {'cvae_loss': loss, 'recon_loss': recon_loss, 'kl_loss': kl_loss}


class CVAEStage(NamedTuple):
    """How the CVAE is trained before the policies."""

    cvae: CVAE
    observation_dim: int
    batch_size: int
    lr: float
    num_steps: int


def init_cvae(key: Array, cvae: CVAE, observation_dim: int) -> TrainState:
    """A fresh CVAE; the key is consumed."""
    inputs = (jnp.zeros((1, size)) for size in (observation_dim, cvae.action_dim, cvae.num_latents))
    return TrainState.create(cvae.init(key, *inputs))


def draw_cvae(key: Array, data: Data, stage: CVAEStage) -> tuple[Transition, Array]:
    """A minibatch [B, ...] and the noise [B, Z] of one step of the CVAE; the key is consumed."""
    index_key, noise_key = jax.random.split(key)
    rows = uniform_rows(index_key, data, (stage.batch_size,))
    batch = unpack(rows, stage.observation_dim, stage.cvae.action_dim)
    return batch, jax.random.normal(noise_key, (stage.batch_size, stage.cvae.num_latents))


def update_cvae(
    state: TrainState, cvae: CVAE, batch: Transition, noise: Array, beta: Array | float, lr: Array | float
) -> tuple[TrainState, Metrics]:
    """One gradient step; metrics are of the whole minibatch."""
    return state.minimize(cvae_loss_fn, lr, cvae, batch, noise, beta)


def cvae_stage(trained: CVAEStage, beta: Callable[[Any], Array | float], fields: tuple[str, ...]) -> Stage:
    """The CVAE as the population takes it, with β from a member's hyperparameters; what it comes to are its parameters.

    Its metrics are `[1]`; `fields` are a `Stage`'s.
    """

    def update(
        state: TrainState, shared: Any, drawn: tuple[Transition, Array], hypers: Any, step: Array
    ) -> tuple[TrainState, Metrics]:
        del shared, step
        state, metrics = update_cvae(state, trained.cvae, *drawn, beta(hypers), trained.lr)
        return state, {name: value[None] for name, value in metrics.items()}

    return Stage(
        name='cvae',
        num_steps=trained.num_steps,
        init=lambda key: init_cvae(key, trained.cvae, trained.observation_dim),
        draw=lambda key, data: draw_cvae(key, data, trained),
        update=update,
        result=lambda learner, shared: learner.params,
        steps=(1,),
        fields=fields,
    )


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
    kl = kl_divergence(mean, std)
    return xla.sum_of(jnp.mean(error, axis=1) / cvae.action_dim, beta * kl / cvae.num_latents)


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
