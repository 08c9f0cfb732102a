"""A population's training, compiled once per phase: one donated `lax.scan` with the dataset on the device.

Members form a [C, P] grid: C groups that share a seed, and so all that is drawn, and what stages before the policies
came to; in each P settings. A method's update is written for one member; it is vmapped over P, with what was drawn and
the stages' results shared, and then over C. Randomness depends on the seed and the step alone, so a member gets the
same numbers whatever population it is in.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from spot_jax.core import xla
from spot_jax.core.method import Algorithm, Data, Stage
from spot_jax.core.types import Array, Metrics
from spot_jax.population.sharding import compile_over, in_turns

# Streams of a seed's random numbers: two of the policies, two of online fine-tuning, two of each stage.
POLICY_INIT, POLICY_TRAIN, ONLINE_TRAIN, EXPLORE = 2, 3, 4, 5
STAGES = ((0, 1), (6, 7), (8, 9), (10, 11))  # of each stage, its start and its training
MAX_STRETCH = 128  # blocks that draw at once
MAX_Q = 1e4  # a member whose mean |Q| passes this has diverged


class PhaseState(struct.PyTreeNode):
    """What a phase carries: every leaf but `block` leads with the members' axes, [C] for a stage or [C, P]."""

    learner: Any
    alive: Array  # bool: has not diverged
    gradient_steps: Array  # int32, of each member: a diverged one stops counting
    block: Array  # int32 scalar, the scan's blocks so far: what the randomness depends on


# (state, seeds [C], hypers [C, P], the stages' results [C], data) -> (state, metrics); the state is donated.
Phase = Callable[[PhaseState, Array, Any, Any, Data], tuple[PhaseState, Metrics]]


def stream_keys(seeds: Array, stream: int) -> Array:
    """One key per seed, `[C]`, of one of the streams above."""
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), stream))(seeds)


def _start(learner: Any, shape: tuple[int, ...]) -> PhaseState:
    return PhaseState(learner, jnp.ones(shape, bool), jnp.zeros(shape, jnp.int32), jnp.int32(0))


@partial(jax.jit, static_argnames=('stage', 'index'))
def init_stage(seeds: Array, stage: Stage, index: int = 0) -> PhaseState:
    """Fresh learners of the `index`-th stage, one for each of `seeds` [C]."""
    return _start(jax.vmap(stage.init)(stream_keys(seeds, STAGES[index][0])), seeds.shape)


@partial(jax.jit, static_argnames=('num_settings', 'algorithm'))
def init_policies(seeds: Array, num_settings: int, algorithm: Algorithm) -> PhaseState:
    """Fresh learners [C, P]: the settings of one seed start from the same weights."""
    states = jax.vmap(algorithm.init)(stream_keys(seeds, POLICY_INIT))
    shape = (*seeds.shape, num_settings)
    repeat = lambda x: jnp.broadcast_to(x[:, None], (*shape, *x.shape[1:]))
    return _start(jax.tree.map(repeat, states), shape)


def grid_of_policies(algorithm: Algorithm, learner: Any, shared: Any, hypers: Any) -> Any:
    """What acting needs of all members, [C, P]; `shared` [C] is what their stages came to."""
    return jax.vmap(jax.vmap(algorithm.policy, (0, None, 0)))(learner, shared, hypers)


def policies_of(algorithm: Algorithm, learner: Any, shared: Any, hypers: Any) -> Any:
    """As `grid_of_policies`, but `[C * P]`."""
    policies = grid_of_policies(algorithm, learner, shared, hypers)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), policies)


def guard(alive: Array, metrics: Metrics, new: Any, old: Any) -> tuple[Array, Any]:
    """Which members go on, and everyone's state: `new`, or `old` once a mean is not finite or mean |Q| passes `MAX_Q`.

    Metrics are shaped as `alive`; every leaf of the states leads with its axes.
    """
    for value in metrics.values():
        alive &= jnp.isfinite(value)
    if 'q_magnitude' in metrics:
        alive &= metrics['q_magnitude'] <= MAX_Q
    select = lambda n, o: jnp.where(alive.reshape(alive.shape + (1,) * (n.ndim - alive.ndim)), n, o)
    return alive, jax.tree.map(select, new, old)


def of_settings(algorithm: Algorithm) -> Callable[..., tuple[Any, Metrics]]:
    """A method's update of the P settings [P] of one seed: they see the same minibatches and noise."""

    def update(learner: Any, shared: Any, drawn: Any, hypers: Any, step: Array) -> tuple[Any, Metrics]:
        drawn = jax.tree.map(lambda x: xla.for_each(x, len(jax.tree.leaves(hypers)[0])), drawn)
        return jax.vmap(algorithm.update, (0, None, 0, 0, None))(learner, shared, drawn, hypers, step)

    return update


