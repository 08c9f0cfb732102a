"""IQL, implicit Q-learning (Kostrikov et al. 2021): V learns an expectile of Q, and the policy copies good actions.

As the authors' code does it: V steps first, and both the policy's weights and the critics' targets take the new V;
the policy's weights take the target critics. Fine-tuning is the same update; in a run that goes on online the policy's
learning rate does not decay, offline either (one that `online.restore` takes over has decayed), and new rewards are
rescaled as the data's are, which that code leaves out on locomotion. Other codes differ: CORL takes the old V and half
the critics' loss.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.core.fields import HIDDEN_DIMS, POSITIVE, SHARE, SMALL, SOME_STEPS, Field, flag, optional, real, whole
from spot_jax.core.losses import critic_loss_fn
from spot_jax.core.method import Algorithm, Data, Method
from spot_jax.core.networks import MLP, DoubleCritic, GaussianActor, gaussian_log_prob, orthogonal
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack


class Hyperparameters(NamedTuple):
    """The traced hyperparameters: scalars here, arrays over a population."""

    value_lr: Array
    actor_lr: Array
    critic_lr: Array
    discount: Array  # γ
    tau: Array  # of the targets' average
    expectile: Array  # 0.5 is the mean, towards 1 the maximum over the data's actions
    temperature: Array  # β, which multiplies the advantage: 0 is behaviour cloning
    max_weight: Array  # of a transition in the policy's loss


class IQL(NamedTuple):
    """The static parts."""

    value: MLP
    actor: GaussianActor
    critic: DoubleCritic
    schedule_steps: int | None = None  # T, over which the policy's learning rate falls to 0; None: it stays


class IQLState(struct.PyTreeNode):
    """Everything that learns."""

    value: TrainState
    actor: TrainState
    critic: TargetTrainState


def init(key: Array, iql: IQL, observation_dim: int) -> IQLState:
    """Fresh networks, with targets equal to them; the key is consumed."""
    value_key, actor_key, critic_key = jax.random.split(key, 3)
    observations = jnp.zeros((1, observation_dim))
    critic_params = iql.critic.init(critic_key, observations, jnp.zeros((1, iql.actor.action_dim)))
    return IQLState(
        value=TrainState.create(iql.value.init(value_key, observations)),
        actor=TrainState.create(iql.actor.init(actor_key, observations)),
        critic=TargetTrainState.create(critic_params),
    )


def actor_rate(iql: IQL, rate: Array, step: Array) -> Array:
    """The policy's learning rate after `step` steps: half a cosine from `rate` to 0, where it then stays."""
    if iql.schedule_steps is None:
        return rate
    done = jnp.minimum(step / iql.schedule_steps, 1.0)
    return rate * 0.5 * (1 + jnp.cos(jnp.pi * done))


def expectile_loss(difference: Array, expectile: Array) -> Array:
    """|expectile − 1(difference ≤ 0)| · difference², elementwise."""
    return jnp.where(difference > 0, expectile, 1 - expectile) * difference**2


def values(iql: IQL, params: Params, observations: Array) -> Array:
    """V(s), `[B]`."""
    return iql.value.apply(params, observations)[..., 0]


def value_loss_fn(params: Params, iql: IQL, batch: Transition, min_q: Array, expectile: Array) -> tuple[Array, Metrics]:
    """The mean expectile loss of `min_q` [B], the smaller target critic's Q(s, a), to V(s); metrics are `[B]`."""
    v = values(iql, params, batch.observations)
    losses = expectile_loss(min_q - v, expectile)
    return jnp.mean(losses), {'value_loss': losses, 'v': v}


def actor_loss_fn(
    params: Params, iql: IQL, batch: Transition, advantage: Array, hypers: Hyperparameters
) -> tuple[Array, Metrics]:
    """−mean min(exp(β·advantage), max_weight) · log π(a|s) of the data's actions; metrics are per state, `[B]`."""
    mean, log_std = iql.actor.apply(params, batch.observations)
    weights = jnp.minimum(jnp.exp(hypers.temperature * advantage), hypers.max_weight)
    losses = -weights * gaussian_log_prob(mean, log_std, batch.actions)
    return jnp.mean(losses), {'actor_loss': losses, 'advantage': advantage}


