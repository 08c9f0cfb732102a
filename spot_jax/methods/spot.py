"""SPOT (paper, Eq. 8 and Alg. 1): TD3 with a regulariser in the actor loss, by a CVAE that is trained before it.

The update is written for one member; `population` vmaps it. All randomness enters through `Noise`. Without a
regulariser (`none`) it is TD3.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.core import xla
from spot_jax.core.fields import (
    FOLDER,
    HIDDEN_DIMS,
    POSITIVE,
    SHARE,
    SOME_STEPS,
    Field,
    choice,
    flag,
    optional,
    real,
    whole,
)
from spot_jax.core.method import Algorithm, Data, Idle, Method, Stage
from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.train_state import TargetTrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack
from spot_jax.methods import density
from spot_jax.methods.constraint import Constraint, constrained, measure
from spot_jax.methods.density import CVAEStage, Density
from spot_jax.methods.regularizers import PENALTIES, REGULARIZERS, Regularizer

FIELDS = {
    'batch_size': Field(256, whole(1), 'transitions in a minibatch'),
    'normalize_observations': Field(False, flag(), '(s − mean) / (std + 1e-3)'),
    'discount': Field(0.99, SHARE, 'γ'),
    'tau': Field(0.005, SHARE, "the targets' step towards the networks, at each of the actor's updates"),
    'policy_noise': Field(0.2, real(), "standard deviation of the target policy's noise"),
    'noise_clip': Field(0.5, real(), 'bound of that noise'),
    'policy_freq': Field(2, whole(1, 100), 'critic updates per actor and target update'),
    'normalize_q': Field(True, flag(), "divide the actor's Q by its mean magnitude"),
    'actor.hidden_dims': Field((256, 256), HIDDEN_DIMS, 'units of each hidden layer'),
    'actor.lr': Field(3e-4, POSITIVE, 'learning rate'),
    'actor.dropout': Field(0.0, real(0, 0.99), 'share of hidden units left out while training'),
    'actor.output_init': Field(
        None, optional(real()), "bound of the output layer's initial values; None: 1/√(its inputs)"
    ),
    'critic.hidden_dims': Field((256, 256), HIDDEN_DIMS, 'units of each hidden layer'),
    'critic.lr': Field(3e-4, POSITIVE, 'learning rate'),
    'critic.output_init': Field(None, optional(real()), "as the actor's"),
    'critic.layer_norm': Field(False, flag(), 'normalise what goes into each hidden unit'),
    'cvae.hidden_dims': Field((750, 750), HIDDEN_DIMS, 'units of each hidden layer, of encoder and decoder'),
    'cvae.latent_dim': Field(None, optional(whole(1)), 'None: twice the action dimension'),
    'cvae.lr': Field(1e-3, POSITIVE, 'learning rate'),
    'cvae.beta': Field(0.5, POSITIVE, "β, the KL term's weight, which sets the decoder's variance, too"),
    'cvae.steps': Field(100_000, SOME_STEPS, 'gradient steps'),
    'cvae.restore': Field(None, FOLDER, "a run's folder: take its CVAEs, of the same seeds and β, train none"),
    'regularizer.name': Field('support', choice(REGULARIZERS), 'none: TD3, bc: TD3+BC, support: SPOT'),
    'regularizer.estimator': Field('elbo', choice(PENALTIES), 'elbo: its loss form; importance_weighted: nats'),
    'regularizer.num_samples': Field(1, whole(1), "L, latents of a state's estimate"),
    'regularizer.weight': Field(0.1, real(), 'λ; of bc: 1/α'),
    'regularizer.constraint': Field(
        None,
        optional(SHARE),
        'λ follows so that as many states are beyond this quantile of penalties as of the data; None: fixed λ',
    ),
    'regularizer.multiplier_lr': Field(1e-3, POSITIVE, "learning rate of the logarithm of λ's multiplier"),
}

# SPOT+, the word `plus` after a preset: what later work found to matter beside the regulariser, after ReBRAC (Tarasov
# et al., 2023), whose layer norm comes after the ReLU. The CVAE's minibatches grow as well.
PLUS = {
    'critic.layer_norm': True,
    'critic.hidden_dims': (256, 256, 256),
    'actor.hidden_dims': (256, 256, 256),
    'batch_size': 1024,
}
MAZE_PLUS = {**PLUS, 'discount': 0.995}


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
        actor=TargetTrainState.create(actor_params),
        critic=TargetTrainState.create(critic_params),
    )


def target_values(state: TD3State, td3: TD3, batch: Transition, noise: Noise, hypers: Any) -> Array:
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
    """The sum over both critics of the mean squared error to `target_q` [..., B]; metrics are shaped as it is."""
    inputs = jnp.concatenate([batch.observations, batch.actions], axis=-1)  # neighbours in a row: no copy
    q = td3.critic.apply(params, xla.for_each(inputs, 2), method='of_inputs')
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
    state: TD3State, td3: TD3, batch: Transition, target_q: Array, hypers: Any
) -> tuple[TD3State, Metrics]:
    """One critic step on a minibatch; the actor, its optimiser and the targets stay as they are."""
    critic, metrics = state.critic.minimize(critic_loss_fn, hypers.critic_lr, td3, batch, target_q)
    return state.replace(critic=critic), metrics


def update_critics(
    state: TD3State, td3: TD3, batches: Transition, noise: Noise, hypers: Any
) -> tuple[TD3State, Metrics]:
    """F critic steps on `batches` [F, B, ...]; metrics are per state, `[B]`, means over the steps.

    The targets do not move within a block, so the target values of all its minibatches are computed at once. `hypers`
    are a method's that has critic_lr, discount, policy_noise and noise_clip.
    """
    target_q = target_values(state, td3, batches, noise, hypers)
    history = []
    for i in range(td3.policy_freq):
        # [1, B, ...], not [B, ...]: a GPU then reads the minibatch where it lies, and launches no copy.
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], batches)
        state, metrics = update_critic(state, td3, one, target_q[i : i + 1], hypers)
        history.append(jax.tree.map(lambda x: x[0], metrics))
    return state, xla.settled(jax.tree.map(lambda *xs: sum(xs) / len(xs), *history))


def update_actor(
    state: TD3State, td3: TD3, density_params: Params, batch: Transition, noise: Noise, hypers: Hyperparameters
) -> tuple[TD3State, Metrics]:
    """One actor step on a minibatch, then both targets move by τ."""
    actor, metrics = state.actor.minimize(
        actor_loss_fn, hypers.actor_lr, td3, state.critic.params, density_params, batch, noise, hypers
    )
    return TD3State(actor.update_target(hypers.tau), state.critic.update_target(hypers.tau)), metrics


def update(
    state: TD3State, td3: TD3, density_params: Params, batches: Transition, noise: Noise, hypers: Hyperparameters
) -> tuple[TD3State, Metrics]:
    """A block: F critic steps on `batches` [F, B, ...], then the actor and the targets on the last minibatch.

    Metrics are per state, `[B]`: whoever runs many blocks takes all their means in one go.
    """
    state, critic_metrics = update_critics(state, td3, batches, noise, hypers)
    batch = jax.tree.map(lambda x: x[-1], batches)
    state, actor_metrics = update_actor(state, td3, density_params, batch, noise, hypers)
    return state, critic_metrics | actor_metrics


class Spec(NamedTuple):
    """SPOT's static parts: the CVAE, TD3 and the sizes of what they see."""

    cvae: CVAE
    td3: TD3
    observation_dim: int
    batch_size: int
    cvae_lr: float
    cvae_steps: int = 1
    constraint: Constraint | None = None