def of_stage(stage: Stage) -> Callable[..., tuple[Any, Metrics]]:
    """A stage's update for one seed: of the hyperparameters [P] it reads those that all settings have in common."""

    def update(learner: Any, shared: Any, drawn: Any, hypers: Any, step: Array) -> tuple[Any, Metrics]:
        return stage.update(learner, shared, drawn, jax.tree.map(lambda x: x[0], hypers), step)

    return update


def _make_phase(
    part: Algorithm | Stage,
    update: Callable[..., tuple[Any, Metrics]],
    stream: int,
    num_steps: int,
    precision: str | None,
    devices: Sequence[jax.Device] | None,
    at_once: int | None,
) -> Phase:
    """Compiles `(state, seeds [C], hypers [C, P], shared [C], data) -> (state, metrics)` of `num_steps` steps.

    Blocks run in stretches: one draws all its minibatches and noise at once, and is undone as a whole for a member that
    diverges in it. Metrics are means over the stretches in which a member was alive, shaped as the members are. The
    state is donated. Members are shared out over `devices`, by default all of this host's, and train `at_once` on each,
    by default as `xla.AT_ONCE` says of its platform.
    """
    num_blocks = num_steps // part.block
    size = max(k for k in range(1, MAX_STRETCH + 1) if num_blocks % k == 0)
    over_seeds = jax.vmap(update, (0, 0, 0, 0, None))

    def run(state: PhaseState, seeds: Array, hypers: Any, shared: Any, data: Data) -> tuple[PhaseState, Metrics]:
        keys = stream_keys(seeds, stream)
        fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))
        draw = jax.vmap(jax.vmap(lambda key: part.draw(key, data)))
        names: list[str] = []  # of the metrics

        def one(learner: Any, xs: tuple[Any, list[Array], Array]) -> tuple[Any, Array]:
            drawn, now, block = xs
            new, metrics = over_seeds(xla.with_corrections(learner, now), shared, drawn, hypers, block * part.block)
            names[:] = metrics
            # The metrics as one array, so that one kernel writes it.
            return xla.with_corrections(new, xla.corrections(learner)), jnp.stack(list(metrics.values()))

        def stretch(state: PhaseState, _: None) -> tuple[PhaseState, tuple[Array, Array]]:
            blocks = state.block + jnp.arange(size)
            drawn = draw(fold_in(keys, blocks))
            queues, after = xla.coming_corrections(state.learner, part.steps, size)
            learner, history = jax.lax.scan(one, state.learner, (drawn, queues, blocks))
            learner = xla.with_corrections(learner, after)
            means = jnp.mean(history, axis=(0, -1))
            alive, learner = guard(state.alive, dict(zip(names, means, strict=True)), learner, state.learner)
            steps = state.gradient_steps + size * part.block * alive
            return PhaseState(learner, alive, steps, state.block + size), (means, alive)

        state, (means, alive) = jax.lax.scan(stretch, state, length=num_blocks // size)
        count = jnp.maximum(jnp.sum(alive, axis=0), 1)
        means = jnp.sum(jnp.where(alive[:, None], means, 0), axis=0) / count[None]
        return state, dict(zip(names, means, strict=True))

    run = jax.default_matmul_precision(precision)(run)
    devices = devices or jax.local_devices()
    platform = devices[0].platform
    at_once = at_once or xla.AT_ONCE.get(platform)
    return compile_over(in_turns(run, at_once) if at_once else run, devices, xla.compiler_options(platform))


def stage_phase(
    stage: Stage,
    num_steps: int,
    index: int = 0,
    precision: str | None = 'float32',
    devices: Sequence[jax.Device] | None = None,
    at_once: int | None = None,
) -> Phase:
    """The compiled training of the `index`-th stage by `num_steps` steps; see `_make_phase`."""
    return _make_phase(stage, of_stage(stage), STAGES[index][1], num_steps, precision, devices, at_once)


def policy_phase(
    algorithm: Algorithm,
    num_steps: int,
    precision: str | None = 'float32',
    devices: Sequence[jax.Device] | None = None,
    at_once: int | None = None,
) -> Phase:
    """The compiled training of all policies by `num_steps` steps, whole blocks of the method; see `_make_phase`."""
    return _make_phase(algorithm, of_settings(algorithm), POLICY_TRAIN, num_steps, precision, devices, at_once)
