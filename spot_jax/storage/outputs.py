"""Files that a command makes for people: none overwritten unasked, each whole or absent."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from spot_jax.storage.checkpoint import write_together
from spot_jax.system.errors import InputError


def require_free(paths: Iterable[Path], overwrite: bool, option: str) -> None:
    """Raises InputError if a file cannot be written, or is there already and not to be replaced.

    `option` names another place for it.
    """
    for path in paths:
        if path.is_dir():
            raise InputError(f'{path} is a folder: give another {option}')
        if os.path.lexists(path) and not overwrite:
            raise InputError(f'{path} exists: give --overwrite, or another {option}')
        require_writable(path, f'give another {option}')


def require_writable(path: Path, advice: str) -> None:
    """Raises InputError, with `advice`, if nothing can be made at a path: before the work, not after it."""
    try:
        above = next(folder for folder in path.parents if folder.exists())
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f'cannot write in {above}: {advice}')


def write_all(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files, by their names in a folder that is made if it is not there; returns their paths.

    All or, if that fails, none of them: raises InputError then.
    """
    found = {folder / name: data for name, data in files.items()}
    made: list[Path] = []
    try:
        for parent in dict.fromkeys(path.parent for path in found):
            made = [above for above in (parent, *parent.parents) if not above.exists()] + made
            parent.mkdir(parents=True, exist_ok=True)
        write_together(found)
    except (InputError, OSError, ValueError) as error:  # ValueError: a path with a null byte
        remove_empty(made)
        if isinstance(error, InputError):
            raise
        place = getattr(error, 'filename', None) or folder
        raise InputError(f'cannot write {place}: {getattr(error, "strerror", error)}') from error
    return list(found)


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that are empty."""
    for path in folders:
        with contextlib.suppress(OSError, ValueError):  # it is not empty, or not there
            path.rmdir()
