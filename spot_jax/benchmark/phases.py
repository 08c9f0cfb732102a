"""A phase of a population at given sizes, compiled from shapes alone or ready to be timed."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spot_jax.benchmark import flops
from spot_jax.core.method import Data
from spot_jax.population import program
from spot_jax.run.build import build
from spot_jax.run.config import members
from spot_jax.run.config_files import read_config
from spot_jax.run.footprint import of_phases
from spot_jax.system.errors import InputError

TRANSITIONS = 100_000
EPISODE = 1000  # steps


class Case(NamedTuple):
    """One thing to measure."""

    name: str
    run: Callable[[int], Any]  # makes that many updates of each member
    steps: int  # of one round
    members: int
    flops: float  # of one update of one member
    compile_s: float | None
    memory: int | None  # bytes, of the compiled program with its arguments


def data_of_rows(rows: Any) -> Data:
    """Packed transitions [N, D] as episodes of `EPISODE` steps."""
    index = jnp.arange(len(rows), dtype=jnp.int32)
    first = index // EPISODE * EPISODE
    return Data(jnp.asarray(rows), first, jnp.minimum(first + EPISODE, len(rows)) - 1, jnp.zeros(len(rows)))


def data_shapes(sizes: tuple[int, int], transitions: int) -> Data:
    """The shapes of so many transitions of these sizes (O, A)."""
    return jax.eval_shape(data_of_rows, jax.ShapeDtypeStruct((transitions, 2 * sizes[0] + sizes[1] + 2), jnp.float32))


def random_rows(sizes: tuple[int, int], transitions: int = TRANSITIONS) -> np.ndarray:
    """Packed transitions `[N, 2 * O + A + 2]` of these sizes (O, A): standard normal, actions within [-1, 1]."""
    o, a = sizes
    rows = np.random.default_rng(0).normal(size=(transitions, 2 * o + a + 2)).astype(np.float32)
    rows[:, o : o + a] = np.clip(rows[:, o : o + a], -1, 1)
    rows[:, o + a + 1] = 1.0
    return rows


def with_settings(config: ConfigDict, **settings: Any) -> ConfigDict:
    """A copy with these fields changed; dotted names go as `**{'cvae.lr': 1e-3}`."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.update_from_flattened_dict(settings)
    return changed


def spot_config(text: str) -> ConfigDict:
    """The config of `FILE.py[:PRESET]`; raises InputError if its method is not SPOT, whose phases are measured."""
    config = read_config(text)
    if config.method != 'spot':
        raise InputError(f'--config={text}: its method is {config.method}, and what is measured is spot')
    return config


def prepare(
    config: ConfigDict, sizes: tuple[int, int], phase: str, steps: int, at_once: int | None = None
) -> tuple[Any, Callable[[], tuple[Any, ...]]]:
    """A phase (a stage's name, or 'policy') of `steps` steps, and a function that makes its arguments but the data.

    What the stages before it came to is that of fresh ones.
    """
    everyone, parts = members(config), build(config, *sizes)
    seeds, options = everyone.seeds(), {'precision': config.precision, 'at_once': at_once}
    names = [stage.name for stage in parts.stages]

    def arguments() -> tuple[Any, ...]:
        hypers, shared = everyone.hyperparameters(), None
        for i, stage in enumerate(parts.stages):
            state = program.init_stage(seeds, stage, i)
            if stage.name == phase:
                return state, seeds, hypers, shared
            shared = stage.result(state.learner, shared)
        return program.init_policies(seeds, everyone.shape[1], parts.algorithm), seeds, hypers, shared

    assert phase in (*names, 'policy'), phase
    if phase in names:
        index = names.index(phase)
        return program.stage_phase(parts.stages[index], steps, index, **options), arguments
    return program.policy_phase(parts.algorithm, steps, **options), arguments


def lower(
    config: ConfigDict,
    phase: str,
    sizes: tuple[int, int],
    steps: int,
    sharding: Any = None,
    transitions: int = 1_000_000,
) -> Any:
    """A phase of a population lowered from shapes alone; sizes: of observations and actions.

    All members train at once, as on a GPU.
    """
    run, arguments = prepare(config, sizes, phase, steps, len(members(config).members))
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return run.lower(*jax.tree.map(shape, (*jax.eval_shape(arguments), data_shapes(sizes, transitions))))


def bytes_of(compiled: Any) -> int:
    """The memory that a compiled program takes, with its arguments."""
    memory = compiled.memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def block_of(config: ConfigDict, sizes: tuple[int, int], phase: str) -> int:
    """The gradient steps of a block of a phase."""
    parts = build(config, *sizes)
    return {**{stage.name: stage.block for stage in parts.stages}, 'policy': parts.algorithm.block}[phase]


def whole_blocks(config: ConfigDict, sizes: tuple[int, int], phase: str, steps: int) -> int:
    """As many steps in whole blocks, at least one: a phase makes no others."""
    block = block_of(config, sizes, phase)
    return max(1, steps // block) * block


def update_flops(config: ConfigDict, sizes: tuple[int, int], phase: str) -> float:
    """Floating-point operations of the products of one gradient step of one member."""
    return flops.of(of_phases(config, sizes)[phase][0].jaxpr) / block_of(config, sizes, phase)


def case(
    name: str,
    config: ConfigDict,
    rows: Data,
    phase: str,
    sizes: tuple[int, int],
    steps: int,
    at_once: int | None = None,
    options: dict[str, Any] | None = None,
) -> Case:
    """A population's phase, compiled, of which each member makes `steps` steps in a round, in whole blocks.

    `at_once` members train at a time; `options` are XLA's. By default, both are as in a run.
    """
    steps = whole_blocks(config, sizes, phase, steps)
    phase_fn, arguments = prepare(config, sizes, phase, steps, at_once)
    state, *rest = arguments()
    start = time.perf_counter()
    compiled = phase_fn.lower(state, *rest, rows).compile(compiler_options=options)
    compile_s = time.perf_counter() - start
    held = [state]

    def run(_: int) -> None:
        held[0], metrics = compiled(held[0], *rest, rows)
        jax.block_until_ready(metrics)

    work, size = update_flops(config, sizes, phase), bytes_of(compiled)
    return Case(name, run, steps, len(members(config).members), work, compile_s, size)