def cvae_stage(spec: Spec) -> Stage:
    """The CVAE as the population takes it."""
    trained = CVAEStage(spec.cvae, spec.observation_dim, spec.batch_size, spec.cvae_lr, spec.cvae_steps)
    fields = ('cvae.hidden_dims', 'cvae.latent_dim', 'normalize_observations')
    return density.cvae_stage(trained, lambda hypers: hypers.beta, fields)


def stages(spec: Spec) -> tuple[Stage, ...]:
    """The CVAE, if the regulariser reads one, then what bounds its penalty, if something does."""
    if not spec.td3.regularizer.uses_density:
        return ()
    if spec.constraint is None:
        return (cvae_stage(spec),)
    return cvae_stage(spec), measure(spec.td3.regularizer, (spec.observation_dim, spec.cvae.action_dim))


def draw_block(key: Array, data: Data, spec: Spec) -> tuple[Array, Noise]:
    """Minibatches, packed [F, B, D], and the noise of one block; the key is consumed."""
    index_key, noise_key = jax.random.split(key)
    rows = uniform_rows(index_key, data, (spec.td3.policy_freq, spec.batch_size))
    return rows, draw_noise(noise_key, spec.td3, spec.batch_size)


def algorithm(spec: Spec) -> Algorithm:
    """SPOT as the population takes it."""
    td3, sizes = spec.td3, (spec.observation_dim, spec.cvae.action_dim)

    def update_block(
        state: TD3State, shared: Params, drawn: tuple[Array, Noise], hypers: Hyperparameters, step: Array
    ) -> tuple[TD3State, Metrics]:
        del step
        rows, noise = drawn
        return update(state, td3, shared, unpack(rows, *sizes), noise, hypers)

    def explore(params: Params, observation: Array, noise: Array, scale: Array) -> Array:
        return jnp.clip(td3.actor.apply(params, observation) + scale * noise, -1.0, 1.0)

    free = Algorithm(
        init=lambda key: init(key, td3, spec.observation_dim),
        draw=partial(draw_block, spec=spec),
        update=update_block,
        policy=lambda state, shared, hypers: state.actor.params,
        act=lambda params, memory, observation, reward: (td3.actor.apply(params, observation), memory),
        block=td3.policy_freq,
        steps=(1, td3.policy_freq),
        explore=explore,
        draw_for=lambda key, rows: (rows, draw_noise(key, td3, spec.batch_size)),
    )
    return free if spec.constraint is None else constrained(free, spec.constraint)


