"""TD3 with a pluggable regulariser in the actor loss: with `support` it is SPOT (paper, Eq. 8 and Alg. 1).

The update is written for one member; `training` vmaps it over a population. All randomness enters through `Noise`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.networks import Actor, DoubleCritic, twice
from spot_jax.regularizers import Regularizer
from spot_jax.train_state import TargetTrainState
from spot_jax.types import Array, Metrics, Params, Transition


class Hyperparameters(NamedTuple):
    """The traced hyperparameters: scalars here, arrays over a population. Any of them can span a grid."""

    regularizer_weight: Array  # λ
    actor_lr: Array
    critic_lr: Array
    discount: Array  # γ
    beta: Array  # weight of the CVAE's KL term, which also sets its decoder's variance
    tau: Array
    policy_noise: Array  # standard deviation of the target policy's noise
    noise_clip: Array


class TD3(NamedTuple):
    """The static parts: networks, regulariser and switches."""

    actor: Actor
    critic: DoubleCritic
    regularizer: Regularizer
    policy_freq: int = 2  # F, critic updates per actor update
    normalize_q: bool = True  # divide the actor's Q by its mean magnitude


class TD3State(struct.PyTreeNode):
    """Everything that learns."""

    actor: TargetTrainState
    critic: TargetTrainState


class Noise(NamedTuple):
    """The random numbers of one block of F critic updates and one actor update: a test can feed its own."""

    target: Array  # [F, B, A] standard normal, for the target policy's noise
    regularizer: Array  # [B, *regularizer.noise_shape] standard normal
    target_dropout: Array  # a key
    actor_dropout: Array  # a key


def draw_noise(key: Array, td3: TD3, batch_size: int) -> Noise:
    """Draws a block's noise; the key is consumed."""
    target_key, regularizer_key, target_dropout, actor_dropout = jax.random.split(key, 4)
    target = jax.random.normal(target_key, (td3.policy_freq, batch_size, td3.actor.action_dim))
    regularizer = jax.random.normal(regularizer_key, (batch_size, *td3.regularizer.noise_shape))
    return Noise(target, regularizer, target_dropout, actor_dropout)


def init(key: Array, td3: TD3, observation_dim: int) -> TD3State:
    """Fresh networks, with targets equal to them; the key is consumed."""
    actor_key, critic_key = jax.random.split(key)
    observations = jnp.zeros((1, observation_dim))
    actor_params = td3.actor.init(actor_key, observations)
    critic_params = td3.critic.init(critic_key, observations, jnp.zeros((1, td3.actor.action_dim)))
    return TD3State(
        actor=TargetTrainState.create(actor_params, target_params=actor_params),
        critic=TargetTrainState.create(critic_params, target_params=critic_params),
    )


def target_values(state: TD3State, td3: TD3, batch: Transition, noise: Noise, hypers: Hyperparameters) -> Array:
    """r + γ·mask·min Q̄(s', clip(π̄(s') + clipped noise)), in the shape of `batch.rewards`.

    The target policy keeps its dropout, as in the authors' code, where it is never put in evaluation mode.
    """
    next_actions = td3.actor.apply(
        state.actor.target_params, batch.next_observations, deterministic=False, rngs={'dropout': noise.target_dropout}
    )
    clipped = jnp.clip(hypers.policy_noise * noise.target, -hypers.noise_clip, hypers.noise_clip)
    next_actions = jnp.clip(next_actions + clipped, -1.0, 1.0)
    next_q = td3.critic.apply(state.critic.target_params, batch.next_observations, next_actions)
    return batch.rewards + hypers.discount * batch.masks * jnp.min(next_q, axis=0)


def critic_loss_fn(params: Params, td3: TD3, batch: Transition, target_q: Array) -> tuple[Array, Metrics]:
    """The sum over both critics of the mean squared error to `target_q` [B]; metrics are per state, `[B]`."""
    inputs = jnp.concatenate([batch.observations, batch.actions], axis=-1)  # neighbours in a row: no copy
    q = td3.critic.apply(params, twice(inputs), method='of_inputs')
    losses = jnp.sum((q - target_q[None]) ** 2, axis=0)
    return jnp.mean(losses), {'critic_loss': losses, 'q': jnp.mean(q, axis=0)}


def actor_loss_fn(
    params: Params,
    td3: TD3,
    critic_params: Params,
    density_params: Params,
    batch: Transition,
    noise: Noise,
    hypers: Hyperparameters,
) -> tuple[Array, Metrics]:
    """−mean Q1(s, π(s)) / mean |Q1|, plus λ times the mean penalty; metrics are per state, `[B]`.

    Only the actor's parameters get gradients.
    """
    actions = td3.actor.apply(params, batch.observations, deterministic=False, rngs={'dropout': noise.actor_dropout})
    q1 = td3.critic.first(critic_params, batch.observations, actions)
    magnitude = jax.lax.stop_gradient(jnp.mean(jnp.abs(q1)))
    scale = 1.0 / magnitude if td3.normalize_q else 1.0
    penalty = td3.regularizer.penalty(density_params, batch, actions, noise.regularizer, hypers.beta)
    losses = -scale * q1 + hypers.regularizer_weight * penalty
    return jnp.mean(losses), {'actor_loss': losses, 'actor_q': q1, 'q_magnitude': jnp.abs(q1), 'penalty': penalty}


def update_critic(
    state: TD3State, td3: TD3, batch: Transition, target_q: Array, hypers: Hyperparameters
) -> tuple[TD3State, Metrics]:
    """One critic step on a minibatch; the actor, its optimiser and the targets stay as they are."""
    grads, metrics = jax.grad(critic_loss_fn, has_aux=True)(state.critic.params, td3, batch, target_q)
    return state.replace(critic=state.critic.apply_gradients(grads, hypers.critic_lr)), metrics


def update_actor(
    state: TD3State, td3: TD3, density_params: Params, batch: Transition, noise: Noise, hypers: Hyperparameters
) -> tuple[TD3State, Metrics]:
    """One actor step on a minibatch, then both targets move by τ."""
    grads, metrics = jax.grad(actor_loss_fn, has_aux=True)(
        state.actor.params, td3, state.critic.params, density_params, batch, noise, hypers
    )
    actor = state.actor.apply_gradients(grads, hypers.actor_lr)
    return TD3State(actor.update_target(hypers.tau), state.critic.update_target(hypers.tau)), metrics


def update(
    state: TD3State, td3: TD3, density_params: Params, batches: Transition, noise: Noise, hypers: Hyperparameters
) -> tuple[TD3State, Metrics]:
    """A block: F critic steps on `batches` [F, B, ...], then the actor and the targets on the last minibatch.

    The targets do not move within a block, so the target values of all its minibatches are computed at once. Metrics
    are per state, `[B]`: whoever runs many blocks takes all their means in one go.
    """
    target_q = target_values(state, td3, batches, noise, hypers)
    history = []
    for i in range(td3.policy_freq):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], batches)
        state, critic_metrics = update_critic(state, td3, one, target_q[i : i + 1], hypers)
        history.append(jax.tree.map(lambda x: x[0], critic_metrics))
    # Without a barrier they would read the old biases late, which must be copied for it.
    critic_metrics = jax.lax.optimization_barrier(jax.tree.map(lambda *xs: sum(xs) / len(xs), *history))
    batch = jax.tree.map(lambda x: x[-1], batches)
    state, actor_metrics = update_actor(state, td3, density_params, batch, noise, hypers)
    return state, critic_metrics | actor_metrics
