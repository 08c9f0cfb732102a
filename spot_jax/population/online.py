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

from spot_jax.core.method import Algorithm, Data
from spot_jax.core.types import Array, Metrics, Params
from spot_jax.core.xla import compiler_options
from spot_jax.population.program import EXPLORE, ONLINE_TRAIN, PhaseState, guard, stream_keys
from spot_jax.population.sharding import EVERYWHERE, GROUPS, POLICIES, compile_on, layout


class Ring(struct.PyTreeNode):
    """The newest transitions of every member."""

    rows: Array  # [C, P, capacity, D], packed as in `types.unpack`
    count: Array  # int32 scalar, transitions that each member has added so far


# How a phase's arguments lie on a `sharding.grid_mesh`: a device has its members' rings, and the whole dataset.
STATE = PhaseState(learner=POLICIES, alive=POLICIES, gradient_steps=POLICIES, block=EVERYWHERE)
RING = Ring(POLICIES, EVERYWHERE)
ARGUMENTS = (STATE, RING, GROUPS, POLICIES, GROUPS, EVERYWHERE)  # as `OnlinePhase` takes them


class Options(NamedTuple):
    """How online fine-tuning differs from the offline phase."""

    keep_offline: bool  # whether the dataset stays in the replay buffer
    offline_share: float | None  # of a minibatch, drawn from the dataset; None: uniform over both
    floor: float  # what `cooled` names falls linearly, but not below this multiple of it, ...
    cooling_steps: int  # ... so that it would be 0 after so many environment steps; 0: it stays as it is
    exploration_noise: float  # standard deviation, of actions in [-1, 1]
    cooled: tuple[str, ...] = ()  # the hyperparameters that are cooled


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
    """A cooled hyperparameter at an environment step: linear from 1 to `floor` times itself."""
    if options.cooling_steps == 0:
        return weight
    return weight * jnp.maximum(options.floor, 1.0 - step / options.cooling_steps)


# (state, ring, seeds [C], hypers [C, P], the stages' results [C], data) -> (state, metrics)
OnlinePhase = Callable[[PhaseState, Ring, Array, Any, Any, Data], tuple[PhaseState, Metrics]]


def place(mesh: Mesh, *arguments: Any) -> tuple[Any, ...]:
    """The arguments of an `OnlinePhase`, on a mesh's devices."""
    return jax.device_put(arguments, layout(ARGUMENTS, mesh))


def online_phase(
    algorithm: Algorithm, batch_size: int, options: Options, mesh: Mesh, precision: str = 'float32'
) -> OnlinePhase:
    """Compiles one block of F updates of every member, after F new environment steps; the state is donated.

    Arguments lie on `mesh` as `place` puts them; a device updates its own members.

    The i-th of the F minibatches is drawn as it would have been right after the i-th of these steps, but that a full
    ring has the later ones, too. What is cooled is as at the last of them, when the actor moves.
    """
    freq, draw_for = algorithm.block, algorithm.draw_for
    assert draw_for is not None

    def member(
        learner: Any, ring_rows: Array, hypers: Any, shared: Any, key: Array, count: Array, step: Array, data: Data
    ) -> tuple[Any, Metrics]:
        sample_key, noise_key = jax.random.split(key)
        sizes = jnp.minimum(count - freq + 1 + jnp.arange(freq), ring_rows.shape[0])
        draw = partial(sample, batch_size=batch_size, options=options)
        keys = jax.random.split(sample_key, freq)
        minibatches = jax.vmap(draw, (0, None, None, 0))(keys, data.rows, ring_rows, sizes)
        lower = {name: cooled(getattr(hypers, name), count, options) for name in options.cooled}
        drawn = draw_for(noise_key, minibatches)
        learner, metrics = algorithm.update(learner, shared, drawn, hypers._replace(**lower), step)
        return learner, jax.tree.map(jnp.mean, metrics)

    def run(
        state: PhaseState, ring: Ring, seeds: Array, hypers: Any, shared: Any, data: Data
    ) -> tuple[PhaseState, Metrics]:
        keys = jax.vmap(jax.random.fold_in, (0, None))(stream_keys(seeds, ONLINE_TRAIN), state.block)
        over_settings = jax.vmap(member, (0, 0, 0, None, None, None, 0, None))
        over_seeds = jax.vmap(over_settings, (0, 0, 0, 0, 0, None, 0, None))
        arguments = state.learner, ring.rows, hypers, shared, keys, ring.count, state.gradient_steps, data
        new, metrics = over_seeds(*arguments)
        alive, learner = guard(state.alive, metrics, new, state.learner)
        return PhaseState(learner, alive, state.gradient_steps + freq * alive, state.block + 1), metrics

    run = jax.default_matmul_precision(precision)(run)
    return compile_on(mesh, run, ARGUMENTS, (STATE, POLICIES), compiler_options(mesh.devices.flat[0].platform))


# (policies [C, P], observations [C, P, O], seeds [C], step) -> actions [C, P, A] in [-1, 1]
Act = Callable[[Params, Array, Array, Array], Array]


def explorer(algorithm: Algorithm, action_dim: int, options: Options) -> Act:
    """Compiles acting with exploration, as the method explores."""
    assert algorithm.explore is not None
    over_settings = jax.vmap(algorithm.explore, (0, 0, None, None))  # a seed's settings share their noise

    def act(policies: Params, observations: Array, seeds: Array, step: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, (0, None))(stream_keys(seeds, EXPLORE), step)
        noise = jax.vmap(lambda key: jax.random.normal(key, (action_dim,)))(keys)
        return jax.vmap(over_settings, (0, 0, 0, None))(
            policies, observations, noise, jnp.float32(options.exploration_noise)
        )

    return jax.jit(act)


def with_policies(act: Act, params: Params, seeds: Array) -> Callable[[np.ndarray, int], np.ndarray]:
    """`act` of given policies, on NumPy arrays: `(observations [M, O], step) -> actions [M, A]`."""
    shape = jax.tree.leaves(params)[0].shape[:2]

    def explore(observations: np.ndarray, step: int) -> np.ndarray:
        actions = act(params, jnp.asarray(observations.reshape(*shape, -1)), seeds, jnp.int32(step))
        return np.asarray(actions).reshape(len(observations), -1)

    return explore
