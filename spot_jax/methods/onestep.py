"""Onestep (Brandfonbrener et al., 2021): learn the data's policy and its Q, and improve on that policy once.

It follows the authors' code (davidbrandfonbrener/onestep-rl) as its `train.py` runs: the policy starts as the behaviour
and is a plain normal distribution like it, though its config says a truncated one; it acts by the mean. One Q is
learned, by SARSA; rows that a time limit ended, whose next action nobody knows, do not count. The policy has 100,000
steps there. With `easy_bcq` it has none: one is enough; there, the samples that it chooses among are the same at every
step, where the authors' code draws them anew. Improvements and their weights are the defaults of that code's
configs, where the paper tunes them for each dataset; its `il_reg` is left out.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.core.fields import FOLDER, HIDDEN_DIMS, POSITIVE, SHARE, SOME_STEPS, Field, choice, flag, real, whole
from spot_jax.core.method import Algorithm, Data, Idle, Method, Stage
from spot_jax.core.networks import MLP, gaussian_log_prob
from spot_jax.core.sampling import uniform_indices, with_next_actions
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition
from spot_jax.methods.improvements import IMPROVEMENTS, Drawn, Hyperparameters, Onestep, best_of, gaussian, value

POLICY_FIELDS = ('hidden_dims', 'normalize_observations')  # of the stages, too


class OnestepState(struct.PyTreeNode):
    """What learns after the stages."""

    actor: TrainState


def draw(key: Array, data: Data, sizes: tuple[int, int], batch_size: int, num_noise: int) -> Drawn:
    """A minibatch and noise [num_noise, B, A]; the key is consumed."""
    index_key, noise_key = jax.random.split(key)
    indices = uniform_indices(index_key, (batch_size,), len(data.rows))
    batch, next_actions, has_next = with_next_actions(data, indices, sizes)
    known = (has_next | (batch.masks == 0)).astype(jnp.float32)
    return Drawn(batch, next_actions, known, jax.random.normal(noise_key, (num_noise, *batch.actions.shape)))


def behavior_loss_fn(params: Params, onestep: Onestep, batch: Transition) -> tuple[Array, Metrics]:
    """The mean of −log β(a|s); metrics are per state, `[B]`."""
    losses = -gaussian_log_prob(*gaussian(onestep, params, batch.observations), batch.actions)
    return jnp.mean(losses), {'behavior_loss': losses}


def critic_loss_fn(
    params: Params, onestep: Onestep, target_params: Params, drawn: Drawn, discount: Array
) -> tuple[Array, Metrics]:
    """The mean of (r + γ·mask·Q̄(s', a') − Q(s, a))² over what is known; metrics are per state, `[B]`."""
    batch = drawn.batch
    next_q = value(onestep, target_params, batch.next_observations, drawn.next_actions)
    q = value(onestep, params, batch.observations, batch.actions)
    weight = drawn.known / jnp.maximum(jnp.mean(drawn.known), 1 / len(q))
    losses = weight * (batch.rewards + discount * batch.masks * next_q - q) ** 2
    return jnp.mean(losses), {'critic_loss': losses, 'q': q, 'q_magnitude': jnp.abs(q)}


def update(
    state: OnestepState, onestep: Onestep, shared: Params, drawn: Drawn, hypers: Hyperparameters, step: Array
) -> tuple[OnestepState, Metrics]:
    """One step of the policy, which at step 0 is the behaviour."""
    start = lambda behavior, own: jnp.where(step == 0, behavior, own)
    actor = state.actor.replace(params=jax.tree.map(start, shared['behavior'], state.actor.params))
    loss_fn = IMPROVEMENTS[onestep.improvement]
    actor, metrics = actor.minimize(loss_fn, hypers.actor_lr, onestep, shared, drawn, hypers)
    return OnestepState(actor), metrics


def static_parts(options: Any, action_dim: int) -> Onestep:
    """The networks of these options."""
    hidden_dims = tuple(options.hidden_dims)
    return Onestep(MLP(hidden_dims, 2 * action_dim), MLP(hidden_dims, 1), options.improvement)


def stages(options: Any, observation_dim: int, action_dim: int) -> tuple[Stage, ...]:
    """The behaviour, then its Q."""
    onestep, sizes = static_parts(options, action_dim), (observation_dim, action_dim)

    def init_critic(key: Array) -> TargetTrainState:
        params = onestep.critic.init(key, jnp.zeros((1, sum(sizes))))
        return TargetTrainState.create(params)

    def update_behavior(
        state: TrainState, shared: Any, drawn: Drawn, hypers: Hyperparameters, step: Array
    ) -> tuple[TrainState, Metrics]:
        return state.minimize(behavior_loss_fn, hypers.behavior_lr, onestep, drawn.batch)

    def update_critic(
        state: TargetTrainState, shared: Any, drawn: Drawn, hypers: Hyperparameters, step: Array
    ) -> tuple[TargetTrainState, Metrics]:
        args = onestep, state.target_params, drawn, hypers.discount
        state, metrics = state.minimize(critic_loss_fn, hypers.critic_lr, *args)
        tau = jnp.where(step % 2 == 0, hypers.tau, 0.0)  # the target moves at every other step
        return state.update_target(tau), metrics

    def draw_alone(key: Array, data: Data) -> Drawn:
        return draw(key, data, sizes, options.batch_size, 0)

    behavior = Stage(
        name='behavior',
        num_steps=options.behavior_steps,
        init=lambda key: TrainState.create(onestep.actor.init(key, jnp.zeros((1, observation_dim)))),
        draw=draw_alone,
        update=update_behavior,
        result=lambda learner, shared: {'behavior': learner.params},
        steps=(1,),
        fields=POLICY_FIELDS,
    )
    critic = Stage(
        name='critic',
        num_steps=options.critic_steps,
        init=init_critic,
        draw=draw_alone,
        update=update_critic,
        result=lambda learner, shared: {**shared, 'critic': learner.params},
        steps=(1,),
        fields=POLICY_FIELDS,
    )
    return behavior, critic


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The algorithm of these options."""
    onestep, sizes = static_parts(options, action_dim), (observation_dim, action_dim)

    def act(policy: Params, memory: Any, observation: Array, reward: Array) -> tuple[Array, Any]:
        del reward
        if onestep.improvement != 'easy_bcq':
            return gaussian(onestep, policy['actor'], observation)[0], memory
        noise = jax.random.normal(jax.random.key(0), (options.num_samples, action_dim))
        return best_of(onestep, policy, observation, noise), memory

    return Algorithm(
        init=lambda key: OnestepState(TrainState.create(onestep.actor.init(key, jnp.zeros((1, observation_dim))))),
        draw=lambda key, data: draw(key, data, sizes, options.batch_size, 1 + options.num_samples),
        update=lambda learner, shared, drawn, hypers, step: update(learner, onestep, shared, drawn, hypers, step),
        policy=lambda learner, shared, hypers: {'actor': learner.actor.params, **shared},
        act=act,
        steps=(1,),
    )


