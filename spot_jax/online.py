"""Online fine-tuning's pure part: each member's ring of new transitions, sampling from both, the same update.

The dataset is stored once; a member adds only its own ring. All members step together, so that one counter serves all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from spot_jax import td3
from spot_jax.population import XLA_OPTIONS, PhaseState, Spec, guard, stream_keys
from spot_jax.sharding import CVAES, EVERYWHERE, POLICIES, compile_on, layout
from spot_jax.td3 import Hyperparameters, TD3State
from spot_jax.types import Array, Metrics, Params, unpack

# Streams of a seed's random numbers, after those of `population`.
ONLINE_TRAIN, EXPLORE = 4, 5


class Ring(struct.PyTreeNode):
    """The newest transitions of every member."""

    rows: Array  # [C, P, capacity, D], packed as in `types.unpack`
    count: Array  # int32 scalar, transitions that each member has added so far


# How a phase's arguments lie on a `sharding.grid_mesh`: a device has its members' rings, and the whole dataset.
STATE = PhaseState(learner=POLICIES, alive=POLICIES, gradient_steps=POLICIES, block=EVERYWHERE)
RING = Ring(POLICIES, EVERYWHERE)
ARGUMENTS = (STATE, RING, CVAES, POLICIES, CVAES, EVERYWHERE)  # as `OnlinePhase` takes them


class Options(NamedTuple):
    """How online fine-tuning differs from the offline phase."""

    keep_offline: bool  # whether the dataset stays in the replay buffer
    offline_share: float | None  # of a minibatch, drawn from the dataset; None: uniform over both
    floor: float  # λ is cooled linearly, from 1 to this multiple of it, ...
    cooling_steps: int  # ... over so many environment steps; 0: λ stays as it is
    exploration_noise: float  # standard deviation, of actions in [-1, 1]


def empty_ring(shape: tuple[int, int], capacity: int, row_size: int) -> Ring:
    """A ring for members [C, P]."""
    return Ring(jnp.zeros((*shape, capacity, row_size), jnp.float32), jnp.int32(0))


def add(ring: Ring, rows: Array) -> Ring:
    """Adds F new transitions of each member, `[F, C, P, D]`; the oldest ones give way."""
    capacity = ring.rows.shape[2]
    positions = (ring.count + jnp.arange(rows.shape[0])) % capacity
    return Ring(ring.rows.at[:, :, positions].set(jnp.moveaxis(rows, 0, 2)), ring.count + rows.shape[0])


def adder(mesh: Mesh) -> Callable[[Ring, Array], Ring]:
    """Compiles `add` for rings over a mesh's devices; the ring is donated."""
    return compile_on(mesh, add, (RING, PartitionSpec(None, *POLICIES)), RING)


def sample(key: Array, rows: Array, ring_rows: Array, size: Array, batch_size: int, options: Options) -> Array:
    """A minibatch [B, D] from the dataset `rows` [N, D] and a member's ring [capacity, D], of which `size` are written.

    Uniform over the union of both, unless `options` say otherwise. The key is consumed.
    """
    offline_key, online_key = jax.random.split(key)
    num_offline = rows.shape[0]
    if not options.keep_offline:
        return ring_rows[jax.random.randint(online_key, (batch_size,), 0, size)]
    if options.offline_share is None:
        drawn = jax.random.randint(offline_key, (batch_size,), 0, num_offline + size)
        is_offline, offline, online = drawn < num_offline, drawn, drawn - num_offline
    else:
        is_offline = jnp.arange(batch_size) < round(options.offline_share * batch_size)
        offline = jax.random.randint(offline_key, (batch_size,), 0, num_offline)
        online = jax.random.randint(online_key, (batch_size,), 0, size)
    chosen = ring_rows[jnp.clip(online, 0, ring_rows.shape[0] - 1)]
    return jnp.where(is_offline[:, None], rows[jnp.minimum(offline, num_offline - 1)], chosen)


def cooled(weight: Array, step: Array, options: Options) -> Array:
    """λ at an environment step: linear from 1 to `floor` times itself, as the authors' code does."""
    if options.cooling_steps == 0:
        return weight
    return weight * jnp.maximum(options.floor, 1.0 - step / options.cooling_steps)


