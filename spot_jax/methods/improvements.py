"""Onestep's policies, its Q, and the ways in which it improves on the behaviour: one function and one line each.

Losses take (params of the policy, static parts, what the stages came to, what is drawn, hyperparameters).
"""

from typing import NamedTuple

import jax.numpy as jnp

from spot_jax.core.networks import MLP, gaussian_log_prob
from spot_jax.core.types import Array, Metrics, Params, Transition


class Hyperparameters(NamedTuple):
    """The traced hyperparameters, scalars; the first four are the stages'."""

    behavior_lr: Array
    critic_lr: Array
    discount: Array
    tau: Array
    actor_lr: Array
    kl_weight: Array  # of reverse_kl
    temperature: Array  # of exp_weight: multiplies the advantage
    max_weight: Array  # of exp_weight, of a transition


class Onestep(NamedTuple):
    """The static parts."""

    actor: MLP  # of behaviour and policy: observations to 2A numbers
    critic: MLP  # observations and actions to Q
    improvement: str


class Drawn(NamedTuple):
    """What a step of any phase takes from the data and from chance."""

    batch: Transition  # [B, ...]
    next_actions: Array  # [B, A], what the data did at the next states
    known: Array  # [B], 1 where it is known what that was, or does not matter
    noise: Array  # [1 + L, B, A] standard normal: the policy's action, and L actions that a mean is taken of; or none


def gaussian(onestep: Onestep, params: Params, observations: Array) -> tuple[Array, Array]:
    """Mean and log standard deviation, in [-5, 0], of a policy, `[..., A]` each."""
    mean, log_std = jnp.split(jnp.tanh(onestep.actor.apply(params, observations)), 2, axis=-1)
    return mean, -5 + 2.5 * (log_std + 1)


def value(onestep: Onestep, params: Params, observations: Array, actions: Array) -> Array:
    """Q(s, a), `[...]`; states [..., O] may have more than one action each, `[L, ..., A]`."""
    observations = jnp.broadcast_to(observations, (*actions.shape[:-1], observations.shape[-1]))
    return onestep.critic.apply(params, jnp.concatenate([observations, actions], axis=-1))[..., 0]


def reverse_kl_loss_fn(
    params: Params, onestep: Onestep, shared: Params, drawn: Drawn, hypers: Hyperparameters
) -> tuple[Array, Metrics]:
    """The mean of weight·KL(π, β) − Q(s, π's action), KL from L samples of π; metrics are per state, `[B]`."""
    observations = drawn.batch.observations
    mean, log_std = (x[None] for x in gaussian(onestep, params, observations))
    actions = mean + jnp.exp(log_std) * drawn.noise
    q = value(onestep, shared['critic'], observations, actions[0])
    behavior_mean, behavior_log_std = (x[None] for x in gaussian(onestep, shared['behavior'], observations))
    behavior_log_prob = gaussian_log_prob(behavior_mean, behavior_log_std, actions)
    kl = jnp.mean((gaussian_log_prob(mean, log_std, actions) - behavior_log_prob)[1:], axis=0)
    losses = hypers.kl_weight * kl - q
    return jnp.mean(losses), {'actor_loss': losses, 'actor_q': q, 'q_magnitude': jnp.abs(q), 'kl': kl}


def exp_weight_loss_fn(
    params: Params, onestep: Onestep, shared: Params, drawn: Drawn, hypers: Hyperparameters
) -> tuple[Array, Metrics]:
    """−mean min(exp(temperature·(Q(s, a) − V(s))), max_weight)·log π(a|s); metrics are per state, `[B]`.

    V is the mean Q of L actions of β.
    """
    batch = drawn.batch
    mean, log_std = (x[None] for x in gaussian(onestep, shared['behavior'], batch.observations))
    samples = mean + jnp.exp(log_std) * drawn.noise[1:]
    q = value(onestep, shared['critic'], batch.observations, batch.actions)
    advantage = q - jnp.mean(value(onestep, shared['critic'], batch.observations, samples), axis=0)
    weight = jnp.minimum(jnp.exp(hypers.temperature * advantage), hypers.max_weight)
    inside = jnp.clip(batch.actions, -1 + 1e-4, 1 - 1e-4)
    losses = -weight * gaussian_log_prob(*gaussian(onestep, params, batch.observations), inside)
    metrics = {'actor_loss': losses, 'actor_q': q, 'q_magnitude': jnp.abs(q), 'advantage': advantage}
    return jnp.mean(losses), metrics | {'weight': weight}


def easy_bcq_loss_fn(
    params: Params, onestep: Onestep, shared: Params, drawn: Drawn, hypers: Hyperparameters
) -> tuple[Array, Metrics]:
    """Nothing is learned; metrics are per state, `[B]`."""
    q = value(onestep, shared['critic'], drawn.batch.observations, drawn.batch.actions)
    return jnp.zeros(()), {'actor_q': q, 'q_magnitude': jnp.abs(q)}


def best_of(onestep: Onestep, shared: Params, observation: Array, noise: Array) -> Array:
    """Of the behaviour's actions [A], from normal noise [L, A] and clipped to [-1, 1], that of the largest Q."""
    mean, log_std = gaussian(onestep, shared['behavior'], observation[None])
    actions = jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)
    return actions[jnp.argmax(value(onestep, shared['critic'], observation[None], actions))]


IMPROVEMENTS = {'reverse_kl': reverse_kl_loss_fn, 'exp_weight': exp_weight_loss_fn, 'easy_bcq': easy_bcq_loss_fn}
