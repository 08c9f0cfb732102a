"""TD3+BC: TD3 whose policy stays near the data's actions by a squared distance (sfujim/TD3_BC, TD3_BC.py).

Critics and their steps are SPOT's. The update is written for one member; all randomness enters through `Noise`.
On mazes the authors do not normalise states (sfujim/TD3_BC, issue 2, where larger α does better); CORL does.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spot_jax.core.fields import HIDDEN_DIMS, POSITIVE, SHARE, Field, flag, real, whole
from spot_jax.core.method import Algorithm, Data, Method
from spot_jax.core.networks import Actor, DoubleCritic
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack
from spot_jax.methods import spot
from spot_jax.methods.regularizers import none
from spot_jax.methods.spot import TD3, Noise, TD3State


class Hyperparameters(NamedTuple):
    """The traced hyperparameters."""

    alpha: Array  # weight of the normalised Q against the squared distance
    actor_lr: Array
    critic_lr: Array
    discount: Array  # γ
    tau: Array
    policy_noise: Array  # standard deviation of the target policy's noise
    noise_clip: Array


def actor_loss_fn(
    params: Params, algorithm: TD3, critic_params: Params, batch: Transition, alpha: Array
) -> tuple[Array, Metrics]:
    """−α·mean Q1(s, π(s)) / mean |Q1|, plus the mean over states *and* dimensions of (π(s) − a)²; metrics are `[B]`.

    Only the actor's parameters get gradients.
    """
    actions = algorithm.actor.apply(params, batch.observations)
    q1 = algorithm.critic.first(critic_params, batch.observations, actions)
    scale = alpha / jax.lax.stop_gradient(jnp.mean(jnp.abs(q1)))
    bc_losses = jnp.mean((actions - batch.actions) ** 2, axis=-1)
    losses = -scale * q1 + bc_losses
    return jnp.mean(losses), {'actor_loss': losses, 'actor_q': q1, 'q_magnitude': jnp.abs(q1), 'bc_loss': bc_losses}


def update_actor(
    state: TD3State, algorithm: TD3, batch: Transition, hypers: Hyperparameters
) -> tuple[TD3State, Metrics]:
    """One actor step on a minibatch, then both targets move by τ."""
    actor, metrics = state.actor.minimize(
        actor_loss_fn, hypers.actor_lr, algorithm, state.critic.params, batch, hypers.alpha
    )
    return TD3State(actor.update_target(hypers.tau), state.critic.update_target(hypers.tau)), metrics


def update(
    state: TD3State, algorithm: TD3, batches: Transition, noise: Noise, hypers: Hyperparameters
) -> tuple[TD3State, Metrics]:
    """A block: F critic steps on `batches` [F, B, ...], then the actor and the targets on the last minibatch.

    Metrics are per state, `[B]`; the critics' are means over the block.
    """
    state, critic_metrics = spot.update_critics(state, algorithm, batches, noise, hypers)
    batch = jax.tree.map(lambda x: x[-1], batches)
    state, actor_metrics = update_actor(state, algorithm, batch, hypers)
    return state, critic_metrics | actor_metrics


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The algorithm of a config's options."""
    hidden_dims = tuple(options.hidden_dims)
    algorithm = TD3(Actor(action_dim, hidden_dims), DoubleCritic(hidden_dims), none(), options.policy_freq)

    def draw(key: Array, data: Data) -> tuple[Array, Noise]:
        """Minibatches, packed [F, B, D], and the noise of a block."""
        index_key, noise_key = jax.random.split(key)
        rows = uniform_rows(index_key, data, (algorithm.policy_freq, options.batch_size))
        return rows, spot.draw_noise(noise_key, algorithm, options.batch_size)

    def block(
        state: TD3State, shared: Any, drawn: tuple[Array, Noise], hypers: Hyperparameters, step: Array
    ) -> tuple[TD3State, Metrics]:
        del shared, step
        rows, noise = drawn
        return update(state, algorithm, unpack(rows, observation_dim, action_dim), noise, hypers)

    def act(params: Params, memory: Any, observation: Array, reward: Array) -> tuple[Array, Any]:
        del reward
        return algorithm.actor.apply(params, observation), memory

    def explore(params: Params, observation: Array, noise: Array, scale: Array) -> Array:
        return jnp.clip(algorithm.actor.apply(params, observation) + scale * noise, -1.0, 1.0)

    return Algorithm(
        init=lambda key: spot.init(key, algorithm, observation_dim),
        draw=draw,
        update=block,
        policy=lambda state, shared, hypers: state.actor.params,
        act=act,
        block=algorithm.policy_freq,
        steps=(1, algorithm.policy_freq),
        explore=explore,
        draw_for=lambda key, rows: (rows, spot.draw_noise(key, algorithm, options.batch_size)),
    )


METHOD = Method(
    title=lambda options: 'TD3+BC',
    hyperparameters=Hyperparameters,
    fields={
        'alpha': Field(2.5, POSITIVE, 'α, the weight of the normalised Q against the squared distance to the data'),
        'batch_size': Field(256, whole(1), 'transitions in a minibatch'),
        'hidden_dims': Field((256, 256), HIDDEN_DIMS, 'units of each hidden layer, of actor and critics'),
        'actor_lr': Field(3e-4, POSITIVE, 'learning rate'),
        'critic_lr': Field(3e-4, POSITIVE, 'learning rate'),
        'discount': Field(0.99, SHARE, 'γ'),
        'tau': Field(0.005, SHARE, "the targets' step towards the networks, at each of the actor's updates"),
        'policy_noise': Field(0.2, real(), "standard deviation of the target policy's noise"),
        'noise_clip': Field(0.5, real(), 'bound of that noise'),
        'policy_freq': Field(2, whole(1, 100), 'critic updates per actor and target update'),
        'normalize_observations': Field(True, flag(), '(s − mean) / (std + 1e-3)'),
    },
    presets={'maze': {'normalize_observations': False}},
    policy_fields=('hidden_dims', 'normalize_observations'),
    metrics=('critic_loss', 'q', 'actor_loss', 'actor_q', 'q_magnitude', 'bc_loss'),
    make=make,
)
