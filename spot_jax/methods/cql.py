"""CQL (Kumar et al., 2020): soft actor-critic whose critics are pushed down at the policy's actions, up at the data's.

It follows the authors' code (aviralkumar2907/CQL, rlkit), of which all losses are those of the old networks; only the
policy's takes the temperature after its step. CORL's differs: a log standard deviation with a learnt scale and shift,
another initialisation, the old temperature, and with `max_backup` the largest of the smaller critic's values. Targets
start as the critics, where that code's are networks of their own, which are forgotten after a thousand updates. On
locomotion the weight is 5, of the authors' 5 or 10.

`calibrate` is Cal-QL (Nakamoto et al., 2023): values of the policy's actions are pushed down no further than to the
discounted return that the data got from the state. New transitions, online, have none, and there it is CQL, as in CORL.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from spot_jax.core.fields import HIDDEN_DIMS, LARGE, POSITIVE, SHARE, STEPS, Field, flag, real, whole
from spot_jax.core.method import Algorithm, Data, Idle, Method
from spot_jax.core.networks import MLP, DoubleCritic, tanh_gaussian
from spot_jax.core.sampling import uniform_indices
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack
from spot_jax.methods import soft_actor
from spot_jax.methods.gaussian import gaussian, networks, sample, values


class Hyperparameters(NamedTuple):
    """The traced hyperparameters, scalars."""

    actor_lr: Array  # of the policy and of its temperature
    critic_lr: Array  # of the critics and of the penalty's multiplier
    discount: Array
    tau: Array
    penalty_weight: Array
    threshold: Array  # of the weighted penalty, with `lagrange`


class CQL(NamedTuple):
    """The static parts."""

    actor: MLP  # observations to means and log standard deviations before tanh, 2A numbers
    critic: DoubleCritic
    lagrange: bool = False
    bc_steps: int = 0


class CQLState(struct.PyTreeNode):
    """Everything that learns."""

    actor: TrainState
    critic: TargetTrainState
    log_temperature: TrainState  # of the entropy in the policy's loss, a scalar
    log_multiplier: TrainState  # of the penalty; without `lagrange` it stays as it is


class Drawn(NamedTuple):
    """What an update takes from the data and from chance; all but `uniform` is standard normal noise."""

    batch: Transition  # [B, ...]
    floor: Array  # [B], what the values of the policy's actions count at least
    uniform: Array  # [B, n, A], actions in [-1, 1]
    policy: Array  # [B, 1, A], for the policy's loss
    backup: Array  # [B, 1 or n, A], for the target values
    following: Array  # [B, n, A], for the policy's actions at the next states, proposed at the states
    current: Array  # [B, n, A], for those at the states


def init(key: Array, cql: CQL, observation_dim: int) -> CQLState:
    """Fresh networks, with targets equal to them, temperature and multiplier 1; the key is consumed."""
    actor_key, critic_key = jax.random.split(key)
    observations, actions = jnp.zeros((1, observation_dim)), jnp.zeros((1, cql.actor.output_dim // 2))
    critic_params = cql.critic.init(critic_key, observations, actions)
    actor, critic = TrainState.create(cql.actor.init(actor_key, observations)), TargetTrainState.create(critic_params)
    return CQLState(actor, critic, TrainState.create(jnp.zeros(())), TrainState.create(jnp.zeros(())))


def target_values(state: CQLState, cql: CQL, drawn: Drawn, hypers: Hyperparameters) -> Array:
    """r + γ·mask·min over the critics of max Q̄(s', a') over actions a' of the policy, `[B]`; no entropy is added."""
    batch = drawn.batch
    actions, _ = sample(cql.actor, state.actor.params, batch.next_observations, drawn.backup)
    next_q = values(cql.critic, state.critic.target_params, batch.next_observations, actions)
    return batch.rewards + hypers.discount * batch.masks * jnp.min(jnp.max(next_q, axis=-1), axis=0)