def update(
    state: IQLState, iql: IQL, batch: Transition, hypers: Hyperparameters, step: Array
) -> tuple[IQLState, Metrics]:
    """One step of V, of the policy, of the critics and of their targets, in this order, on one minibatch [B, ...]."""
    min_q = jnp.min(iql.critic.apply(state.critic.target_params, batch.observations, batch.actions), axis=0)
    value, value_metrics = state.value.minimize(value_loss_fn, hypers.value_lr, iql, batch, min_q, hypers.expectile)

    advantage = min_q - values(iql, value.params, batch.observations)
    rate = actor_rate(iql, hypers.actor_lr, step)
    actor, actor_metrics = state.actor.minimize(actor_loss_fn, rate, iql, batch, advantage, hypers)

    next_v = values(iql, value.params, batch.next_observations)
    target_q = batch.rewards + hypers.discount * batch.masks * next_v
    critic, critic_metrics = state.critic.minimize(critic_loss_fn, hypers.critic_lr, iql.critic, batch, target_q)
    return IQLState(value, actor, critic.update_target(hypers.tau)), value_metrics | actor_metrics | critic_metrics


def explore(iql: IQL, params: Params, observation: Array, noise: Array) -> Array:
    """A sample of the policy from standard normal `noise` [A], clipped to [-1, 1]."""
    mean, log_std = iql.actor.apply(params, observation)
    return jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The method with its `fields`' values."""
    hidden_dims = tuple(options.hidden_dims)
    iql = IQL(
        value=MLP(hidden_dims, 1, layer_init=orthogonal),
        actor=GaussianActor(action_dim, hidden_dims, (-5.0, 2.0), tanh_mean=True, layer_init=orthogonal),
        critic=DoubleCritic(hidden_dims, layer_init=orthogonal),
        schedule_steps=options.schedule_steps,
    )

    def draw_for(key: Array, rows: Array) -> Transition:
        del key
        return unpack(rows[0], observation_dim, action_dim)

    def draw(key: Array, data: Data) -> Transition:
        return draw_for(key, uniform_rows(key, data, (1, options.batch_size)))

    return Algorithm(
        init=lambda key: init(key, iql, observation_dim),
        draw=draw,
        update=lambda learner, _, drawn, hypers, step: update(learner, iql, drawn, hypers, step),
        policy=lambda learner, *_: learner.actor.params,
        act=lambda policy, memory, observation, _: (iql.actor.apply(policy, observation)[0], memory),
        steps=(1, 1, 1),
        explore=lambda policy, observation, noise, _: explore(iql, policy, observation, noise),
        draw_for=draw_for,
    )


FIELDS = {
    'batch_size': Field(256, whole(1), 'transitions in a minibatch'),
    'hidden_dims': Field((256, 256), HIDDEN_DIMS, 'units of each hidden layer, of all networks'),
    'value_lr': Field(3e-4, POSITIVE, "V's learning rate"),
    'actor_lr': Field(3e-4, POSITIVE, "the policy's, at the start"),
    'critic_lr': Field(3e-4, POSITIVE, "the critics'"),
    'schedule_steps': Field(
        None,
        optional(SOME_STEPS),
        "over which the policy's learning rate falls to 0, as a cosine; None: offline.steps, also of a run made longer",
    ),
    'discount': Field(0.99, SHARE, 'γ'),
    'tau': Field(0.005, SHARE, "the targets' step towards the critics, at each update"),
    'expectile': Field(0.7, SHARE, 'of Q that V learns: 0.5 is the mean, towards 1 the maximum'),
    'temperature': Field(3.0, real(), 'β, which multiplies advantages; 0: behaviour cloning'),
    'max_weight': Field(100.0, POSITIVE, "bound of a transition's weight exp(β · advantage)"),
    'normalize_observations': Field(False, flag(), '(s − mean) / (std + 1e-3)'),
    'normalize_rewards': Field(
        False, flag(), "multiply rewards by 1000 / (largest − smallest return of the dataset's episodes), new ones too"
    ),
    'action_clip': Field(1 - 1e-5, optional(real(SMALL, 1)), "bound of the dataset's actions; None: none"),
}

METHOD = Method(
    title=lambda options: 'IQL',
    hyperparameters=Hyperparameters,
    fields=FIELDS,
    presets={
        'locomotion': {'normalize_rewards': True},
        'maze': {'expectile': 0.9, 'temperature': 10.0},
    },
    metrics=('value_loss', 'v', 'actor_loss', 'advantage', 'critic_loss', 'q', 'q_magnitude'),
    make=make,
    policy_fields=('hidden_dims', 'normalize_observations'),
    samples=True,
)
