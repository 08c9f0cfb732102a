"""D4RL's HDF5 files made into Minari datasets.

Streamed: besides a flag per step, no more than an episode is in memory.
"""

import contextlib
import hashlib
import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from tqdm import tqdm

from spot_jax.acting import environments
from spot_jax.acting.env_pool import TIMEOUT, bounded
from spot_jax.acting.tasks import TASKS, family
from spot_jax.data.checks import check_bounds, check_finite
from spot_jax.data.d4rl_file import (
    CACHE,
    INFOS,
    OPTIONAL,
    Arrays,
    Episodes,
    chunk_bytes,
    column,
    extended,
    find_episodes,
    read,
    read_arrays,
)
from spot_jax.data.hdf5 import open_own, write_episodes
from spot_jax.data.store import new_dataset
from spot_jax.system.errors import InputError, first_line

MAZE_TASKS = {'AntMaze': 'antmaze', 'PointMaze': 'pointmaze'}
EPISODE_OVERHEAD = 2**14  # bytes in Minari's files
SAMPLE = 10_000  # steps that an environment is checked against


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
            with np.errstate(over='ignore'):  # what is infinite as float32 is refused
                observations = extended(arrays['observations'], start, stop, final, end).astype(np.float32)
                actions = read(arrays['actions'], start, stop).astype(np.float32)
                rewards = column(arrays['rewards'], start, stop)
                where = f'{arrays["actions"].file.filename}, from step {start} on'
                check_finite(where, observations=observations, actions=actions, rewards=rewards.astype(np.float32))
            check_bounds(where, actions, low, high)
            ends = np.arange(stop - start) == stop - start - 1
            yield EpisodeBuffer(
                observations=observations,
                actions=actions,
                rewards=rewards,
                terminations=ends & terminated,
                truncations=ends & (not terminated),
                infos={k: extended(v, start, stop, v, end) for k, v in infos.items()} or None,
            )
            bar.update(stop - start)


def _find_environment(environment_id: str) -> EnvSpec:
    """The registered environment; of `module:Name-v0` the module is imported first. InputError if there is none."""
    environments.import_mazes()
    module, _, name = environment_id.rpartition(':')
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (Exception, SystemExit) as error:  # a module can raise anything
        reason = first_line(error)
        raise InputError(f'--environment={environment_id}: {reason}') from error


def _check_environment(spec: EnvSpec, arrays: Arrays) -> tuple[Box, str]:
    """The environment's action space if it fits, and why the data cannot be evaluated there ('' if they can)."""
    (n, o), a = arrays['observations'].shape, arrays['actions'].shape[1]
    space: Box = Box(-1, 1, (a,), np.float32)
    with np.errstate(over='ignore'):
        sample = read(arrays['observations'], step=-(-n // SAMPLE)).astype(np.float32)
    check_finite(arrays['observations'].file.filename, observations=sample)
    rows = np.zeros((len(sample), 2 * o + a + 2), np.float32)
    rows[:, :o] = sample  # the only columns that are looked at
    task = TASKS[MAZE_TASKS.get(family(spec.id), 'locomotion')]

    def compare() -> None:
        nonlocal space
        with contextlib.closing(environments.make(spec, task, trusted=True)) as env:
            theirs = env.action_space
            if not isinstance(theirs, Box) or len(env.observation_space.shape or ()) != 1:
                raise InputError(f'observations and actions of {spec.id} are not vectors')
            if theirs.shape == space.shape and theirs.is_bounded():
                space = theirs
            environments.check(env, rows, space.low, space.high)

    try:
        spec.to_json()  # how it is recorded
        bounded(compare, TIMEOUT)
    except Exception as error:  # environments raise many kinds
        return space, first_line(error)
    return space, ''


def _check_room(folder: Path, arrays: Arrays, episodes: Episodes) -> None:
    """Raises InputError if a dataset of these episodes does not fit in the memory or on the disk: said at once."""
    rows = sum(array.nbytes for array in arrays.values())
    longest = int((episodes.stops - episodes.starts).max()) * rows // len(arrays['rewards'])
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    if 4 * longest > memory:
        raise InputError(f'an episode of {longest / 1e9:.1f} GB does not fit in a memory of {memory / 1e9:.1f} GB')
    size = rows + EPISODE_OVERHEAD * len(episodes.starts)
    if shutil.disk_usage(folder).free < size:
        raise InputError(f'{folder.parent} has no room: it takes about {size / 1e6:.0f} MB of disk')


def import_d4rl(path: str | Path, dataset_id: str, environment_id: str | None = None, overwrite: bool = False) -> None:
    """Makes a Minari dataset of a D4RL file: observations [N, O], actions [N, A], rewards [N], terminals [N].

    The environment is recorded for evaluation if its sizes, action bounds and walls agree with the data; its time limit
    ends, in any case, the episodes of a file that has neither `timeouts` nor `next_observations`. The dataset appears
    whole or not at all. Raises InputError if the file or the environment makes no sense, or if the id is malformed or
    taken.
    """
    from minari.dataset.minari_storage import MinariStorage

    path = Path(path)
    with open_own(path) as file:
        cache = max(CACHE, chunk_bytes(read_arrays(file)))
    with new_dataset(dataset_id, overwrite) as folder, open_own(path, cache) as file:
        arrays = read_arrays(file)
        o, a = arrays['observations'].shape[1], arrays['actions'].shape[1]
        spec, limit, reason = None, None, 'no --environment is named'
        space: Box = Box(-1, 1, (a,), np.float32)
        if environment_id is not None:
            spec = _find_environment(environment_id)
            limit = spec.max_episode_steps
            space, reason = _check_environment(spec, arrays)
        episodes = find_episodes(arrays, limit)
        _check_room(folder, arrays, episodes)
        transitions = int((episodes.stops - episodes.starts).sum())
        evaluated = None if reason else spec
        spaces = {'observation_space': Box(-np.inf, np.inf, (o,), np.float32), 'action_space': space}
        storage = MinariStorage.new(folder / 'data', env_spec=evaluated, **spaces)
        storage.update_metadata(_metadata(dataset_id, path, transitions, len(episodes.starts), evaluated))
        write_episodes(storage, _buffers(arrays, episodes, space.low, space.high))
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
        'code_permalink': 'spot_jax/data/d4rl.py',
        'description': f'Imported from {path.name} (SHA-256 {sha256}): {transitions} transitions, {episodes} episodes.',
    }
    return metadata | ({'eval_env_spec': environment.to_json()} if environment else {})
