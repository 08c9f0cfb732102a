"""Behaviour cloning: a deterministic policy regressed on the data's actions (CORL, any_percent_bc.py).

The update is written for one member. Its only randomness is which transitions a minibatch has.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct

from spot_jax.core.fields import HIDDEN_DIMS, POSITIVE, Field, flag, whole
from spot_jax.core.method import Algorithm, Data, Method
from spot_jax.core.networks import Actor
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.train_state import TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack


class Hyperparameters(NamedTuple):
    """The traced hyperparameters."""

    actor_lr: Array


class BC(NamedTuple):
    """The static parts."""

    actor: Actor


class BCState(struct.PyTreeNode):
    """Everything that learns."""

    actor: TrainState


def init(key: Array, bc: BC, observation_dim: int) -> BCState:
    """A fresh policy; the key is consumed."""
    return BCState(TrainState.create(bc.actor.init(key, jnp.zeros((1, observation_dim)))))


def actor_loss_fn(params: Params, bc: BC, batch: Transition) -> tuple[Array, Metrics]:
    """The squared error of π(s) to the data's actions, a mean over states *and* dimensions; metrics are `[B]`."""
    losses = jnp.mean((bc.actor.apply(params, batch.observations) - batch.actions) ** 2, axis=-1)
    return jnp.mean(losses), {'actor_loss': losses}


def update(state: BCState, bc: BC, batch: Transition, hypers: Hyperparameters) -> tuple[BCState, Metrics]:
    """One step on a minibatch [B, ...]; metrics are per state, `[B]`."""
    actor, metrics = state.actor.minimize(actor_loss_fn, hypers.actor_lr, bc, batch)
    return BCState(actor), metrics


def make(options: Any, observation_dim: int, action_dim: int) -> Algorithm:
    """The algorithm of a config's options."""
    bc = BC(Actor(action_dim, tuple(options.hidden_dims)))

    def draw(key: Array, data: Data) -> Array:
        """A minibatch, packed [B, D]."""
        return uniform_rows(key, data, (options.batch_size,))

    def block(
        state: BCState, shared: Any, rows: Array, hypers: Hyperparameters, step: Array
    ) -> tuple[BCState, Metrics]:
        del shared, step
        return update(state, bc, unpack(rows, observation_dim, action_dim), hypers)

    def act(params: Params, memory: Any, observation: Array, reward: Array) -> tuple[Array, Any]:
        del reward
        return bc.actor.apply(params, observation), memory

    return Algorithm(
        init=lambda key: init(key, bc, observation_dim),
        draw=draw,
        update=block,
        policy=lambda state, shared, hypers: state.actor.params,
        act=act,
        steps=(1,),
    )


METHOD = Method(
    title=lambda options: 'BC',
    hyperparameters=Hyperparameters,
    fields={
        'batch_size': Field(256, whole(1), 'transitions in a minibatch'),
        'hidden_dims': Field((256, 256), HIDDEN_DIMS, 'units of each hidden layer'),
        'actor_lr': Field(3e-4, POSITIVE, 'learning rate'),
        'normalize_observations': Field(True, flag(), '(s − mean) / (std + 1e-3)'),
    },
    presets={},
    metrics=('actor_loss',),
    make=make,
)