# Ours, for the small mazes: networks and lengths in which four seeds train in minutes.
POINTMAZE = {
    **{'hidden_dims': (256, 256), 'batch_size': 256, 'behavior_lr': 3e-4, 'critic_lr': 3e-4, 'actor_lr': 3e-4},
    **{'behavior_steps': 5000, 'critic_steps': 10_000, 'tau': 0.02, 'improvement': 'exp_weight', 'temperature': 3.0},
}

METHOD = Method(
    title=lambda options: 'Onestep',
    hyperparameters=Hyperparameters,
    fields={
        'improvement': Field('reverse_kl', choice(IMPROVEMENTS), 'how the policy becomes better than the behaviour'),
        'batch_size': Field(512, whole(1), 'transitions in a minibatch'),
        'hidden_dims': Field((1024, 1024), HIDDEN_DIMS, 'units of each hidden layer, of all networks'),
        'behavior_lr': Field(1e-4, POSITIVE, "the behaviour's learning rate"),
        'behavior_steps': Field(500_000, SOME_STEPS, 'gradient steps of the behaviour'),
        'critic_lr': Field(1e-4, POSITIVE, "Q's learning rate"),
        'critic_steps': Field(2_000_000, SOME_STEPS, 'gradient steps of Q'),
        'discount': Field(0.99, SHARE, 'γ'),
        'tau': Field(0.005, SHARE, "the target's step towards Q, at every other update"),
        'actor_lr': Field(1e-4, POSITIVE, "the policy's learning rate"),
        'kl_weight': Field(1.0, real(), 'of KL(policy, behaviour) against Q; reverse_kl'),
        'temperature': Field(0.01, real(), 'multiplies advantages; exp_weight'),
        'max_weight': Field(100.0, POSITIVE, "bound of a transition's weight exp(temperature · advantage); exp_weight"),
        'num_samples': Field(10, whole(1), 'actions that KL or V is the mean of, or easy_bcq takes the best of'),
        'restore': Field(None, FOLDER, "a run's folder: take behaviours and Qs of the same seeds, train none"),
        'normalize_observations': Field(False, flag(), '(s − mean) / (std + 1e-3)'),
    },
    presets={'pointmaze': POINTMAZE},
    metrics=('behavior_loss', 'critic_loss', 'q', 'actor_loss', 'actor_q', 'q_magnitude', 'kl', 'advantage', 'weight'),
    make=make,
    stages=stages,
    shared_by=('behavior_lr', 'critic_lr', 'discount', 'tau'),
    policy_fields=POLICY_FIELDS,
    restore='restore',
    idle=(
        Idle(lambda o: o.improvement != 'reverse_kl', 'improvement is not reverse_kl', ('kl_weight',)),
        Idle(
            lambda o: o.improvement != 'exp_weight',
            'improvement is not exp_weight',
            ('temperature', 'max_weight'),
        ),
        Idle(lambda o: o.improvement == 'easy_bcq', 'improvement is easy_bcq', ('actor_lr',)),
        Idle(lambda o: o.restore is not None, 'restore is given', ('behavior_steps', 'critic_steps')),
    ),
)
