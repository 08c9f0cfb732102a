"""D4RL's HDF5 files, flat arrays with all episodes in a row, made into Minari datasets.

Streamed: besides a flag per step, no more than an episode is in memory.
"""

import contextlib
import hashlib
import itertools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import h5py
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from tqdm import tqdm

from spot_jax import environments
from spot_jax.datasets.load import check_bounds, check_finite
from spot_jax.datasets.store import new_dataset
from spot_jax.errors import InputError
from spot_jax.tasks import TASKS, family

NEEDED = {'observations': 2, 'actions': 2, 'rewards': 1, 'terminals': 1}  # with their ranks
OPTIONAL = {'timeouts': 1, 'next_observations': 2}
INFOS = ('goal', 'qpos', 'qvel')
MAZE_TASKS = {'AntMaze': 'antmaze', 'PointMaze': 'pointmaze'}
CHUNK = 2**14  # steps
CACHE = 2**24  # bytes per array: a compressed chunk that several episodes share is unpacked once
EPISODE_OVERHEAD = 2**14  # bytes in Minari's files
SAMPLE = 10_000  # steps that an environment is checked against

Arrays = dict[str, h5py.Dataset]


class Episodes(NamedTuple):
    """Where the episodes are in the file; each has at least one step."""

    starts: np.ndarray  # [E]
    stops: np.ndarray  # [E], after the last step that is kept
    terminated: np.ndarray  # [E] bool


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise InputError(f'{path}: there is no such file')
    try:
        return h5py.File(path, 'r', rdcc_nbytes=CACHE)
    except OSError as error:
        raise InputError(f'{path} is no HDF5 file, or is damaged: {str(error).splitlines()[0]}') from error


def _read(array: h5py.Dataset, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
    try:
        return array[start:stop:step]
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f'{array.file.filename} is damaged: {array.name[1:]} cannot be read; get it again') from error


def _extended(array: h5py.Dataset, start: int, stop: int, final: h5py.Dataset, end: int) -> np.ndarray:
    """Rows `start` to `stop` of one array, and then row `end` of another."""
    return np.concatenate([_read(array, start, stop), _read(final, end, end + 1)])


def _arrays(file: h5py.File) -> Arrays:
    """The arrays [N, ...] that are used, by name; raises InputError if one is missing or has another shape."""
    path = file.filename
    ranks = NEEDED | OPTIONAL | {f'infos/{name}': None for name in INFOS}
    try:
        arrays = {name: file[name] for name in ranks if name in file}
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f'{path} is damaged: its arrays cannot be found; get it again') from error
    missing = [name for name in NEEDED if name not in arrays]
    if missing:
        raise InputError(f'{path} has no {", ".join(missing)}: D4RL files hold at least {", ".join(NEEDED)}')
    for name, array in arrays.items():
        if not isinstance(array, h5py.Dataset) or array.dtype.kind not in 'fiub':
            raise InputError(f'{path}: {name} must be an array of numbers')
        if array.ndim != (ranks[name] or max(1, array.ndim)) or 0 in array.shape[1:]:
            form = '[steps, size]' if ranks[name] == 2 else '[steps]'
            raise InputError(f'{path}: {name} must be {form}, not of shape {array.shape}')
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f'{path}: the arrays differ in length: {", ".join(f"{k} {v}" for k, v in lengths.items())}')
    if lengths['rewards'] == 0:
        raise InputError(f'{path} is empty: its arrays have no steps')
    if 'next_observations' in arrays and arrays['next_observations'].shape != arrays['observations'].shape:
        raise InputError(f'{path}: next_observations must have the shape of observations')
    return arrays


def _flags(array: h5py.Dataset) -> np.ndarray:
    """A flag per step, [N] bool."""
    values = _read(array)
    if ((values != 0) & (values != 1)).any():
        raise InputError(f'{array.file.filename}: {array.name[1:]} must be 0 or 1')
    return values.astype(bool)


def _episodes(arrays: Arrays, limit: int | None) -> Episodes:
    """Finds the episodes; `limit` is how many steps they may have where the file itself says nothing of time-outs."""
    terminals = _flags(arrays['terminals'])
    last = terminals.copy()  # whether a step is its episode's last one
    last[-1] = True
    if 'timeouts' in arrays:
        last |= _flags(arrays['timeouts'])
    elif 'next_observations' in arrays:
        for start in range(0, len(last) - 1, CHUNK):
            stop = min(start + CHUNK, len(last) - 1)
            successors = _read(arrays['next_observations'], start, stop)
            last[start:stop] |= (successors != _read(arrays['observations'], start + 1, stop + 1)).any(axis=1)
    elif limit is not None:
        for start, stop in itertools.pairwise([0, *(np.flatnonzero(last) + 1)]):
            last[start + limit - 1 : stop : limit] = True
    stops = np.flatnonzero(last) + 1
    starts = np.concatenate([[0], stops[:-1]])
    terminated = terminals[stops - 1]
    if 'next_observations' not in arrays:
        # The state after a time-out is not in the file: its step is given up, so that its observation is the final one.
        stops = np.where(terminated, stops, stops - 1)
    kept = stops > starts
    return Episodes(starts[kept], stops[kept], terminated[kept])


