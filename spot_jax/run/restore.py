"""What a run takes over from another: what its stages came to, or its policies to fine-tune online."""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from ml_collections import ConfigDict

from spot_jax.core.method import Stage
from spot_jax.methods import METHODS, options, path_of
from spot_jax.population.members import Population
from spot_jax.population.program import PhaseState
from spot_jax.run.build import parts_of
from spot_jax.run.config import goes_on, lookup, members
from spot_jax.run.workdir import read_config, read_run
from spot_jax.system.errors import InputError


def _read(option: str, config: ConfigDict, sha256: str) -> tuple[ConfigDict, dict[str, Any]]:
    """The other run's config and checkpoint; raises InputError if it is of another method or of other data."""
    folder = lookup(config, option)
    raw, state = read_run(Path(folder))
    theirs = ConfigDict(raw)
    _agree(option, config, theirs, ('method',))
    if state['sha256'] != sha256:
        raise InputError(f'config.{option}={folder} learned from {theirs.dataset_id}, which is other data than this')
    return theirs, state


def _agree(option: str, config: ConfigDict, theirs: ConfigDict, fields: Sequence[str]) -> None:
    """Raises InputError if the other run has other `fields`."""
    ours = ConfigDict(json.loads(config.to_json()))
    for name in fields:
        if lookup(theirs, name) != lookup(ours, name):
            folder = lookup(config, option)
            raise InputError(
                f"config.{option}={folder}: its {name} is {lookup(theirs, name)}, this run's {lookup(ours, name)}"
            )


def stages_folder(config: ConfigDict) -> str | None:
    """The run that the config takes its stages from."""
    option = METHODS[config.method].restore
    return option and lookup(options(config), option)


def _fields(config: ConfigDict, stages: Sequence[Stage]) -> list[str]:
    """Where the config has the options that say what these stages come to."""
    return [path_of(config.method, name) for name in dict.fromkeys(name for stage in stages for name in stage.fields)]


def _told(group: tuple[float, ...], shared_by: tuple[str, ...]) -> str:
    """A group that shares its stages, in words."""
    seed, *rest = group
    return ', '.join([f'seed {seed}', *(f'{name} {value:g}' for name, value in zip(shared_by, rest, strict=True))])


def restored_stages(
    config: ConfigDict, population: Population, stages: Sequence[Stage], sha256: str
) -> tuple[Any, int]:
    """What the stages of another run came to, [C], by what they depend on, and how many of `stages` these are.

    If it had fewer, they are the first of them; of more, the first are taken. Raises InputError if they do not fit.
    """
    method, path = population.method, path_of(config.method, METHODS[config.method].restore or '')
    theirs, state = _read(path, config, sha256)
    where = f'config.{path}={lookup(config, path)}'
    trained = parts_of(theirs, state).stages
    names, ours = ([stage.name for stage in each] for each in (trained, stages))
    if names[: len(ours)] != ours[: len(names)]:
        raise InputError(f'{where} has trained {" and ".join(names)}: this run takes {" and ".join(ours)}')
    taken = stages[: len(names)]
    _agree(path, config, theirs, _fields(config, taken))
    stage = (taken or stages)[-1].name.upper()
    have = members(theirs).groups()
    missing = [_told(group, method.shared_by) for group in population.groups() if group not in have]
    if missing or not names or not state['density_params']:
        raise InputError(f'{where} has no {stage} of {"; ".join(missing) or "any seed"}')
    chosen = np.array([have.index(group) for group in population.groups()])
    found = state['density_params']
    if len(names) > len(ours):
        _, found = METHODS[config.method].go_on(options(theirs), options(config), state['learner'], found)
    alive = shared_alive(state)[chosen]
    sick = [_told(group, method.shared_by) for group, a in zip(population.groups(), alive, strict=True) if not a]
    if sick:
        raise InputError(f'{where}: its {stage} of {"; ".join(sick)} has diverged')
    return jax.tree.map(lambda x: jnp.asarray(x[chosen]), found), len(taken)


def shared_alive(state: dict[str, Any]) -> np.ndarray:
    """Whose stages [C] of a checkpoint have not diverged; older versions did not tell."""
    return state.get('cvae_alive', np.ones(len(state['alive']), bool))


def with_population(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config of a run in `workdir` with the members that it goes on from: seeds and grid of `online.restore`.

    A run that has begun so knows them itself. Raises InputError if neither is a run.
    """
    if not goes_on(config):
        return config
    theirs = read_config(workdir) if os.path.lexists(workdir / 'config.json') else None
    if theirs is None or not goes_on(theirs) or theirs.online.restore != config.online.restore:
        theirs = read_config(Path(config.online.restore))
    config = copy.deepcopy(config)
    config.seeds, config.grid = theirs.seeds, theirs.grid
    return config


def restored_policies(
    config: ConfigDict, sha256: str, fresh: PhaseState, stages: Sequence[Stage]
) -> tuple[PhaseState, Any, np.ndarray]:
    """The learners and counters [C, P] of `online.restore`, its stages' results [C] and which of these are alive.

    All are of this run's members; `fresh` says what the learners look like. Raises InputError if they do not fit, or if
    a member or what the policies need of the stages is missing.
    """
    method = METHODS[config.method]
    theirs, state = _read('online.restore', config, sha256)
    where = f'config.online.restore={config.online.restore}'
    own = [path_of(config.method, name) for name in method.policy_fields]
    _agree('online.restore', config, theirs, [*own, *_fields(config, stages)])
    if _whole_population(theirs) != _whole_population(config):
        raise InputError(f'{where} has other members than this run began with')
    have, ours = members(theirs), members(config)
    numbers = [m.number for m in have.members]
    missing = [m.number for m in ours.members if m.number not in numbers]
    if missing:
        raise InputError(f'{where} has no members {missing}: it is a part')
    chosen = np.array([numbers.index(m.number) for m in ours.members])
    groups = chosen[:: ours.shape[1]] // have.shape[1]
    pairs = zip(ours.groups(), [have.groups()[i] for i in groups], strict=True)
    others = [_told(group, method.shared_by) for group, theirs_ in pairs if group != theirs_]
    if stages and (others or not state['density_params']):
        raise InputError(f'{where} has no {stages[-1].name.upper()} of {"; ".join(others) or "any seed"}')
    try:
        learner, shared = method.go_on(options(theirs), options(config), state['learner'], state['density_params'])
    except ValueError as error:
        raise InputError(f'{where}: {error}') from error
    state |= {'learner': learner}
    take = lambda x: jnp.asarray(x.reshape(-1, *x.shape[2:])[chosen].reshape(*ours.shape, *x.shape[2:]))
    taken = {
        name: jax.tree.map(take, serialization.from_state_dict(getattr(fresh, name), state[name]))
        for name in ('learner', 'alive', 'gradient_steps')
    }
    shared = jax.tree.map(lambda x: jnp.asarray(x[groups]), shared if stages else {})
    return fresh.replace(**taken), shared, shared_alive(state)[groups]


def _whole_population(config: ConfigDict) -> tuple[list[int], dict[str, list[float]]]:
    """The seeds and the grid of a run, of which it may train a part."""
    return list(config.seeds), {name: list(values) for name, values in config.grid.items()}