# (state, ring, seeds [C], hypers [C, P], CVAE parameters [C], rows [N, D]) -> (state, metrics)
OnlinePhase = Callable[[PhaseState, Ring, Array, Hyperparameters, Params, Array], tuple[PhaseState, Metrics]]


def place(mesh: Mesh, *arguments: Any) -> tuple[Any, ...]:
    """The arguments of an `OnlinePhase`, on a mesh's devices."""
    return jax.device_put(arguments, layout(ARGUMENTS, mesh))


def online_phase(spec: Spec, options: Options, mesh: Mesh) -> OnlinePhase:
    """Compiles one block of F updates of every member, after F new environment steps; the state is donated.

    Arguments lie on `mesh` as `place` puts them; a device updates its own members.

    The i-th of the F minibatches is drawn as it would have been right after the i-th of these steps. λ is that of the
    last of them, when the actor moves.
    """
    freq, batch_size = spec.td3.policy_freq, spec.batch_size

    def member(
        learner: TD3State,
        ring_rows: Array,
        hypers: Hyperparameters,
        params: Params,
        key: Array,
        count: Array,
        rows: Array,
    ) -> tuple[TD3State, Metrics]:
        sample_key, noise_key = jax.random.split(key)
        sizes = jnp.minimum(count - freq + 1 + jnp.arange(freq), ring_rows.shape[0])
        draw = partial(sample, batch_size=batch_size, options=options)
        minibatches = jax.vmap(draw, (0, None, None, 0))(jax.random.split(sample_key, freq), rows, ring_rows, sizes)
        batches = unpack(minibatches, spec.observation_dim, spec.td3.actor.action_dim)
        noise = td3.draw_noise(noise_key, spec.td3, batch_size)
        hypers = hypers._replace(regularizer_weight=cooled(hypers.regularizer_weight, count, options))
        learner, metrics = td3.update(learner, spec.td3, params, batches, noise, hypers)
        return learner, jax.tree.map(jnp.mean, metrics)

    def run(
        state: PhaseState, ring: Ring, seeds: Array, hypers: Hyperparameters, params: Params, rows: Array
    ) -> tuple[PhaseState, Metrics]:
        keys = jax.vmap(jax.random.fold_in, (0, None))(stream_keys(seeds, ONLINE_TRAIN), state.block)
        over_settings = jax.vmap(member, (0, 0, 0, None, None, None, None))
        over_cvaes = jax.vmap(over_settings, (0, 0, 0, 0, 0, None, None))
        new, metrics = over_cvaes(state.learner, ring.rows, hypers, params, keys, ring.count, rows)
        alive, learner = guard(state.alive, metrics, new, state.learner)
        return PhaseState(learner, alive, state.gradient_steps + freq * alive, state.block + 1), metrics

    run = jax.default_matmul_precision(spec.precision)(run)
    return compile_on(mesh, run, ARGUMENTS, (STATE, POLICIES), XLA_OPTIONS.get(mesh.devices.flat[0].platform))


# (actor parameters [C, P], observations [C, P, O], seeds [C], step) -> actions [C, P, A] in [-1, 1]
Act = Callable[[Params, Array, Array, Array], Array]


def explorer(spec: Spec, options: Options) -> Act:
    """Compiles acting with exploration: π(s) + N(0, exploration_noise²), clipped."""

    def act(params: Params, observations: Array, seeds: Array, step: Array) -> Array:
        actions = jax.vmap(jax.vmap(spec.td3.actor.apply))(params, observations)
        keys = jax.vmap(jax.random.fold_in, (0, None))(stream_keys(seeds, EXPLORE), step)
        noise = jax.vmap(lambda key: jax.random.normal(key, (1, actions.shape[-1])))(keys)  # a seed's settings share it
        return jnp.clip(actions + options.exploration_noise * noise, -1.0, 1.0)

    return jax.jit(act)


def with_policies(act: Act, params: Params, seeds: Array) -> Callable[[np.ndarray, int], np.ndarray]:
    """`act` of given policies, on NumPy arrays: `(observations [M, O], step) -> actions [M, A]`."""
    shape = jax.tree.leaves(params)[0].shape[:2]

    def explore(observations: np.ndarray, step: int) -> np.ndarray:
        actions = act(params, jnp.asarray(observations.reshape(*shape, -1)), seeds, jnp.int32(step))
        return np.asarray(actions).reshape(len(observations), -1)

    return explore
