"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905): squashed Gaussian, twin critics, learned temperature.

All randomness enters through `Noise`, so that an update is a pure function.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.behavior.policy import LOG_STD_RANGE
from spot_jax.core.networks import MLP, DoubleCritic
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition


class SAC(NamedTuple):
    """The static parts: networks and hyperparameters."""

    actor: MLP  # to the mean and the raw log-deviation of each action, 2 * A values
    critic: DoubleCritic
    action_dim: int
    policy_freq: int = 2  # F, critic updates per update of the policy, the temperature and the targets
    lr: float = 3e-4
    discount: float = 0.99
    tau: float = 0.005
    initial_temperature: float = 1.0

    @property
    def target_entropy(self) -> float:
        """−A nats, as its authors have it."""
        return -float(self.action_dim)


class SACState(struct.PyTreeNode):
    """Everything that learns."""

    actor: TrainState
    critic: TargetTrainState
    temperature: TrainState  # log α


class Noise(NamedTuple):
    """The random numbers of a block of F critic updates and one policy update, standard normal."""

    target: Array  # [F, B, A], for the next actions
    actor: Array  # [B, A]


def draw_noise(key: Array, sac: SAC, batch_size: int) -> Noise:
    """Draws a block's noise; the key is consumed."""
    noise = jax.random.normal(key, (sac.policy_freq + 1, batch_size, sac.action_dim))
    return Noise(noise[:-1], noise[-1])


def init(key: Array, sac: SAC, observation_dim: int) -> SACState:
    """Fresh networks, with the target critics equal to the critics; the key is consumed."""
    actor_key, critic_key = jax.random.split(key)
    observations = jnp.zeros((1, observation_dim))
    actor_params = sac.actor.init(actor_key, observations)
    critic_params = sac.critic.init(critic_key, observations, jnp.zeros((1, sac.action_dim)))
    return SACState(
        actor=TrainState.create(actor_params),
        critic=TargetTrainState.create(critic_params),
        temperature=TrainState.create(jnp.log(sac.initial_temperature)),
    )


def sample_actions(params: Params, sac: SAC, observations: Array, noise: Array) -> tuple[Array, Array]:
    """Actions `[..., A]` in (-1, 1) made from `noise` `[..., A]`, and their log-density `[...]` in nats.

    log π(a|s) = log N(u; mean, std²) − Σ log(1 − tanh²u), in a form that stays finite for large |u|.
    """
    mean, raw = jnp.split(sac.actor.apply(params, observations), 2, axis=-1)
    low, high = LOG_STD_RANGE
    log_std = low + 0.5 * (high - low) * (jnp.tanh(raw) + 1)
    u = mean + jnp.exp(log_std) * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    log_slope = 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))
    return jnp.tanh(u), jnp.sum(gaussian - log_slope, axis=-1)


def target_values(state: SACState, sac: SAC, batch: Transition, noise: Array) -> Array:
    """r + γ·mask·(min Q̄(s', a') − α·log π(a'|s')), a' ~ π(s'), in the shape of `batch.rewards`.

    A row of n steps has Σ γ^i r_i as its reward and γ^(n−1) in its mask.
    """
    next_actions, log_probs = sample_actions(state.actor.params, sac, batch.next_observations, noise)
    next_q = jnp.min(sac.critic.apply(state.critic.target_params, batch.next_observations, next_actions), axis=0)
    next_value = next_q - jnp.exp(state.temperature.params) * log_probs
    return batch.rewards + sac.discount * batch.masks * next_value


def critic_loss_fn(params: Params, sac: SAC, batch: Transition, target_q: Array) -> tuple[Array, Metrics]:
    """The sum over both critics of the mean squared error to `target_q` [B]."""
    q = sac.critic.apply(params, batch.observations, batch.actions)
    loss = jnp.sum(jnp.mean((q - target_q[None]) ** 2, axis=-1))
    return loss, {'critic_loss': loss, 'q': jnp.mean(q)}


def actor_loss_fn(
    params: Params, sac: SAC, critic_params: Params, temperature: Array, observations: Array, noise: Array
) -> tuple[Array, Metrics]:
    """mean(α·log π(a|s) − min Q(s, a)), a ~ π(s). Only the policy's parameters get gradients."""
    actions, log_probs = sample_actions(params, sac, observations, noise)
    q = jnp.min(sac.critic.apply(critic_params, observations, actions), axis=0)
    loss = jnp.mean(temperature * log_probs - q)
    return loss, {'actor_loss': loss, 'entropy': -jnp.mean(log_probs)}


def temperature_loss_fn(log_temperature: Array, sac: SAC, entropy: Array) -> Array:
    """log α·(entropy − target entropy): the temperature rises while the policy is too sure of itself."""
    return log_temperature * (entropy - sac.target_entropy)


def update(state: SACState, sac: SAC, batches: Transition, noise: Noise) -> tuple[SACState, Metrics]:
    """A block: F critic steps on `batches` [F, B, ...], then policy, temperature and targets on the last minibatch.

    Nothing that the target values depend on moves within a block, so they are computed at once.
    """
    target_q = target_values(state, sac, batches, noise.target)
    critic = state.critic
    for i in range(sac.policy_freq):
        batch = jax.tree.map(lambda x, i=i: x[i], batches)
        grads, critic_metrics = jax.grad(critic_loss_fn, has_aux=True)(critic.params, sac, batch, target_q[i])
        critic = critic.apply_gradients(grads, sac.lr)
    temperature = jnp.exp(state.temperature.params)
    grads, actor_metrics = jax.grad(actor_loss_fn, has_aux=True)(
        state.actor.params, sac, critic.params, temperature, batch.observations, noise.actor
    )
    slope = jax.grad(temperature_loss_fn)(state.temperature.params, sac, actor_metrics['entropy'])
    new = SACState(
        actor=state.actor.apply_gradients(grads, sac.lr),
        critic=critic.update_target(sac.tau),
        temperature=state.temperature.apply_gradients(slope, sac.lr),
    )
    return new, critic_metrics | actor_metrics | {'temperature': temperature}
