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
from spot_jax.methods import spot
from spot_jax.methods.spot import Spec
from spot_jax.population import program
from spot_jax.run.config import members

TRANSITIONS = 100_000


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
    """Packed transitions [N, D] as one episode."""
    index = jnp.zeros(len(rows), jnp.int32)
    return Data(jnp.asarray(rows), index, index + len(rows) - 1, jnp.zeros(len(rows)))


def random_rows(spec: Spec) -> np.ndarray:
    """Packed transitions of the right sizes, `[N, 2 * O + A + 2]`: standard normal, actions within [-1, 1]."""
    o, a = spec.observation_dim, spec.cvae.action_dim
    rows = np.random.default_rng(0).normal(size=(TRANSITIONS, 2 * o + a + 2)).astype(np.float32)
    rows[:, o : o + a] = np.clip(rows[:, o : o + a], -1, 1)
    rows[:, o + a + 1] = 1.0
    return rows


def with_settings(config: ConfigDict, **settings: Any) -> ConfigDict:
    """A copy with these fields changed; dotted names go as `**{'cvae.lr': 1e-3}`."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.update_from_flattened_dict(settings)
    return changed


def prepare(
    config: ConfigDict, spec: Spec, phase: str, steps: int, at_once: int | None = None
) -> tuple[Any, Callable[[], tuple[Any, ...]]]:
    """A phase ('cvae' or 'policy') of `steps` steps, and a function that makes its arguments but the rows."""
    everyone, algorithm, cvae = members(config), spot.algorithm(spec), spot.cvae_stage(spec)
    seeds, options = everyone.seeds(), {'precision': config.precision, 'at_once': at_once}

    def arguments() -> tuple[Any, ...]:
        cvaes = program.init_stage(seeds, cvae)
        if phase == 'cvae':
            return cvaes, seeds, everyone.hyperparameters(), None
        policies = program.init_policies(seeds, everyone.shape[1], algorithm)
        return policies, seeds, everyone.hyperparameters(), cvaes.learner.params

    if phase == 'cvae':
        return program.stage_phase(cvae, steps, **options), arguments
    return program.policy_phase(algorithm, steps, **options), arguments


def lower(config: ConfigDict, phase: str, sizes: tuple[int, int], steps: int, sharding: Any) -> Any:
    """A phase of a population lowered from shapes alone, for a million rows; sizes: of observations and actions.

    All members train at once, as on a GPU.
    """
    run, arguments = prepare(config, spot.make_spec(config, *sizes), phase, steps, len(members(config).members))
    rows = jax.eval_shape(data_of_rows, jax.ShapeDtypeStruct((1_000_000, 2 * sizes[0] + sizes[1] + 2), jnp.float32))
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return run.lower(*jax.tree.map(shape, (*jax.eval_shape(arguments), rows)))


def update_flops(spec: Spec, phase: str) -> float:
    """Floating-point operations of one update of one member."""
    return flops.cvae_update(spec) if phase == 'cvae' else flops.policy_update(spec)


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
    """A population's phase, compiled, of which each member makes `steps` steps in a round.

    `at_once` members train at a time; `options` are XLA's. By default, both are as in a run.
    """
    spec = spot.make_spec(config, *sizes)
    phase_fn, arguments = prepare(config, spec, phase, steps, at_once)
    state, *rest = arguments()
    start = time.perf_counter()
    compiled = phase_fn.lower(state, *rest, rows).compile(compiler_options=options)
    compile_s = time.perf_counter() - start
    held = [state]

    def run(_: int) -> None:
        held[0], metrics = compiled(held[0], *rest, rows)
        jax.block_until_ready(metrics)

    memory = compiled.memory_analysis()
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return Case(name, run, steps, len(members(config).members), update_flops(spec, phase), compile_s, size)
