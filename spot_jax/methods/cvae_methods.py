"""What BCQ, BEAR and PLAS have in common: the options of a CVAE, and a softened minimum of the target critics."""

from typing import Any

import jax.numpy as jnp

from spot_jax.core.fields import HIDDEN_DIMS, POSITIVE, SHARE, Field, flag, optional, whole
from spot_jax.core.networks import CVAE, Actor
from spot_jax.core.types import Array, Metrics, Params, Transition
from spot_jax.methods.density import Density

FIELDS = {
    'cvae_hidden_dims': Field((750, 750), HIDDEN_DIMS, 'units of each hidden layer, of encoder and decoder'),
    'cvae_latent_dim': Field(None, optional(whole(1)), 'None: twice the action dimension'),
    'beta': Field(0.5, POSITIVE, "β, weight of the CVAE's KL term"),
    'discount': Field(0.99, SHARE, 'γ'),
    'tau': Field(0.005, SHARE, "the targets' step towards the networks, at each update"),
    'min_weight': Field(0.75, SHARE, "weight of the smaller critic's value in the target, the rest the larger's"),
    'normalize_observations': Field(False, flag(), '(s − mean) / (std + 1e-3)'),
}
POLICY_FIELDS = ('hidden_dims', 'cvae_hidden_dims', 'cvae_latent_dim', 'normalize_observations')
# Ours, for the small mazes: a CVAE like SPOT's there, and targets that move faster.
POINTMAZE: dict[str, Any] = {'cvae_hidden_dims': (256, 256), 'cvae_lr': 1e-3, 'tau': 0.02}
CLIP = 0.5  # bound of the latents that actions are decoded from, where they are drawn


def cvae_of(options: Any, action_dim: int) -> CVAE:
    """The CVAE of a method's options."""
    return CVAE(action_dim, tuple(options.cvae_hidden_dims), options.cvae_latent_dim)


def density_of(options: Any, observation_dim: int, action_dim: int, learner: Any, shared: Any, hypers: Any) -> Density:
    """The behaviour's density of a method whose CVAE learns beside its policy."""
    return Density(cvae_of(options, action_dim), learner.cvae.params, hypers.beta)


def per_state(metrics: Metrics, batch: Transition) -> Metrics:
    """Metrics of a whole minibatch, given for each of its states, `[B]`."""
    return {name: jnp.broadcast_to(value, batch.rewards.shape) for name, value in metrics.items()}


def repeated(observations: Array, count: int) -> Array:
    """Observations `[..., O]` as `[..., count, O]`."""
    return jnp.repeat(observations[..., None, :], count, axis=-2)


def perturbed(actor: Actor, params: Params, observations: Array, actions: Array, phi: Array) -> Array:
    """clip(a + φ·ξ(s, a)) in [-1, 1], `[..., A]`, with ξ the network's output."""
    moves = actor.apply(params, jnp.concatenate([observations, actions], axis=-1))
    return jnp.clip(actions + phi * moves, -1.0, 1.0)


def soft_min(q: Array, min_weight: Array) -> Array:
    """Of values `[2, ...]` of twin critics, the weighted mean of the smaller and the larger, `[...]`."""
    return min_weight * jnp.min(q, axis=0) + (1 - min_weight) * jnp.max(q, axis=0)
