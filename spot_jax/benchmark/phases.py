"""A phase of a population at given sizes, compiled from shapes alone or ready to be timed."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spot_jax import population
from spot_jax.benchmark import flops
from spot_jax.build import build_spec
from spot_jax.config import members
from spot_jax.population import Spec

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
    everyone = members(config)
    make = population.cvae_phase if phase == 'cvae' else population.policy_phase

    def arguments() -> tuple[Any, ...]:
        seeds = jnp.array([seed for seed, _ in everyone.cvaes()], jnp.uint32)
        cvaes = population.init_cvaes(seeds, spec)
        if phase == 'cvae':
            return cvaes, seeds, everyone.hyperparameters(), None
        policies = population.init_policies(seeds, everyone.shape[1], spec)
        return policies, seeds, everyone.hyperparameters(), cvaes.learner.params

    return make(spec, steps, at_once=at_once), arguments


def lower(config: ConfigDict, phase: str, sizes: tuple[int, int], steps: int, sharding: Any) -> Any:
    """A phase of a population lowered from shapes alone, for a million rows; sizes: of observations and actions.

    All members train at once, as on a GPU.
    """
    run, arguments = prepare(config, build_spec(config, *sizes), phase, steps, len(members(config).members))
    rows = jax.ShapeDtypeStruct((1_000_000, 2 * sizes[0] + sizes[1] + 2), jnp.float32)
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return run.lower(*jax.tree.map(shape, (*jax.eval_shape(arguments), rows)))


def update_flops(spec: Spec, phase: str) -> float:
    """Floating-point operations of one update of one member."""
    return flops.cvae_update(spec) if phase == 'cvae' else flops.policy_update(spec)


def case(name: str, config: ConfigDict, rows: jax.Array, phase: str, sizes: tuple[int, int], steps: int) -> Case:
    """A population's phase, compiled, of which each member makes `steps` steps in a round."""
    spec = build_spec(config, *sizes)
    phase_fn, arguments = prepare(config, spec, phase, steps)
    state, *rest = arguments()
    start = time.perf_counter()
    compiled = phase_fn.lower(state, *rest, rows).compile()
    compile_s = time.perf_counter() - start
    held = [state]

    def run(_: int) -> None:
        held[0], metrics = compiled(held[0], *rest, rows)
        jax.block_until_ready(metrics)

    memory = compiled.memory_analysis()
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return Case(name, run, steps, len(members(config).members), update_flops(spec, phase), compile_s, size)
