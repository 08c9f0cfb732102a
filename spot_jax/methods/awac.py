"""AWAC (Nair et al., 2020): actor-critic whose policy is regressed on the data's actions, weighted by their advantage.

It follows CORL's `awac.py`, whose numbers the tests hold and whose scores on these tasks are the higher ones. The
authors' code (rlkit) differs: weights are a softmax over the minibatch, times its size, not clipped exponentials, so
its temperature (2) is not comparable; the advantage is that of the critics before their step; the mean goes through
tanh and the log standard deviation through a sigmoid; the policy has 4 layers and weight decay 1e-4, critics have 2;
minibatches are of 1024; and the offline phase is short, 50,000 updates. Evaluations clip the policy's mean to the
actions' bounds, which both leave to the environment.

Online nothing changes but the data, and actions are the policy's samples.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.core.fields import HIDDEN_DIMS, POSITIVE, SHARE, Field, flag, whole
from spot_jax.core.losses import critic_loss_fn
from spot_jax.core.method import Algorithm, Data, Method
from spot_jax.core.networks import DoubleCritic, GaussianActor, gaussian_log_prob
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack


class Hyperparameters(NamedTuple):
    """The traced hyperparameters, scalars."""

    actor_lr: Array
    critic_lr: Array
    discount: Array
    tau: Array
    temperature: Array  # λ: a weight is exp(advantage / λ) ...
    max_weight: Array  # ... up to this


class AWAC(NamedTuple):
    """The static parts."""

    actor: GaussianActor
    critic: DoubleCritic


class AWACState(struct.PyTreeNode):
    """Everything that learns."""

    actor: TrainState
    critic: TargetTrainState


class Noise(NamedTuple):
    """The random numbers of one update, standard normal."""

    target: Array  # [B, A], for actions at the next states
    actor: Array  # [B, A], for those that the data's are compared with


def init(key: Array, awac: AWAC, observation_dim: int) -> AWACState:
    """Fresh networks, with targets equal to them; the key is consumed."""
    actor_key, critic_key = jax.random.split(key)
    observations = jnp.zeros((1, observation_dim))
    critic_params = awac.critic.init(critic_key, observations, jnp.zeros((1, awac.actor.action_dim)))
    return AWACState(
        actor=TrainState.create(awac.actor.init(actor_key, observations)),
        critic=TargetTrainState.create(critic_params),
    )


def sample(params: Params, awac: AWAC, observations: Array, noise: Array) -> Array:
    """Actions `[..., A]` of the policy, clipped to [-1, 1], from standard normal noise."""
    mean, log_std = awac.actor.apply(params, observations)
    return jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)


def target_values(state: AWACState, awac: AWAC, batch: Transition, noise: Noise, hypers: Hyperparameters) -> Array:
    """r + γ·mask·min Q̄(s', a'), a' a sample of the policy, `[B]`; there is no target policy."""
    next_actions = sample(state.actor.params, awac, batch.next_observations, noise.target)
    next_q = awac.critic.apply(state.critic.target_params, batch.next_observations, next_actions)
    return batch.rewards + hypers.discount * batch.masks * jnp.min(next_q, axis=0)


def advantages(state: AWACState, awac: AWAC, batch: Transition, noise: Noise) -> Array:
    """min Q(s, a) − min Q(s, u), u a sample of the policy, `[B]`."""
    policy_actions = sample(state.actor.params, awac, batch.observations, noise.actor)
    value = lambda actions: jnp.min(awac.critic.apply(state.critic.params, batch.observations, actions), axis=0)
    return value(batch.actions) - value(policy_actions)


def actor_loss_fn(
    params: Params, awac: AWAC, batch: Transition, advantage: Array, hypers: Hyperparameters
) -> tuple[Array, Metrics]:
    """The mean of −min(exp(advantage / λ), bound)·log π(a|s), given advantages [B]; metrics are per state, `[B]`."""
    weight = jnp.minimum(jnp.exp(advantage / hypers.temperature), hypers.max_weight)
    mean, log_std = awac.actor.apply(params, batch.observations)
    log_prob = gaussian_log_prob(mean, log_std, batch.actions)
    losses = -weight * log_prob
    return jnp.mean(losses), {'actor_loss': losses, 'log_prob': log_prob, 'advantage': advantage, 'weight': weight}


def update(
    state: AWACState, awac: AWAC, batch: Transition, noise: Noise, hypers: Hyperparameters
) -> tuple[AWACState, Metrics]:
    """A critic step, an actor step with the advantages of the new critics, and the targets move by τ."""
    target_q = target_values(state, awac, batch, noise, hypers)
    critic, critic_metrics = state.critic.minimize(critic_loss_fn, hypers.critic_lr, awac.critic, batch, target_q)
    state = state.replace(critic=critic)
    advantage = advantages(state, awac, batch, noise)
    actor, actor_metrics = state.actor.minimize(actor_loss_fn, hypers.actor_lr, awac, batch, advantage, hypers)
    return AWACState(actor, critic.update_target(hypers.tau)), critic_metrics | actor_metrics


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The algorithm of these options."""
    hidden_dims = tuple(options.hidden_dims)
    awac = AWAC(GaussianActor(action_dim, hidden_dims), DoubleCritic(hidden_dims))

    def draw_for(key: Array, rows: Array) -> tuple[Transition, Noise]:
        noise = (jax.random.normal(one, (options.batch_size, action_dim)) for one in jax.random.split(key))
        return unpack(rows[0], observation_dim, action_dim), Noise(*noise)

    def draw(key: Array, data: Data) -> tuple[Transition, Noise]:
        index_key, noise_key = jax.random.split(key)
        return draw_for(noise_key, uniform_rows(index_key, data, (1, options.batch_size)))

    return Algorithm(
        init=lambda key: init(key, awac, observation_dim),
        draw=draw,
        update=lambda learner, shared, drawn, hypers, step: update(learner, awac, drawn[0], drawn[1], hypers),
        policy=lambda learner, shared, hypers: learner.actor.params,
        act=lambda policy, memory, observation, reward: (
            jnp.clip(awac.actor.apply(policy, observation)[0], -1.0, 1.0),
            memory,
        ),
        steps=(1, 1),
        explore=lambda policy, observation, noise, scale: sample(policy, awac, observation, noise),
        draw_for=draw_for,
    )


METHOD = Method(
    title=lambda options: 'AWAC',
    hyperparameters=Hyperparameters,
    fields={
        'batch_size': Field(256, whole(1), 'transitions in a minibatch'),
        'hidden_dims': Field((256, 256, 256), HIDDEN_DIMS, 'units of each hidden layer, of policy and critics'),
        'actor_lr': Field(3e-4, POSITIVE, "the policy's learning rate"),
        'critic_lr': Field(3e-4, POSITIVE, "the critics' learning rate"),
        'discount': Field(0.99, SHARE, 'γ'),
        'tau': Field(0.005, SHARE, "the targets' step towards the critics, at each update"),
        'temperature': Field(0.3333, POSITIVE, 'λ: actions weigh exp(advantage / λ) ...'),
        'max_weight': Field(100.0, POSITIVE, '... up to this'),
        'normalize_observations': Field(True, flag(), '(s − mean) / (std + 1e-3)'),
    },
    presets={'maze': {'temperature': 0.1}},
    metrics=('critic_loss', 'q', 'q_magnitude', 'actor_loss', 'log_prob', 'advantage', 'weight'),
    make=make,
    policy_fields=('hidden_dims', 'normalize_observations'),
    samples=True,
)
