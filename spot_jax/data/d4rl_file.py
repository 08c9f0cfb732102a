"""D4RL's HDF5 files: flat arrays with all episodes in a row, checked, and where their episodes are."""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from spot_jax.system.errors import InputError, first_line

NEEDED = {'observations': 2, 'actions': 2, 'rewards': 1, 'terminals': 1}  # with their ranks; [N, 1] is taken for [N]
OPTIONAL = {'timeouts': 1, 'next_observations': 2}
INFOS = ('goal', 'qpos', 'qvel')
CHUNK = 2**18  # numbers that are looked at together
CACHE = 2**24  # bytes per array: a compressed chunk that several episodes share is unpacked once
MAX_CHUNK = 2**30  # bytes
MAX_PACKING = 1100  # bytes that a byte of the file may stand for: deflate's most is 1032

Arrays = dict[str, h5py.Dataset]


class Episodes(NamedTuple):
    """Where the episodes are in the file; each has at least one step."""

    starts: np.ndarray  # [E]
    stops: np.ndarray  # [E], after the last step that is kept
    terminated: np.ndarray  # [E] bool


def read(array: h5py.Dataset, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
    """Rows of an array; raises InputError if they cannot be read."""
    try:
        return array[start:stop:step]
    except (OSError, RuntimeError, ValueError) as error:
        name, reason = array.name[1:], first_line(error)
        raise InputError(f'{array.file.filename} is damaged: {name} cannot be read ({reason}); get it again') from error


def column(array: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of an array [N] or [N, 1], as [stop - start]."""
    return read(array, start, stop).reshape(-1)


def extended(array: h5py.Dataset, start: int, stop: int, final: h5py.Dataset, end: int) -> np.ndarray:
    """Rows `start` to `stop` of one array, and then row `end` of another."""
    return np.concatenate([read(array, start, stop), read(final, end, end + 1)])


def read_arrays(file: h5py.File) -> Arrays:
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
        is_column = ranks[name] == 1 and array.ndim == 2 and array.shape[1] == 1
        if (not is_column and array.ndim != (ranks[name] or max(1, array.ndim))) or 0 in array.shape[1:]:
            form = '[steps, size]' if ranks[name] == 2 else '[steps]'
            raise InputError(f'{path}: {name} must be {form}, not of shape {array.shape}')
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f'{path}: the arrays differ in length: {", ".join(f"{k} {v}" for k, v in lengths.items())}')
    if lengths['rewards'] == 0:
        raise InputError(f'{path} is empty: its arrays have no steps')
    if 'next_observations' in arrays and arrays['next_observations'].shape != arrays['observations'].shape:
        raise InputError(f'{path}: next_observations must have the shape of observations')
    _check_sizes(path, arrays)
    return arrays


def chunk_bytes(arrays: Arrays) -> int:
    """How much the largest chunk of an array takes, unpacked."""
    return max(math.prod(array.chunks or (0,)) * array.dtype.itemsize for array in arrays.values())


def _check_sizes(path: str, arrays: Arrays) -> None:
    """Raises InputError if the file declares more than it can hold: any number of steps takes a few bytes."""
    declared, held = sum(array.nbytes for array in arrays.values()), Path(path).stat().st_size
    if declared > MAX_PACKING * held + 2**28:
        raise InputError(f'{path} declares {declared / 1e9:.1f} GB in a file of {held / 1e6:.1f} MB: it is not whole')
    if chunk_bytes(arrays) > MAX_CHUNK:
        raise InputError(f'{path} is stored in chunks of {chunk_bytes(arrays) / 1e9:.1f} GB: repack it (h5repack)')


def _flags(array: h5py.Dataset) -> np.ndarray:
    """A flag per step, [N] bool."""
    flags = np.empty(len(array), bool)
    for start in range(0, len(array), CHUNK):
        values = column(array, start, start + CHUNK)
        if ((values != 0) & (values != 1)).any():
            raise InputError(f'{array.file.filename}: {array.name[1:]} must be 0 or 1')
        flags[start : start + CHUNK] = values
    return flags


def _jumps(arrays: Arrays) -> np.ndarray:
    """Whether a step's next observation is another than the observation of the next step, [N] bool; not the last's."""
    jumps = np.zeros(len(arrays['rewards']), bool)
    rows = max(1, CHUNK // arrays['observations'].shape[1])
    for start in range(0, len(jumps) - 1, rows):
        stop = min(start + rows, len(jumps) - 1)
        following = read(arrays['observations'], start + 1, stop + 1).astype(np.float32)
        successors = read(arrays['next_observations'], start, stop).astype(np.float32)
        jumps[start:stop] = (successors != following).any(axis=1)
    return jumps


def find_episodes(arrays: Arrays, limit: int | None) -> Episodes:
    """Finds the episodes; `limit` is how many steps they may have where the file itself says nothing of time-outs.

    Raises InputError if there is none.
    """
    terminals = _flags(arrays['terminals'])
    last = terminals.copy()  # whether a step is its episode's last one
    last[-1] = True
    if 'timeouts' in arrays:
        last |= _flags(arrays['timeouts'])
    if 'next_observations' in arrays:
        jumps = _jumps(arrays) & ~last
        if 'timeouts' in arrays and jumps.any():
            print(
                f'{arrays["rewards"].file.filename}: the next observations of {jumps.sum()} steps are not what is '
                'observed next: episodes are cut there'
            )
        last |= jumps
    elif 'timeouts' not in arrays and limit is not None:
        for start, stop in itertools.pairwise([0, *(np.flatnonzero(last) + 1)]):
            last[start + limit - 1 : stop : limit] = True
    stops = np.flatnonzero(last) + 1
    starts = np.concatenate([[0], stops[:-1]])
    terminated = terminals[stops - 1]
    if 'next_observations' not in arrays:
        # The state after a time-out is not in the file: its step is given up, so that its observation is the final one.
        stops = np.where(terminated, stops, stops - 1)
    kept = stops > starts
    if not kept.any():
        path = arrays['rewards'].file.filename
        raise InputError(f'{path} has no episode with a step whose next observation is known')
    return Episodes(starts[kept], stops[kept], terminated[kept])
