"""Checkpoints of a whole run: one file each, flax's msgpack behind its SHA-256, renamed into place when complete."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from spot_jax.system.errors import InputError

DIGEST_BYTES = 32
NAMES = '[0-9]' * 10 + '.msgpack'


class DamagedError(Exception):
    """What a run has stored is not as it was written: the message says in a few words how it differs."""


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that is either whole or absent, also when the process is killed.

    Raises InputError, with nothing left behind, if that fails: the disk may be full, or read-only.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes files that are whole or absent each; if one cannot be written, none is, and what was there stays.

    But for what can only go wrong once all are written, as a folder that stands in the place of one.

    Raises InputError if that fails.
    """
    temporary = {path: path.with_name(f'.{path.name}.tmp') for path in files}
    path = None
    try:
        for path, data in files.items():
            with temporary[path].open('wb') as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            temporary[path].replace(path)
    except BaseException as error:
        for unfinished in temporary.values():
            with contextlib.suppress(OSError):
                unfinished.unlink()
        if isinstance(error, OSError):
            raise InputError(f'cannot write {path}: {error.strerror}') from error
        raise


def read_file(path: Path) -> bytes:
    """A file's bytes; raises DamagedError if it is missing or no file: a pipe or a device could be read for ever."""
    try:
        if not path.is_file():
            raise DamagedError('it is no file' if os.path.lexists(path) else 'it is missing')
        return path.read_bytes()
    except OSError as error:
        raise DamagedError(str(error.strerror)) from error


def write(path: Path, tree: Any) -> None:
    """Writes a pytree of arrays, dicts and strings; raises InputError if that fails."""
    payload = serialization.msgpack_serialize(serialization.to_state_dict(tree))
    write_atomically(path, hashlib.sha256(payload).digest() + payload)


def load(path: Path) -> dict[str, Any]:
    """What `write` wrote, as nested dicts; raises DamagedError."""
    data = read_file(path)
    payload = data[DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != data[:DIGEST_BYTES]:
        raise DamagedError('its checksum differs')
    try:
        tree = serialization.msgpack_restore(payload)
    except Exception as error:  # msgpack, flax and NumPy raise many kinds
        raise DamagedError('it cannot be decoded') from error
    if not isinstance(tree, dict):
        raise DamagedError('it is no dict')
    return tree


def read(path: Path) -> dict[str, Any] | None:
    """As `load`; None if the file is damaged."""
    try:
        return load(path)
    except DamagedError:
        return None


def path_of(folder: Path, number: int) -> Path:
    """The file of a checkpoint."""
    return folder / f'{number:010d}.msgpack'


def save(folder: Path, number: int, tree: Any, keep: int) -> None:
    """Saves a pytree as checkpoint `number`; of those up to it, only the newest `keep` stay.

    Raises InputError if it cannot be written: the ones before it are as they were.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f'cannot write {folder}: {error.strerror}') from error
    path = path_of(folder, number)
    write(path, tree)
    older = sorted(p for p in folder.glob(NAMES) if p.name <= path.name)
    for old in older[:-keep]:
        with contextlib.suppress(OSError):  # a folder of such a name is not ours
            old.unlink()


def restore(
    folder: Path, check: Callable[[int, dict[str, Any]], None] = lambda number, tree: None
) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint as nested dicts (None: there is none), and what was wrong with those passed over.

    `check` takes a checkpoint's number and tree, and raises DamagedError if it is not what it should be. Raises
    InputError if there are checkpoints but every one is damaged.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f'{folder} is no folder: delete it to start over')
    damaged: list[str] = []
    for path in sorted(folder.glob(NAMES), reverse=True):
        try:
            tree = load(path)
            check(int(path.stem), tree)
        except DamagedError as error:
            damaged.append(f'{path.name}: {error}')
        else:
            return tree, damaged
    if damaged:
        raise InputError(
            f'every checkpoint in {folder} is damaged ({"; ".join(damaged)}): delete that folder to start over'
        )
    return None, []


def compare(found: Any, expected: Any, where: str) -> None:
    """Raises DamagedError, with `where` in its message, if a restored tree is not as `expected`.

    `expected` has nested dicts of types, and of anything with a shape and a dtype for arrays.
    """
    if isinstance(expected, Mapping):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            raise DamagedError(f'{where} has other fields')
        for name, value in expected.items():
            compare(found[name], value, f'{where}.{name}')
    elif isinstance(expected, type):
        if type(found) is not expected:
            raise DamagedError(f'{where} is no {expected.__name__}')
    elif not isinstance(found, np.ndarray | np.generic) or found.dtype != expected.dtype:
        raise DamagedError(f'{where} is no array of {expected.dtype}')
    elif found.shape != expected.shape:
        raise DamagedError(f'{where} is of shape {found.shape}, not {expected.shape}')


def finite_members(tree: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Whether all numbers of each member are finite, `shape`: every leaf leads with these axes."""
    finite = np.ones(shape, bool)
    for leaf in jax.tree.leaves(tree):
        finite &= np.isfinite(leaf).reshape(*shape, -1).all(axis=-1)
    return finite
