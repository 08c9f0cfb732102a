"""Checkpoints of a whole run: one file each, flax's msgpack behind its SHA-256, renamed into place when complete."""

import hashlib
import os
from pathlib import Path
from typing import Any

from flax import serialization

from spot_jax.errors import InputError

DIGEST_BYTES = 32


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that is either whole or absent, also when the process is killed."""
    temporary = path.with_name(f'.{path.name}.tmp')
    with temporary.open('wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write(path: Path, tree: Any) -> None:
    """Writes a pytree of arrays, dicts and strings."""
    payload = serialization.msgpack_serialize(serialization.to_state_dict(tree))
    write_atomically(path, hashlib.sha256(payload).digest() + payload)


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote, as nested dicts; None if the file is damaged."""
    data = path.read_bytes()
    payload = data[DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != data[:DIGEST_BYTES]:
        return None
    return serialization.msgpack_restore(payload)


def save(folder: Path, number: int, tree: Any, keep: int) -> None:
    """Saves a pytree as checkpoint `number`; only the newest `keep` stay."""
    folder.mkdir(exist_ok=True)
    write(folder / f'{number:010d}.msgpack', tree)
    for old in sorted(folder.glob('*.msgpack'))[:-keep]:
        old.unlink()


def restore(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint as nested dicts (None: there is none), and the names of damaged ones passed over.

    Raises InputError if there are checkpoints but every one is damaged.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob('*.msgpack'), reverse=True):
        tree = read(path)
        if tree is not None:
            return tree, damaged
        damaged.append(path.name)
    if damaged:
        raise InputError(
            f'every checkpoint in {folder} is damaged ({", ".join(damaged)}): delete that folder to start over'
        )
    return None, []
