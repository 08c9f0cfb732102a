"""A run's folder, opened to resume it or to use what it learned: its config and all of its checkpoint are checked."""

import json
import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization
from ml_collections import ConfigDict

from spot_jax.methods import METHODS, options
from spot_jax.population import program
from spot_jax.population.program import PhaseState
from spot_jax.run.build import build
from spot_jax.run.config import default_config, goes_on, members, validate
from spot_jax.run.effects import read_paths
from spot_jax.run.fields import FIELDS
from spot_jax.run.results import columns
from spot_jax.run.ring_files import RingFiles
from spot_jax.storage import checkpoint, folder
from spot_jax.storage.checkpoint import DamagedError, compare
from spot_jax.system.backend import require_device
from spot_jax.system.errors import InputError

PHASE_NUMBERS = 10**9  # a checkpoint's number is its block, and so much for each phase before its own
# Fields that change no result: a resumed run may have others.
NO_EFFECT = (
    'evaluation.workers',
    'evaluation.timeout',
    'evaluation.trust_environment',
    'online.workers',
    'wandb.project',
)
EPISODES = ('returns', 'lengths', 'successes')


def open_workdir(
    config: ConfigDict, workdir: Path, sizes: tuple[int, int], sha256: str, begin: Callable[[], None]
) -> dict[str, Any] | None:
    """Begins a run in a folder, or returns the checkpoint to resume from; more steps of a phase make a run longer.

    `sizes` are the dataset's of observations and actions, `sha256` its checksum. `begin` is called first if there is no
    checkpoint. Raises InputError, with nothing changed, if the folder is another run's, learned from other data, or is
    damaged.
    """
    if not os.path.lexists(workdir / 'config.json'):
        begin()
        folder.begin(config, workdir)
        return None
    stored = read_config(workdir)
    before, ours = (json.loads(c.to_json()) for c in (stored, config))
    theirs = with_our_means(stored, config)
    if not _is_longer(theirs, ours) or goes_on(config) != goes_on(stored):
        folder.refuse_another(theirs, ours, workdir)
    state = folder.resume(workdir, partial(check, stored, workdir))
    if state is None:
        begin()
    else:
        if state['sha256'] != sha256 or sizes != _sizes(state):
            raise InputError(
                f'{config.dataset_id} has changed since the run in {workdir} began: choose another --workdir'
            )
        if theirs['offline'] != ours['offline'] and state['phase'] == 'online':
            raise InputError(f'the run in {workdir} is past its offline phase: choose another --workdir')
    folder.tidy(workdir)
    if theirs != ours:
        (workdir / 'results.json').unlink(missing_ok=True)  # they are of the run as long as it was before
    if before != ours:
        folder.write_config(config, workdir)
    return state


def with_our_means(stored: ConfigDict, config: ConfigDict) -> dict[str, Any]:
    """Their config, with our values of the fields that change no result: `NO_EFFECT`, and what neither run reads."""
    found, ours = (json.loads(c.to_json()) for c in (stored, config))
    read = {*read_paths(stored), *read_paths(config)}
    for path in (*NO_EFFECT, *(path for path in FIELDS if path not in read)):
        *groups, name = path.split('.')
        theirs, mine = found, ours
        for group in groups:
            theirs, mine = theirs[group], mine[group]
        theirs[name] = mine[name]
    return dict(found)


