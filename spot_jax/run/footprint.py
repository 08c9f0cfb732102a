"""What a run takes of memory, at least, by the shapes of its arrays: checked before anything starts.

It is a lower bound: what the compiler adds is not known before it has run.
"""

import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from ml_collections import ConfigDict

from spot_jax.core.method import Algorithm, Data, Stage
from spot_jax.core.xla import AT_ONCE
from spot_jax.methods import METHODS, hyperparameters, options
from spot_jax.run.build import build
from spot_jax.run.config import lookup
from spot_jax.run.liveness import FLOAT, most_stored
from spot_jax.system.memory import Part, device_memory, require_room

POPULATION = 'the number of seeds and grid values'
MINIBATCH = 'what makes minibatches large: batch_size, num_samples, hidden_dims'
ADVICE = f'lower {MINIBATCH}, or {POPULATION}'


def _members(config: ConfigDict) -> tuple[int, int]:
    """How many members this process trains, and how many groups of stages, at least; there may be millions."""
    shared_by = METHODS[config.method].shared_by
    number = {name: max(1, len(config.grid[name])) for name in hyperparameters(config.method)}
    groups = len(config.seeds) * math.prod(number[name] for name in shared_by)
    everyone = groups * math.prod(count for name, count in number.items() if name not in shared_by)
    count = config.part[1]
    return max(1, everyone // count), max(1, groups // count)


def _size(tree: Any) -> int:
    """Bytes of the arrays in a tree of shapes."""
    return sum(math.prod(x.shape) * FLOAT for x in jax.tree.leaves(tree))


class Traced(NamedTuple):
    """An update of one member, by shapes."""

    learner: Any
    drawn: Any  # what a block draws
    jaxpr: core.Jaxpr | None  # None: not traced, which takes most of the time


def traced(part: Algorithm | Stage, hypers: Any, shared: Any, row_size: int, whole: bool = True) -> Traced:
    """A part's block of updates; `shared` is what the stages before it came to, `row_size` that of a transition."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    row, index = jnp.zeros(row_size), jnp.int32(0)
    one_row = lambda: Data(row[None], index[None], index[None], jnp.zeros(1))
    data = jax.eval_shape(one_row)  # an update draws as much from any number of rows
    learner, drawn = jax.eval_shape(part.init, key), jax.eval_shape(part.draw, key, data)
    jaxpr = jax.make_jaxpr(part.update)(learner, shared, drawn, hypers, index).jaxpr if whole else None
    return Traced(learner, drawn, jaxpr)


_TRACED: dict[str, dict[str, tuple[Traced, Any]]] = {}  # by what it depends on: tracing takes a second


def of_phases(config: ConfigDict, sizes: tuple[int, int], whole: bool = True) -> dict[str, tuple[Traced, Any]]:
    """The updates of the run's stages by their names, then of its policies as 'policy', each with its `shared`.

    whole: what they compute, too, not only what they learn and draw.
    """
    own = {field: lookup(options(config), field) for field in METHODS[config.method].fields}
    key = json.dumps([config.method, config.offline.steps, config.online.steps, own, sizes, whole])
    if key not in _TRACED:
        if len(_TRACED) >= 8:
            _TRACED.clear()
        _TRACED[key] = _trace(config, sizes, whole)
    return dict(_TRACED[key])


def _trace(config: ConfigDict, sizes: tuple[int, int], whole: bool) -> dict[str, tuple[Traced, Any]]:
    """As `of_phases`."""
    parts, row = build(config, *sizes), 2 * sizes[0] + sizes[1] + 2
    kind = parts.method.hyperparameters
    hypers = kind(*(jax.ShapeDtypeStruct((), jnp.float32) for _ in kind._fields))
    found: dict[str, tuple[Traced, Any]] = {}
    shared: Any = None
    for stage in parts.stages:
        one = traced(stage, hypers, shared, row, whole)
        found[stage.name] = one, shared
        shared = jax.eval_shape(stage.result, one.learner, shared)
    return found | {'policy': (traced(parts.algorithm, hypers, shared, row, whole), shared)}


def _of_update(one: Traced) -> int:
    """The bytes that an update draws and computes, at least."""
    return _size(one.drawn) + (most_stored(one.jaxpr) if one.jaxpr else 0)


def phases(
    config: ConfigDict, sizes: tuple[int, int], transitions: int, devices: int = 1, at_once: int = 1
) -> dict[str, list[Part]]:
    """What is in the memory of one of `devices` while each trains `at_once` members at a time, by the run's phases.

    sizes: of observations and actions. Without transitions, what an update computes is left out.
    """
    row = 2 * sizes[0] + sizes[1] + 2
    members, groups = (-(-number // devices) for number in _members(config))
    always = [Part('the dataset', FLOAT * transitions * row, "the dataset's size")]
    found: dict[str, list[Part]] = {}
    lower = f'the hidden_dims of its networks, or {POPULATION}'
    stages = of_phases(config, sizes, transitions > 0)
    policy, shared = stages.pop('policy')
    for name, (one, _) in stages.items():
        found[name] = [
            *always,
            Part(f'the {name.upper()}s with their optimisers', groups * _size(one.learner), lower),
            Part(f"one {name.upper()} update's minibatches", min(at_once, members) * _of_update(one), MINIBATCH),
        ]
    found['offline'] = [
        *always,
        Part('the policies with their optimisers', members * _size(policy.learner), lower),
        Part("what the policies' stages came to", groups * _size(shared), lower),
        Part("one update's minibatches", min(at_once, members) * _of_update(policy), MINIBATCH),
    ]
    if config.online.steps:
        kept = config.online.capacity or config.online.steps
        ring = Part(
            "the members' new transitions", FLOAT * members * kept * row, f'config.online.capacity, or {POPULATION}'
        )
        found['online'] = [*found['offline'], ring]
    return found


def check(config: ConfigDict, sizes: tuple[int, int] = (1, 1), transitions: int = 0) -> None:
    """Raises InputError if a run cannot fit in memory; without `sizes` and `transitions`, on any dataset."""
    devices = jax.local_devices()
    platform = devices[0].platform
    shared = platform == 'cpu'  # all devices have the host's memory
    number = 1 if shared else len(devices)
    at_once = AT_ONCE.get(platform, math.prod(_members(config)))
    where = 'this machine' if shared else f'a {devices[0].device_kind}'
    for parts in phases(config, sizes, transitions, number, at_once).values():
        require_room(parts, device_memory(devices[0]), where)
