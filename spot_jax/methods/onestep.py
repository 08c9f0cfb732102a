"""Onestep (Brandfonbrener et al., 2021): learn the data's policy and its Q, and improve on that policy once.

It follows the authors' code (davidbrandfonbrener/onestep-rl) as its `train.py` runs: the policy starts as the behaviour
and is a plain normal distribution like it, though its config says a truncated one; it acts by the mean. One Q is
learned, by SARSA; rows that a time limit ended, whose next action nobody knows, do not count. The policy has 100,000
steps there. With `easy_bcq` it has none: one is enough.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.core.fields import FOLDER, HIDDEN_DIMS, POSITIVE, SHARE, SOME_STEPS, Field, choice, flag, real, whole
from spot_jax.core.method import Algorithm, Data, Idle, Method, Stage
from spot_jax.core.networks import MLP, gaussian_log_prob
from spot_jax.core.sampling import uniform_indices, with_next_actions
from spot_jax.core.train_state import TargetTrainState, TrainState
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


class OnestepState(struct.PyTreeNode):
    """What learns after the stages."""

    actor: TrainState


class Drawn(NamedTuple):
    """What a step of any phase takes from the data and from chance."""

    batch: Transition  # [B, ...]
    next_actions: Array  # [B, A], what the data did at the next states
    known: Array  # [B], 1 where it is known what that was, or does not matter
    noise: Array  # [1 + L, B, A] standard normal: the policy's action, and L actions that a mean is taken of; or none


def draw(key: Array, data: Data, sizes: tuple[int, int], batch_size: int, num_noise: int) -> Drawn:
    """A minibatch and noise [num_noise, B, A]; the key is consumed."""
    index_key, noise_key = jax.random.split(key)
    indices = uniform_indices(index_key, (batch_size,), len(data.rows))
    batch, next_actions, has_next = with_next_actions(data, indices, sizes)
    known = (has_next | (batch.masks == 0)).astype(jnp.float32)
    return Drawn(batch, next_actions, known, jax.random.normal(noise_key, (num_noise, *batch.actions.shape)))


def gaussian(onestep: Onestep, params: Params, observations: Array) -> tuple[Array, Array]:
    """Mean and log standard deviation, in [-5, 0], of a policy, `[..., A]` each."""
    mean, log_std = jnp.split(jnp.tanh(onestep.actor.apply(params, observations)), 2, axis=-1)
    return mean, -5 + 2.5 * (log_std + 1)


def value(onestep: Onestep, params: Params, observations: Array, actions: Array) -> Array:
    """Q(s, a), `[...]`; states [..., O] may have more than one action each, `[L, ..., A]`."""
    observations = jnp.broadcast_to(observations, (*actions.shape[:-1], observations.shape[-1]))
    return onestep.critic.apply(params, jnp.concatenate([observations, actions], axis=-1))[..., 0]


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


IMPROVEMENTS = {'reverse_kl': reverse_kl_loss_fn, 'exp_weight': exp_weight_loss_fn, 'easy_bcq': easy_bcq_loss_fn}


def update(
    state: OnestepState, onestep: Onestep, shared: Params, drawn: Drawn, hypers: Hyperparameters, step: Array
) -> tuple[OnestepState, Metrics]:
    """One step of the policy, which at step 0 is the behaviour."""
    start = lambda behavior, own: jnp.where(step == 0, behavior, own)
    actor = state.actor.replace(params=jax.tree.map(start, shared['behavior'], state.actor.params))
    loss_fn = jax.grad(IMPROVEMENTS[onestep.improvement], has_aux=True)
    grads, metrics = loss_fn(actor.params, onestep, shared, drawn, hypers)
    return OnestepState(actor.apply_gradients(grads, hypers.actor_lr)), metrics


def best_of(onestep: Onestep, shared: Params, observation: Array, noise: Array) -> Array:
    """Of the behaviour's actions [A], from normal noise [L, A] and clipped to [-1, 1], that of the largest Q."""
    mean, log_std = gaussian(onestep, shared['behavior'], observation[None])
    actions = jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)
    return actions[jnp.argmax(value(onestep, shared['critic'], observation[None], actions))]


def static_parts(options: Any, action_dim: int) -> Onestep:
    """The networks of these options."""
    hidden_dims = tuple(options.hidden_dims)
    return Onestep(MLP(hidden_dims, 2 * action_dim), MLP(hidden_dims, 1), options.improvement)


def stages(options: Any, observation_dim: int, action_dim: int) -> tuple[Stage, ...]:
    """The behaviour, then its Q."""
    onestep, sizes = static_parts(options, action_dim), (observation_dim, action_dim)

    def init_critic(key: Array) -> TargetTrainState:
        params = onestep.critic.init(key, jnp.zeros((1, sum(sizes))))
        return TargetTrainState.create(params, target_params=params)

    def update_behavior(
        state: TrainState, shared: Any, drawn: Drawn, hypers: Hyperparameters, step: Array
    ) -> tuple[TrainState, Metrics]:
        grads, metrics = jax.grad(behavior_loss_fn, has_aux=True)(state.params, onestep, drawn.batch)
        return state.apply_gradients(grads, hypers.behavior_lr), metrics

    def update_critic(
        state: TargetTrainState, shared: Any, drawn: Drawn, hypers: Hyperparameters, step: Array
    ) -> tuple[TargetTrainState, Metrics]:
        loss_fn = jax.grad(critic_loss_fn, has_aux=True)
        grads, metrics = loss_fn(state.params, onestep, state.target_params, drawn, hypers.discount)
        tau = jnp.where(step % 2 == 0, hypers.tau, 0.0)  # the target moves at every other step
        return state.apply_gradients(grads, hypers.critic_lr).update_target(tau), metrics

    def draw_alone(key: Array, data: Data) -> Drawn:
        return draw(key, data, sizes, options.batch_size, 0)

    behavior = Stage(
        name='behavior',
        num_steps=options.behavior_steps,
        init=lambda key: TrainState.create(onestep.actor.init(key, jnp.zeros((1, observation_dim)))),
        draw=draw_alone,
        update=update_behavior,
        result=lambda learner, shared: {'behavior': learner.params},
        block=1,
        steps=(1,),
    )
    critic = Stage(
        name='critic',
        num_steps=options.critic_steps,
        init=init_critic,
        draw=draw_alone,
        update=update_critic,
        result=lambda learner, shared: {**shared, 'critic': learner.params},
        block=1,
        steps=(1,),
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
        memory=lambda: (),
        block=1,
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
    policy_fields=('hidden_dims', 'normalize_observations'),
    stage_fields=('hidden_dims', 'normalize_observations'),
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