def propose(state: CQLState, cql: CQL, drawn: Drawn) -> tuple[Array, Array]:
    """Actions [B, 3n, A] whose values are pushed down, and their log-density [B, 3n].

    The first n are uniform, then come the policy's at the next states, then those at the states.
    """
    log_uniform = jnp.full(drawn.uniform.shape[:-1], drawn.uniform.shape[-1] * jnp.log(0.5))
    following = sample(cql.actor, state.actor.params, drawn.batch.next_observations, drawn.following)
    current = sample(cql.actor, state.actor.params, drawn.batch.observations, drawn.current)
    actions, log_density = zip((drawn.uniform, log_uniform), following, current, strict=True)
    return jnp.concatenate(actions, axis=1), jnp.concatenate(log_density, axis=1)


def critic_loss_fn(
    params: Params, cql: CQL, drawn: Drawn, target_q: Array, proposed: tuple[Array, Array], factors: tuple[Array, Array]
) -> tuple[Array, Metrics]:
    """The sum over both critics of the mean of (Q − target)² + multiplier·penalty; metrics are per state, `[B]`.

    The penalty is weight·(log Σ exp(Q(s, a) − log-density of a) over what is proposed − Q(s, the data's action)).
    `factors` are weight and multiplier.
    """
    (actions, log_density), (weight, multiplier) = proposed, factors
    q = cql.critic.apply(params, drawn.batch.observations, drawn.batch.actions)
    of_proposed = values(cql.critic, params, drawn.batch.observations, actions)
    uniform, others = jnp.split(of_proposed, [drawn.uniform.shape[1]], axis=-1)
    pushed = jnp.concatenate([uniform, jnp.maximum(others, drawn.floor[None, :, None])], axis=-1)
    penalty = weight * (jax.nn.logsumexp(pushed - log_density[None], axis=-1) - q)
    losses = jnp.sum((q - target_q[None]) ** 2 + multiplier * penalty, axis=0)
    of_both = {'q': q, 'q_magnitude': jnp.abs(q), 'penalty': penalty}
    return jnp.mean(losses), {'critic_loss': losses} | {name: jnp.mean(x, axis=0) for name, x in of_both.items()}