def _buffers(arrays: Arrays, episodes: Episodes, low: np.ndarray, high: np.ndarray) -> Iterator[Any]:
    """The episodes as Minari takes them, checked: actions within `low` and `high` [A], everything finite."""
    from minari.data_collector import EpisodeBuffer

    has_next = 'next_observations' in arrays
    final = arrays['next_observations' if has_next else 'observations']
    infos = {name: arrays[f'infos/{name}'] for name in INFOS if f'infos/{name}' in arrays}
    total = int((episodes.stops - episodes.starts).sum())
    with tqdm(total=total, unit=' transitions', disable=not sys.stderr.isatty()) as bar:
        for start, stop, terminated in zip(*(column.tolist() for column in episodes), strict=True):
            # Where the file does not have the state after a terminal, the last one is repeated: nothing is ever
            # bootstrapped from it.
            end = stop - 1 if has_next or terminated else stop
            observations = _extended(arrays['observations'], start, stop, final, end).astype(np.float32)
            actions = _read(arrays['actions'], start, stop).astype(np.float32)
            rewards = _read(arrays['rewards'], start, stop)
            where = f'{arrays["actions"].file.filename}, from step {start} on'
            check_finite(where, observations=observations, actions=actions, rewards=rewards)
            check_bounds(where, actions, low, high)
            ends = np.arange(stop - start) == stop - start - 1
            yield EpisodeBuffer(
                observations=observations,
                actions=actions,
                rewards=rewards,
                terminations=ends & terminated,
                truncations=ends & (not terminated),
                infos={k: _extended(v, start, stop, v, end) for k, v in infos.items()} or None,
            )
            bar.update(stop - start)


def _find_environment(environment_id: str) -> EnvSpec:
    environments.import_mazes()
    try:
        return gym.spec(environment_id)
    except gym.error.Error as error:
        raise InputError(f'--environment={environment_id}: {str(error).splitlines()[0]}') from error


def _check_environment(spec: EnvSpec, arrays: Arrays) -> tuple[Box, str]:
    """The environment's action space if it fits, and why the data cannot be evaluated there ('' if they can)."""
    (n, o), a = arrays['observations'].shape, arrays['actions'].shape[1]
    space: Box = Box(-1, 1, (a,), np.float32)
    sample = _read(arrays['observations'], step=-(-n // SAMPLE)).astype(np.float32)
    check_finite(arrays['observations'].file.filename, observations=sample)
    rows = np.zeros((len(sample), 2 * o + a + 2), np.float32)
    rows[:, :o] = sample  # the only columns that are looked at
    try:
        with contextlib.closing(environments.make(spec, TASKS[MAZE_TASKS.get(family(spec.id), 'locomotion')])) as env:
            theirs = env.action_space
            if not isinstance(theirs, Box) or len(env.observation_space.shape or ()) != 1:
                raise InputError(f'observations and actions of {spec.id} are not vectors')
            if theirs.shape == space.shape and theirs.is_bounded():
                space = theirs
            environments.check(env, rows, space.low, space.high)
    except InputError as error:
        return space, str(error)
    return space, ''


def import_d4rl(path: str | Path, dataset_id: str, environment_id: str | None = None, overwrite: bool = False) -> None:
    """Makes a Minari dataset of a D4RL file: observations [N, O], actions [N, A], rewards [N], terminals [N].

    The environment is recorded for evaluation if its sizes, action bounds and walls agree with the data; its time limit
    ends, in any case, the episodes of a file that has neither `timeouts` nor `next_observations`. The dataset appears
    whole or not at all. Raises InputError if the file or the environment makes no sense, or if the id is malformed or
    taken.
    """
    from minari.dataset.minari_storage import MinariStorage

    path = Path(path)
    with new_dataset(dataset_id, overwrite) as folder, _open(path) as file:
        arrays = _arrays(file)
        o, a = arrays['observations'].shape[1], arrays['actions'].shape[1]
        spec, limit, reason = None, None, 'no --environment is named'
        space: Box = Box(-1, 1, (a,), np.float32)
        if environment_id is not None:
            spec = _find_environment(environment_id)
            limit = spec.max_episode_steps
            space, reason = _check_environment(spec, arrays)
        episodes = _episodes(arrays, limit)
        if len(episodes.starts) == 0:
            raise InputError(f'{path} has no episode with a step whose next observation is known')
        transitions = int((episodes.stops - episodes.starts).sum())
        size = sum(array.nbytes for array in arrays.values()) + EPISODE_OVERHEAD * len(episodes.starts)
        if shutil.disk_usage(folder).free < size:  # HDF5 crashes when the disk is full
            raise InputError(f'{dataset_id} takes about {size / 1e9:.1f} GB of disk, and there is not as much left')
        evaluated = None if reason else spec
        spaces = {'observation_space': Box(-np.inf, np.inf, (o,), np.float32), 'action_space': space}
        storage = MinariStorage.new(folder / 'data', env_spec=evaluated, **spaces)
        storage.update_metadata(_metadata(dataset_id, path, transitions, len(episodes.starts), evaluated))
        storage.update_episodes(_buffers(arrays, episodes, space.low, space.high))
    if limit is None and not set(OPTIONAL) & set(arrays):
        print(f'{path} does not say where time-outs are: name the --environment, or episodes end at terminals only')
    if reason:
        print(f'{dataset_id} can be trained on, but not evaluated: {reason}')
    print(f'{dataset_id}: {transitions} transitions in {len(episodes.starts)} episodes')


def _metadata(
    dataset_id: str, path: Path, transitions: int, episodes: int, environment: EnvSpec | None
) -> dict[str, Any]:
    import minari

    try:
        with path.open('rb') as file:
            sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    metadata = {
        'dataset_id': dataset_id,
        'minari_version': minari.__version__,
        'algorithm_name': 'not told by the file',
        'author': {'D4RL (file imported by spot_jax)'},
        'author_email': set(),
        'code_permalink': 'spot_jax/datasets/d4rl.py',
        'description': f'Imported from {path.name} (SHA-256 {sha256}): {transitions} transitions, {episodes} episodes.',
    }
    return metadata | ({'eval_env_spec': environment.to_json()} if environment else {})
