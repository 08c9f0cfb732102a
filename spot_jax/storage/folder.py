"""A run's folder: held by one process at a time, with a config and checkpoints to resume from."""

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from spot_jax.storage import checkpoint, metrics
from spot_jax.storage.checkpoint import DamagedError
from spot_jax.storage.outputs import remove_empty
from spot_jax.system.errors import InputError

FILES = ('metrics.csv', 'results.json')  # beside config.json
FOLDERS = ('checkpoints', 'ring')


class InUseError(InputError):
    """Another process has the folder."""


_DESCRIPTORS: set[int] = set()  # of the folders that this process holds


def _let_go() -> None:
    """In a process that was forked: else it would keep the folders of a parent that was killed."""
    for descriptor in _DESCRIPTORS:
        os.close(descriptor)
    _DESCRIPTORS.clear()


os.register_at_fork(after_in_child=_let_go)


def _lock(workdir: Path) -> int | None:
    """Locks a folder; the file descriptor that holds it, None where the file system has no locks.

    The kernel releases it when the process ends, however it ends.
    """
    with contextlib.ExitStack() as stack:
        for path, flags in ((workdir, os.O_RDONLY), (workdir / '.lock', os.O_RDWR | os.O_CREAT)):
            descriptor = os.open(path, flags)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InUseError(f'{workdir} is in use by another process: wait for it, or end it') from error
            except OSError:  # NFS locks files that are open for writing, but no folders; others lock nothing
                continue
            stack.pop_all()
            return descriptor
    print(f'{workdir} cannot be locked: take care that no other process uses it', file=sys.stderr)
    return None


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder, which is made if it is not there; left empty, it is removed again.

    Raises InputError if another process has it, or if nothing can be written in it.
    """
    made: list[Path] = []
    try:
        made += [path for path in (workdir, *workdir.parents) if not path.exists()]
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        descriptor = _lock(workdir)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        remove_empty(made)
        raise InputError(f'cannot write in --workdir={workdir}: {getattr(error, "strerror", error)}') from error
    if descriptor is not None:
        _DESCRIPTORS.add(descriptor)
    try:
        yield
    finally:
        if made and [path.name for path in workdir.glob('*')] == ['.lock']:
            (workdir / '.lock').unlink(missing_ok=True)
        remove_empty(made)
        if descriptor is not None:
            _DESCRIPTORS.discard(descriptor)
            os.close(descriptor)


def place_of(workdir: Any) -> Path:
    """The folder that Python names as a run's; raises InputError if it names none."""
    if not isinstance(workdir, str | os.PathLike) or not str(workdir).strip():
        raise InputError(f'workdir={workdir!r}: name a folder')
    return Path(workdir)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError if there is none."""
    try:
        found = json.loads(checkpoint.read_file(path))
        if not isinstance(found, dict):
            raise DamagedError('it is no JSON object')
    except (DamagedError, ValueError, RecursionError) as error:
        raise InputError(f'cannot read {path} ({error}): put it back, or choose another folder') from error
    return found


def read_rows(workdir: Path) -> list[dict[str, str]]:
    """The rows of a run's `metrics.csv` so far, column to cell; none if it is not there. Raises InputError."""
    path = workdir / 'metrics.csv'
    try:
        return metrics.parse(checkpoint.read_file(path).decode()) if os.path.lexists(path) else []
    except (DamagedError, ValueError) as error:
        raise InputError(f'{path} is damaged: {error}') from error


def restore(workdir: Path, check: Callable[[int, dict[str, Any]], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole and passes `check`, see `checkpoint.restore`; warns of others passed over."""
    state, damaged = checkpoint.restore(workdir / 'checkpoints', check)
    for text in damaged:
        print(f'checkpoint {text}: it is damaged, going on from the one before it', file=sys.stderr)
    return state


def resume(workdir: Path, check: Callable[[int, dict[str, Any]], None]) -> dict[str, Any] | None:
    """`restore` for a process that goes on to write: also `metrics.csv` has to be as the checkpoint knows it.

    If that file is gone, `metrics_position` is 0 in what is returned, and in the checkpoint from then on. Raises
    InputError if it is another.
    """
    path = workdir / 'metrics.csv'
    for name in FILES:
        if os.path.lexists(workdir / name) and not (workdir / name).is_file():
            raise InputError(f'{workdir / name} is no file: move it away')
    if not path.exists():
        chosen: list[int] = []

        def noted(number: int, state: dict[str, Any]) -> None:
            check(number, state)
            chosen.append(number)

        state = restore(workdir, noted)
        if state is not None and state['metrics_position'] > 0:
            print(f'{path} is gone: going on without its rows', file=sys.stderr)
            state |= {'metrics_position': 0, 'metrics_sha256': metrics.EMPTY}
            checkpoint.write(checkpoint.path_of(workdir / 'checkpoints', chosen[-1]), state)
        return state
    written = checkpoint.read_file(path)

    def whole(number: int, state: dict[str, Any]) -> None:
        check(number, state)
        metrics.check(written, state)

    try:
        return restore(workdir, whole)
    except InputError:
        restore(workdir, check)  # if it is not metrics.csv that is at fault, this tells of it
        raise InputError(
            f'{path} is not as this run left it: put it back, or move it away to go on without its rows'
        ) from None


def begin(config: ConfigDict, workdir: Path) -> None:
    """Writes a new run's `config.json`; raises InputError if the folder has files of a run whose config is gone."""
    for name in (*FILES, *FOLDERS):
        if os.path.lexists(workdir / name):
            raise InputError(f'{workdir} has {name} but no config.json: choose another --workdir')
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'cannot write in --workdir={workdir}: {error.strerror}') from error
    write_config(config, workdir)


def write_config(config: ConfigDict, workdir: Path) -> None:
    """Writes `config.json`."""
    text = json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + '\n'
    checkpoint.write_atomically(workdir / 'config.json', text.encode())


def _differing(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """The dotted names of values that differ."""
    names: list[str] = []
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = theirs.get(name), ours.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            names += [f'{name}.{inner}' for inner in _differing(a, b)]
        elif a != b:
            names.append(name)
    return names


def refuse_another(theirs: dict[str, Any], ours: dict[str, Any], workdir: Path) -> None:
    """Raises InputError, naming the fields that differ, if the config of a run's folder is not ours."""
    names = _differing(theirs, ours)
    if names:
        raise InputError(
            f'{workdir} holds a run of another config (differs in {", ".join(names)}): '
            'give --workdir=DIR to begin another run, or the same settings as its own to go on with it'
        )


def tidy(workdir: Path) -> None:
    """Removes what killed processes had not finished writing."""
    for folder in (workdir, *(workdir / name for name in FOLDERS)):
        for path in folder.glob('.*.tmp'):
            with contextlib.suppress(OSError):
                path.unlink()