def update(state: CQLState, cql: CQL, drawn: Drawn, hypers: Hyperparameters, step: Array) -> tuple[CQLState, Metrics]:
    """One step of everything on one minibatch."""
    fixed, clones = (cql.actor, cql.critic, state.critic.params), step + 1 < cql.bc_steps
    actor, log_temperature, metrics = soft_actor.update(
        state.actor, state.log_temperature, fixed, drawn.batch, drawn.policy, hypers.actor_lr, clones
    )

    multiplier = jnp.clip(jnp.exp(state.log_multiplier.params), 0.0, 1e6) if cql.lagrange else jnp.ones(())
    of_data = target_values(state, cql, drawn, hypers), propose(state, cql, drawn), (hypers.penalty_weight, multiplier)
    critic, critic_metrics = state.critic.minimize(critic_loss_fn, hypers.critic_lr, cql, drawn, *of_data)
    log_multiplier = state.log_multiplier
    if cql.lagrange:
        excess = multiplier * (jnp.mean(critic_metrics['penalty']) - hypers.threshold)
        log_multiplier = log_multiplier.apply_gradients(-excess, hypers.critic_lr)
    metrics |= critic_metrics | {'multiplier': jnp.broadcast_to(multiplier, drawn.floor.shape)}
    return CQLState(actor, critic.update_target(hypers.tau), log_temperature, log_multiplier), metrics


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The algorithm of these options."""
    actor, critic = networks(tuple(options.hidden_dims), action_dim)
    cql, n = CQL(actor, critic, options.lagrange, options.bc_steps), options.num_actions

    def draw_for(key: Array, rows: Array) -> Drawn:
        normal_key, uniform_key = jax.random.split(key)
        size, counts = len(rows[0]), (1, n if options.max_backup else 1, n, n)
        uniform = jax.random.uniform(uniform_key, (size, n, action_dim), minval=-1.0)
        normal = jax.random.normal(normal_key, (size, sum(counts), action_dim))
        noise = uniform, *jnp.split(normal, np.cumsum(counts)[:-1], axis=1)
        return Drawn(unpack(rows[0], observation_dim, action_dim), jnp.full(size, -jnp.inf), *noise)

    def draw(key: Array, data: Data) -> Drawn:
        index_key, noise_key = jax.random.split(key)
        indices = uniform_indices(index_key, (options.batch_size,), len(data.rows))
        drawn = draw_for(noise_key, data.rows[indices][None])
        return drawn._replace(floor=data.returns_to_go[indices]) if options.calibrate else drawn

    return Algorithm(
        init=lambda key: init(key, cql, observation_dim),
        draw=draw,
        update=lambda learner, shared, drawn, hypers, step: update(learner, cql, drawn, hypers, step),
        policy=lambda learner, shared, hypers: learner.actor.params,
        act=lambda policy, memory, observation, reward: (jnp.tanh(gaussian(cql.actor, policy, observation)[0]), memory),
        steps=(1, 1, 1, 1),
        explore=lambda policy, seen, noise, scale: tanh_gaussian(*gaussian(cql.actor, policy, seen), noise)[0],
        draw_for=draw_for,
    )


METHOD = Method(
    title=lambda options: 'Cal-QL' if options.calibrate else 'CQL',
    hyperparameters=Hyperparameters,
    fields={
        'batch_size': Field(256, whole(1), 'transitions in a minibatch'),
        'hidden_dims': Field((256, 256, 256), HIDDEN_DIMS, 'units of each hidden layer, of policy and critics'),
        'actor_lr': Field(1e-4, POSITIVE, "learning rate of the policy and of its entropy's weight"),
        'critic_lr': Field(3e-4, POSITIVE, "learning rate of the critics and of the penalty's multiplier"),
        'discount': Field(0.99, SHARE, 'γ'),
        'tau': Field(0.005, SHARE, "the targets' step towards the critics, at each update"),
        'penalty_weight': Field(5.0, real(), 'of log Σ exp Q over proposed actions − Q of the data'),
        'num_actions': Field(10, whole(1), "n: proposed are n uniform ones, n of the policy, n of the next state's"),
        'lagrange': Field(False, flag(), 'learn a multiplier that holds the weighted penalty at the threshold'),
        'threshold': Field(5.0, real(-LARGE), 'of the weighted penalty'),
        'max_backup': Field(False, flag(), 'the value of a next state is the largest of n actions, not of one'),
        'calibrate': Field(False, flag(), "Cal-QL: push no value below the data's discounted return"),
        'bc_steps': Field(40_000, STEPS, 'the policy clones the data before this step'),
        'normalize_observations': Field(False, flag(), '(s − mean) / (std + 1e-3)'),
        'reward_scale': Field(1.0, POSITIVE, 'rewards become this ...'),
        'reward_shift': Field(0.0, real(-LARGE), '... times (the reward + this)'),
    },
    presets={
        'maze': {'lagrange': True, 'reward_scale': 4.0, 'reward_shift': 0.5},  # 2 at the goal, -2 elsewhere
        # Ours: runs on small mazes are shorter than the authors' cloning at the start, and actions have two dimensions.
        # Such noisy ones cannot be told from uniform ones by what AntMaze's threshold asks: the multiplier runs away.
        'pointmaze': {
            'hidden_dims': (256, 256),
            'num_actions': 4,
            'actor_lr': 3e-4,
            'bc_steps': 500,
            'tau': 0.02,
            'lagrange': False,
            'penalty_weight': 1.0,
        },
    },
    metrics=('critic_loss', 'q', 'q_magnitude', 'penalty', 'multiplier', *soft_actor.METRICS),
    make=make,
    policy_fields=('hidden_dims', 'normalize_observations'),
    samples=True,
    idle=(Idle(lambda options: not options.lagrange, 'cql.lagrange is false', ('threshold',)),),
    returns_discount=lambda options: options.discount if options.calibrate else 1.0,
)