def _is_longer(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether our config differs from theirs in more steps of a phase alone."""
    longer = [phase for phase in ('offline', 'online') if theirs[phase]['steps'] < ours[phase]['steps']]
    return {**theirs, **{phase: {**theirs[phase], 'steps': ours[phase]['steps']} for phase in longer}} == ours


def read_config(workdir: Path) -> ConfigDict:
    """A run's config; fields that came after the run's version have their defaults. Raises InputError."""
    path = workdir / 'config.json'
    if not os.path.lexists(path):
        raise InputError(f'{workdir} is no run: it has no config.json')
    config = default_config()
    found = folder.read_json(path)
    try:
        _fill(config, found, 'config')
        validate(config)
        members(config)
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    return config


def _fill(config: ConfigDict, found: dict[str, Any], where: str) -> None:
    """Puts the values that were `found` into a config; raises InputError at one that does not belong."""
    for name, value in found.items():
        if name not in config:
            raise InputError(f'{where}.{name} is unknown here: it is of a newer version, or of another program')
        if isinstance(config[name], ConfigDict) and isinstance(value, dict):
            _fill(config[name], value, f'{where}.{name}')
            continue
        try:
            if isinstance(value, bool) != isinstance(config[name], bool) or isinstance(value, dict):
                raise TypeError  # ConfigDict takes a bool for a number
            config[name] = value
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f'{where}.{name}={_shown(value)}: expected a value such as {_shown(config[name])}'
            ) from error


def _shown(value: Any) -> str:
    return repr(value.to_dict() if isinstance(value, ConfigDict) else value)[:80]


def read_run(workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and newest checkpoint of a run that has come to its policies, as nested dicts.

    Raises InputError if there are none, or if they are damaged.
    """
    require_device()
    config = read_config(workdir)
    state = folder.restore(workdir, partial(check, config, workdir))
    if state is None or state['phase'] not in ('offline', 'online'):
        if state is None and (workdir / 'results.json').is_file():
            raise InputError(f'the run in {workdir} has ended, but its checkpoints are not there: put them back')
        raise InputError(f'the run in {workdir} has no trained policy yet: let it go on training')
    return json.loads(config.to_json()), state


def without_broken(state: PhaseState) -> PhaseState:
    """The state with those members diverged whose last update made numbers that are not finite: no loss told of it yet.

    It is how a checkpoint has it: what `check` demands of members that have not diverged.
    """
    broken = np.asarray(state.alive) & ~checkpoint.finite_members(jax.device_get(state.learner), state.alive.shape)
    if not broken.any():
        return state
    return state.replace(alive=jax.device_put(np.asarray(state.alive) & ~broken, state.alive.sharding))


def _sizes(state: dict[str, Any]) -> tuple[int, int]:
    """Of observations and actions."""
    return len(state['scaling']['mean']), len(state['scaling']['action_low'])


@lru_cache(maxsize=8)
def _traced(text: str, sizes: tuple[int, int]) -> dict[str, tuple[Any, Any]]:
    """The learners of a run's phases and what the stages before came to, as shapes and dtypes.

    And what acts, as `policies`. From its config (JSON) and its data's sizes; cached, as tracing them takes time.
    """
    config = default_config()
    _fill(config, json.loads(text), 'config')
    parts, shape = build(config, *sizes), members(config).shape
    seeds = jax.ShapeDtypeStruct(shape[:1], np.uint32)
    shared: Any = {}
    found: dict[str, tuple[Any, Any]] = {}
    for index, stage in enumerate(parts.stages):
        learner = jax.eval_shape(partial(program.init_stage, stage=stage, index=index), seeds).learner
        found[stage.name] = learner, shared
        shared = jax.eval_shape(stage.result, learner, shared)
    init = partial(program.init_policies, num_settings=shape[1], algorithm=parts.algorithm)
    learner = jax.eval_shape(init, seeds).learner
    found['offline'] = found['online'] = learner, shared
    hypers = members(config).hyperparameters()
    policies = jax.eval_shape(partial(program.policies_of, parts.algorithm), learner, shared, hypers)
    found['policies'] = policies, {}
    return found


def _shapes(config: ConfigDict, sizes: tuple[int, int]) -> dict[str, tuple[Any, Any]]:
    """The same as nested dicts, which is how checkpoints have them."""
    found = _traced(config.to_json(), sizes)
    return {phase: tuple(map(serialization.to_state_dict, each)) for phase, each in found.items()}


def policy_shapes(config: ConfigDict, sizes: tuple[int, int]) -> Any:
    """What acts of the members [M] of a run, as shapes and dtypes; `sizes` are those of observations and actions."""
    return _traced(config.to_json(), sizes)['policies'][0]


def _is(found: Any, dtype: Any, shape: tuple[int, ...], where: str) -> None:
    compare(found, jax.ShapeDtypeStruct(shape, dtype), where)


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise DamagedError(message)


def check(config: ConfigDict, workdir: Path, number: int, state: dict[str, Any]) -> None:
    """Raises DamagedError unless `state` is what a run of this config can have saved as checkpoint `number`."""
    fields = {'phase': str, 'sha256': str, 'metrics_position': int, 'evaluated_at': int}
    others = {'learner', 'alive', 'gradient_steps', 'block', 'density_params', 'scaling', 'wall_clock'}
    others |= {'episodes', 'before', 'online_successes'}
    newer = {'metrics_sha256', 'cvae_alive', 'ring_sha256', 'pending'}  # those of older versions have none
    have = state.keys() - newer - {'ring_segments'}
    _require(have == fields.keys() | others, 'it has other fields')
    compare({name: state[name] for name in fields}, fields, 'it')
    phase = state['phase']
    _require(phase and phase in build(config, 1, 1).phases(), f'its phase is {phase!r:.40}')
    _require(('ring_segments' in state) == (phase == 'online'), 'it has other fields')
    observations, actions = _check_scaling(state['scaling'])
    _check_learners(config, (observations, actions), state)
    _check_counts(config, number, state)
    _check_evaluations(config, state)
    _check_pending(config, (observations, actions), state.get('pending', {}))
    if phase == 'online':
        shape = members(config).shape
        files = RingFiles(workdir / 'ring', state['ring_segments'], state.get('ring_sha256'))
        files.check(shape, 2 * observations + actions + 2, config.online.steps)


def _check_scaling(scaling: Any) -> tuple[int, int]:
    """The sizes of observations and actions."""
    names = {'mean', 'std', 'action_low', 'action_high'}
    _require(isinstance(scaling, dict) and scaling.keys() == names, 'its scaling has other fields')
    for name, x in scaling.items():
        fits = isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype.kind == 'f' and x.size and np.isfinite(x).all()
        _require(fits, f'its scaling.{name} is no vector of numbers')
    mean, std, low, high = (scaling[name] for name in ('mean', 'std', 'action_low', 'action_high'))
    _require(mean.shape == std.shape and (std > 0).all(), 'its scaling makes no sense')
    _require(low.shape == high.shape and (low <= high).all(), 'its scaling makes no sense')
    return len(mean), len(low)


def _check_learners(config: ConfigDict, sizes: tuple[int, int], state: dict[str, Any]) -> None:
    """The networks and optimisers, and which members are alive."""
    shape = members(config).shape
    learner, shared = _shapes(config, sizes)[state['phase']]
    axes = shape if state['phase'] in ('offline', 'online') else shape[:1]
    compare(state['learner'], learner, 'its learner')
    _is(state['alive'], np.bool_, axes, 'its alive')
    finite = checkpoint.finite_members(state['learner'], axes)
    _require((finite | ~state['alive']).all(), 'its learner is not finite')
    density, alive = state['density_params'], state.get('cvae_alive', np.ones(shape[0], bool))
    _is(alive, np.bool_, shape[:1], 'its cvae_alive')
    if shared or axes != shape:
        compare(density, shared, 'its density_params')
        finite = checkpoint.finite_members(density, shape[:1])
        _require((finite | ~alive).all(), 'its density_params are not finite')
    else:
        _require(isinstance(density, dict), 'its density_params are no dict')


def _check_counts(config: ConfigDict, number: int, state: dict[str, Any]) -> None:
    """How far the run has come, and how long that took."""
    phase, parts = state['phase'], build(config, 1, 1)
    _is(state['block'], np.int32, (), 'its block')
    block, freq, updates = int(state['block']), parts.algorithm.block, config.online.updates_per_step
    last = {stage.name: stage.num_steps // stage.block for stage in parts.stages}
    last |= {'offline': config.offline.steps // freq, 'online': config.online.steps // freq * updates}
    per_block = {stage.name: stage.block for stage in parts.stages}.get(phase, freq)
    _require(0 <= block <= last[phase], f'its block is {block}')
    _require(number == block + parts.phases().index(phase) * PHASE_NUMBERS, 'its name is of another')
    steps = state['gradient_steps']
    _is(steps, np.int32, state['alive'].shape, 'its gradient_steps')
    _require((steps >= 0).all(), 'its gradient_steps are negative')
    if phase != 'online':  # that one can begin with another run's
        _require((steps <= block * per_block).all(), 'its gradient_steps are of another block')
    clock = state['wall_clock']
    _require(
        isinstance(clock, dict) and all(type(s) is float and np.isfinite(s) for s in clock.values()),
        'its wall_clock makes no sense',
    )


def _check_evaluations(config: ConfigDict, state: dict[str, Any]) -> None:
    """What evaluations came to."""
    size = len(members(config).members)
    _require(-1 <= state['evaluated_at'] <= max(config.offline.steps, config.online.steps), 'its evaluated_at is wrong')
    for name in ('episodes', 'before'):
        episodes = state[name]
        _require(isinstance(episodes, dict) and episodes.keys() <= set(EPISODES), f'its {name} have other fields')
        if episodes:
            _require(episodes.keys() >= set(EPISODES[:2]), f'its {name} have other fields')
            for key, x in episodes.items():
                _is(x, np.float64, (size, config.evaluation.episodes), f'its {name}.{key}')
    found = state['online_successes']
    fits = isinstance(found, np.ndarray) and found.dtype == np.float64 and found.shape[1:] in ((), (size,))
    _require(fits and (found.ndim == 2 or found.size == 0), 'its online_successes make no sense')


def _check_pending(config: ConfigDict, sizes: tuple[int, int], pending: Any) -> None:
    """Evaluations that were abandoned: the policies [M] of then, and the rows of metrics that wait for them."""
    _require(
        isinstance(pending, dict) and list(pending) == [str(i) for i in range(len(pending))], 'its pending is wrong'
    )
    shape = members(config).shape
    count = shape[0] * shape[1]
    params, _ = _shapes(config, sizes)['policies']
    known = set(columns(METHODS[config.method], options(config)))
    for item in pending.values():
        state = {
            'alive': jax.ShapeDtypeStruct(shape, np.bool_),
            'gradient_steps': jax.ShapeDtypeStruct(shape, np.int32),
            'block': jax.ShapeDtypeStruct((), np.int32),
        }
        compare(item, {'phase': str, 'step': int, 'rows': str, 'params': params, **state}, 'its pending')
        _require(item['phase'] in ('offline', 'online') and item['step'] >= 0, 'its pending is of no phase')
        finite = checkpoint.finite_members(item['params'], (count,))
        _require((finite | ~item['alive'].ravel()).all(), 'its pending is not finite')
        try:
            groups = json.loads(item['rows'])
            rows = [row for group in groups for row in group]
        except (ValueError, TypeError, RecursionError) as error:
            raise DamagedError('its pending has no rows of metrics') from error
        fits = all(isinstance(row, dict) and row.keys() <= known for row in rows)
        _require(isinstance(groups, list) and fits, 'its pending has no rows of metrics')
