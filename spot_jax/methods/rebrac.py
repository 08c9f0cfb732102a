"""ReBRAC (Tarasov et al., 2023): TD3 with behaviour cloning in the actor's loss and, apart, in the critics' target.

It follows CORL's `rebrac.py`, which is the paper's algorithm. The authors' newest code also bounds the target from
below by the data's discounted return, a remnant of their work on fine-tuning that no switch turns off: left out. An
episode's last row, whose next action nobody knows, has no penalty in the target; D4RL's loader drops such rows.

Against TD3+BC: penalties are sums over the action's dimensions, not means; the actor follows the smaller of the two
critics; and actor and targets move at the *first* update of a block. As in both sources the actor's target then takes
in the actor from *before* its step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from spot_jax.core.fields import HIDDEN_DIMS, LARGE, POSITIVE, SHARE, Field, flag, real, whole
from spot_jax.core.method import Algorithm, Data, Method
from spot_jax.core.networks import Actor, DoubleCritic, Initializer, uniform
from spot_jax.core.sampling import uniform_indices, with_next_actions
from spot_jax.core.train_state import TargetTrainState
from spot_jax.core.types import Array, Metrics, Params, Transition


class Hyperparameters(NamedTuple):
    """The traced hyperparameters, scalars."""

    actor_lr: Array
    critic_lr: Array
    discount: Array
    tau: Array
    actor_bc_coef: Array  # weight of the penalty in the actor's loss, whose Q is of mean magnitude 1
    critic_bc_coef: Array  # weight of that in the target
    policy_noise: Array  # standard deviation of the target policy's noise
    noise_clip: Array


class ReBRAC(NamedTuple):
    """The static parts."""

    actor: Actor
    critic: DoubleCritic
    policy_freq: int = 2  # F, critic updates per actor update


class ReBRACState(struct.PyTreeNode):
    """Everything that learns."""

    actor: TargetTrainState
    critic: TargetTrainState


class Drawn(NamedTuple):
    """What F updates, or one without the leading axis, take from the data and from chance."""

    batch: Transition  # [F, B, ...]
    next_actions: Array  # [F, B, A], what the data did at the next states ...
    has_next: Array  # [F, B], ... where this is 1. It is 0 at an episode's last row: nothing is known of the next
    noise: Array  # [F, B, A] standard normal, for the target policy's noise


def layer_init(inputs: int) -> tuple[Initializer, Initializer]:
    """Kernels from U(±1/√inputs), biases 0.1."""
    return uniform(inputs**-0.5), nn.initializers.constant(0.1)


def init(key: Array, rebrac: ReBRAC, observation_dim: int) -> ReBRACState:
    """Fresh networks, with targets equal to them; the key is consumed."""
    actor_key, critic_key = jax.random.split(key)
    observations = jnp.zeros((1, observation_dim))
    actor_params = rebrac.actor.init(actor_key, observations)
    critic_params = rebrac.critic.init(critic_key, observations, jnp.zeros((1, rebrac.actor.action_dim)))
    return ReBRACState(
        actor=TargetTrainState.create(actor_params),
        critic=TargetTrainState.create(critic_params),
    )


def target_values(state: ReBRACState, rebrac: ReBRAC, drawn: Drawn, hypers: Hyperparameters) -> Array:
    """r + γ·mask·(min Q̄(s', a') − weight·|a' − the data's a'|²), a' = clip(π̄(s') + clipped noise), `[B]`.

    The penalty is 0 where the data has no next action.
    """
    noise = jnp.clip(hypers.policy_noise * drawn.noise, -hypers.noise_clip, hypers.noise_clip)
    next_observations = drawn.batch.next_observations
    next_actions = jnp.clip(rebrac.actor.apply(state.actor.target_params, next_observations) + noise, -1.0, 1.0)
    penalty = drawn.has_next * jnp.sum((next_actions - drawn.next_actions) ** 2, axis=-1)
    next_q = jnp.min(rebrac.critic.apply(state.critic.target_params, next_observations, next_actions), axis=0)
    next_values = next_q - hypers.critic_bc_coef * penalty
    return drawn.batch.rewards + hypers.discount * drawn.batch.masks * next_values


def critic_loss_fn(params: Params, rebrac: ReBRAC, batch: Transition, target_q: Array) -> tuple[Array, Metrics]:
    """The sum over both critics of the mean squared error to `target_q` [B]; metrics are per state, `[B]`."""
    q = rebrac.critic.apply(params, batch.observations, batch.actions)
    losses = jnp.sum((q - target_q[None]) ** 2, axis=0)
    return jnp.mean(losses), {'critic_loss': losses, 'q': jnp.min(q, axis=0)}


def actor_loss_fn(
    params: Params, rebrac: ReBRAC, critic_params: Params, batch: Transition, hypers: Hyperparameters
) -> tuple[Array, Metrics]:
    """The mean of weight·|π(s) − a|² − min Q(s, π(s)) / mean |min Q|; metrics are per state, `[B]`."""
    actions = rebrac.actor.apply(params, batch.observations)
    penalty = jnp.sum((actions - batch.actions) ** 2, axis=-1)
    q = jnp.min(rebrac.critic.apply(critic_params, batch.observations, actions), axis=0)
    losses = hypers.actor_bc_coef * penalty - q / jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
    return jnp.mean(losses), {'actor_loss': losses, 'actor_q': q, 'q_magnitude': jnp.abs(q), 'penalty': penalty}


def update_critic(
    state: ReBRACState, rebrac: ReBRAC, drawn: Drawn, hypers: Hyperparameters
) -> tuple[ReBRACState, Metrics]:
    """One critic step; the actor and the targets stay as they are."""
    target_q = target_values(state, rebrac, drawn, hypers)
    critic, metrics = state.critic.minimize(critic_loss_fn, hypers.critic_lr, rebrac, drawn.batch, target_q)
    return state.replace(critic=critic), metrics


def update_actor(
    state: ReBRACState, rebrac: ReBRAC, batch: Transition, hypers: Hyperparameters
) -> tuple[ReBRACState, Metrics]:
    """Both targets move by τ towards the networks as they are, then the actor makes a step."""
    moved = state.actor.update_target(hypers.tau)
    actor, metrics = moved.minimize(actor_loss_fn, hypers.actor_lr, rebrac, state.critic.params, batch, hypers)
    return ReBRACState(actor, state.critic.update_target(hypers.tau)), metrics


def update(state: ReBRACState, rebrac: ReBRAC, drawn: Drawn, hypers: Hyperparameters) -> tuple[ReBRACState, Metrics]:
    """A block: F critic steps, and after the first one, on its minibatch, the targets and the actor.

    Metrics are per state, `[B]`, the critics' means over their steps.
    """
    first, *others = (jax.tree.map(lambda x, i=i: x[i], drawn) for i in range(rebrac.policy_freq))
    state, metrics = update_critic(state, rebrac, first, hypers)
    state, actor_metrics = update_actor(state, rebrac, first.batch, hypers)
    history = [metrics]
    for one in others:
        state, metrics = update_critic(state, rebrac, one, hypers)
        history.append(metrics)
    return state, jax.tree.map(lambda *xs: sum(xs) / len(xs), *history) | actor_metrics


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The algorithm of these options."""
    hidden_dims, freq = tuple(options.hidden_dims), options.policy_freq
    actor = Actor(action_dim, hidden_dims, output_init=1e-3, layer_init=layer_init)
    critic = DoubleCritic(hidden_dims, output_init=3e-3, layer_init=layer_init, norm_after=True)
    rebrac = ReBRAC(actor, critic, freq)

    def draw(key: Array, data: Data) -> Drawn:
        index_key, noise_key = jax.random.split(key)
        indices = uniform_indices(index_key, (freq, options.batch_size), len(data.rows))
        batch, next_actions, has_next = with_next_actions(data, indices, (observation_dim, action_dim))
        noise = jax.random.normal(noise_key, batch.actions.shape)
        return Drawn(batch, next_actions, has_next.astype(jnp.float32), noise)

    return Algorithm(
        init=lambda key: init(key, rebrac, observation_dim),
        draw=draw,
        update=lambda learner, shared, drawn, hypers, step: update(learner, rebrac, drawn, hypers),
        policy=lambda learner, shared, hypers: learner.actor.params,
        act=lambda policy, memory, observation, reward: (actor.apply(policy, observation), memory),
        block=freq,
        steps=(1, freq),
    )


# The weights of the actor's and of the critics' penalty, as the authors tuned them for each of D4RL's datasets.
COEFS = {
    'halfcheetah-medium': (0.001, 0.01),
    'halfcheetah-medium-replay': (0.01, 0.001),
    'halfcheetah-medium-expert': (0.01, 0.1),
    'hopper-medium': (0.01, 0.01),
    'hopper-medium-replay': (0.05, 0.5),
    'hopper-medium-expert': (0.1, 0.01),
    'walker2d-medium': (0.05, 0.1),
    'walker2d-medium-replay': (0.05, 0.01),
    'walker2d-medium-expert': (0.01, 0.01),
    'antmaze-umaze': (0.003, 0.002),
    'antmaze-umaze-diverse': (0.003, 0.001),
    'antmaze-medium-play': (0.001, 0.0005),
    'antmaze-medium-diverse': (0.001, 0.0),
    'antmaze-large-play': (0.002, 0.001),
    'antmaze-large-diverse': (0.002, 0.002),
}
MAZE = {
    'batch_size': 256,
    'actor_lr': 3e-4,
    'critic_lr': 5e-5,
    'discount': 0.999,
    'actor_bc_coef': 0.002,
    'critic_bc_coef': 0.001,
    'reward_scale': 100.0,  # 100 at the goal and 0 elsewhere ...
    'reward_shift': 1.0,  # ... since the task's rewards are 0 and -1
}
# Ours, for the small mazes: in 10 000 updates AntMaze's critics learn next to nothing.
POINTMAZE = {
    **{'critic_lr': 1e-3, 'tau': 0.02, 'discount': 0.99, 'reward_scale': 1.0, 'reward_shift': 0.0},
    **{'actor_bc_coef': 0.1, 'critic_bc_coef': 0.01},
}

METHOD = Method(
    title=lambda options: 'ReBRAC',
    hyperparameters=Hyperparameters,
    fields={
        'batch_size': Field(1024, whole(1), 'transitions in a minibatch'),
        'hidden_dims': Field((256, 256, 256), HIDDEN_DIMS, 'units of each hidden layer, of actor and critics'),
        'policy_freq': Field(2, whole(1, 100), 'critic updates per actor and target update'),
        'actor_lr': Field(1e-3, POSITIVE, "the actor's learning rate"),
        'critic_lr': Field(1e-3, POSITIVE, "the critics' learning rate"),
        'discount': Field(0.99, SHARE, 'γ'),
        'tau': Field(0.005, SHARE, "the targets' step towards the networks, at each of the actor's updates"),
        'actor_bc_coef': Field(0.01, real(), "weight of |π(s) − a|² in the actor's loss"),
        'critic_bc_coef': Field(0.01, real(), "weight of |a' − the data's a'|² in the critics' target"),
        'policy_noise': Field(0.2, real(), "standard deviation of the target policy's noise"),
        'noise_clip': Field(0.5, real(), 'bound of that noise'),
        'normalize_observations': Field(False, flag(), '(s − mean) / (std + 1e-3)'),
        'reward_scale': Field(1.0, POSITIVE, 'rewards become this ...'),
        'reward_shift': Field(0.0, real(-LARGE), '... times (the reward + this)'),
    },
    presets={'maze': MAZE, 'pointmaze': POINTMAZE}
    | {task: dict(zip(('actor_bc_coef', 'critic_bc_coef'), c, strict=True)) for task, c in COEFS.items()},
    metrics=('critic_loss', 'q', 'actor_loss', 'actor_q', 'q_magnitude', 'penalty'),
    make=make,
)