def weights(config: Any) -> tuple[float, ...]:
    """The members' λ."""
    return tuple(config.grid.regularizer_weight) or (config.regularizer.weight,)


def make_spec(config: Any, observation_dim: int, action_dim: int) -> Spec:
    """The static parts, from a run's config and its dataset's sizes."""
    cvae = CVAE(action_dim, tuple(config.cvae.hidden_dims), config.cvae.latent_dim)
    reg = config.regularizer
    td3 = TD3(
        Actor(action_dim, tuple(config.actor.hidden_dims), config.actor.output_init, config.actor.dropout),
        DoubleCritic(tuple(config.critic.hidden_dims), config.critic.output_init, config.critic.layer_norm),
        REGULARIZERS[reg.name](cvae, reg.estimator, reg.num_samples),
        config.policy_freq,
        config.normalize_q,
    )
    bounded = reg.constraint is not None and td3.regularizer.uses_density and any(weights(config))
    constraint = Constraint(reg.constraint, reg.multiplier_lr) if bounded else None
    return Spec(cvae, td3, observation_dim, config.batch_size, config.cvae.lr, config.cvae.steps, constraint)


def density_of(
    config: Any, observation_dim: int, action_dim: int, learner: TD3State, shared: Params, hypers: Hyperparameters
) -> Density | None:
    """The behaviour's density, if a CVAE was trained."""
    del learner
    spec = make_spec(config, observation_dim, action_dim)
    if not shared or not spec.td3.regularizer.uses_density:
        return None
    return Density(spec.cvae, shared if spec.constraint is None else shared['density'], hypers.beta)


def go_on(theirs: Any, ours: Any, learner: Any, shared: Any) -> tuple[Any, Any]:
    """Another run's learners and CVAEs as this run has them: without a multiplier, if it has no constraint."""
    had, has = (make_spec(config, 1, 1).constraint is not None for config in (theirs, ours))
    if has and not had:
        raise ValueError('it has no multiplier: regularizer.constraint is for runs that begin with it')
    return (learner['learner'], shared['density']) if had and not has else (learner, shared)


TITLES = {'none': 'TD3', 'bc': 'TD3+BC', 'support': 'SPOT'}  # by regulariser

IDLE = (
    Idle(
        lambda o: not make_spec(o, 1, 1).td3.regularizer.uses_density,
        'this regularizer.name reads no density',
        (
            'cvae',
            'regularizer.estimator',
            'regularizer.num_samples',
            'regularizer.constraint',
            'regularizer.multiplier_lr',
        ),
    ),
    Idle(lambda o: o.regularizer.name == 'none', 'regularizer.name is none', ('regularizer.weight',)),
    Idle(
        lambda o: not any(weights(o)),
        'regularizer.weight, which they multiply, is 0',
        ('regularizer.constraint', 'regularizer.multiplier_lr'),
    ),
    Idle(lambda o: o.regularizer.constraint is None, 'regularizer.constraint is None', ('regularizer.multiplier_lr',)),
    Idle(lambda o: o.cvae.restore is not None, 'cvae.restore is given', ('cvae.steps', 'cvae.lr')),
    Idle(lambda o: o.policy_noise == 0 and not o.grid.policy_noise, 'policy_noise is 0', ('noise_clip',)),
    Idle(lambda o: o.noise_clip == 0 and not o.grid.noise_clip, 'noise_clip is 0', ('policy_noise',)),
)

METHOD = Method(
    title=lambda config: TITLES.get(config.regularizer.name, f'TD3 with {config.regularizer.name}'),
    hyperparameters=Hyperparameters,
    fields=FIELDS,
    metrics=(
        'cvae_loss',
        'recon_loss',
        'kl_loss',
        'critic_loss',
        'q',
        'actor_loss',
        'actor_q',
        'q_magnitude',
        'penalty',
    ),
    make=lambda *config_and_sizes: algorithm(make_spec(*config_and_sizes)),
    stages=lambda *config_and_sizes: stages(make_spec(*config_and_sizes)),
    shared_by=('beta',),
    cooled=('regularizer_weight',),
    paths={
        'regularizer_weight': 'regularizer.weight',
        'actor_lr': 'actor.lr',
        'critic_lr': 'critic.lr',
        'beta': 'cvae.beta',
    },
    policy_fields=('actor.hidden_dims', 'critic.hidden_dims', 'critic.layer_norm', 'normalize_observations'),
    go_on=go_on,
    restore='cvae.restore',
    fresh_fields=('cvae.steps', 'cvae.lr', 'cvae.restore', 'actor.output_init', 'critic.output_init'),
    idle=IDLE,
    density=density_of,
    at_top=True,
    more_metrics=lambda o: () if make_spec(o, 1, 1).constraint is None else ('data_penalty', 'violation', 'multiplier'),
)
