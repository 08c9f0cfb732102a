"""What recipes make datasets with: Minari's local folder, written whole or not at all, and how they are labelled."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gymnasium.envs.registration import EnvSpec

from spot_jax.system.errors import InputError
from spot_jax.system.versions import installed

NAMESPACE_METADATA_FILENAME = 'namespace_metadata.json'  # Minari's
UNFINISHED = re.compile(r'\..*(\.tmp|\.old|-download|-parts-.*)')  # names of what an interruption leaves
LIBRARIES = ('gymnasium', 'gymnasium-robotics', 'mujoco', 'numpy', 'jax')
POLL = 0.5  # seconds between two looks at whether another process has made a dataset


class BeingMadeError(InputError):
    """Another process is making the dataset."""


class Request(NamedTuple):
    """What is asked of a recipe."""

    dataset_id: str
    transitions: int | None  # None: the recipe's own number
    seed: int = 0
    overwrite: bool = False
    workers: int = 1  # processes; the data do not depend on it


class Recipe(NamedTuple):
    """How a dataset is made on the spot."""

    transitions: int | None  # its own number; None: known only once they are made
    make: Callable[[Request], None]


def metadata(dataset_id: str, evaluation: EnvSpec, algorithm: str, code: str, description: str) -> dict[str, Any]:
    """The labels that every generated dataset has, as Minari names them."""
    import minari

    return {
        'dataset_id': dataset_id,
        'minari_version': minari.__version__,
        'eval_env_spec': evaluation.to_json(),
        'algorithm_name': algorithm,
        'author': {'spot_jax'},
        'author_email': set(),
        'code_permalink': code,
        'description': description,
    }


def root() -> Path:
    """Minari's folder of all datasets; it may not exist. Raises InputError if no folder is named."""
    named = os.environ.get('MINARI_DATASETS_PATH')
    if named == '':
        raise InputError('MINARI_DATASETS_PATH is empty: unset it, or name the folder of the datasets')
    try:
        top = Path(named) if named else Path('~/.minari/datasets').expanduser()
    except RuntimeError as error:
        raise InputError('there is no home directory: let MINARI_DATASETS_PATH name a folder for datasets') from error
    if top.exists() and not top.is_dir():
        raise InputError(f'{top} is no folder of datasets: MINARI_DATASETS_PATH names it')
    return top


def hidden_name(dataset_id: str) -> str:
    """How names of what belongs to a dataset, but is not it, begin: hidden, at the top of the store."""
    return f'.{dataset_id.replace("/", "-")}'


def is_id(dataset_id: str) -> bool:
    """Whether Minari takes a dataset of this name and finds it again."""
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):
        return False
    # Minari takes a folder that holds one named `data` for a dataset, so that others below it are not found.
    return all(re.match(r'\w', part) and part != 'data' for part in dataset_id.split('/'))


def check_id(dataset_id: str) -> None:
    """Raises InputError if a dataset id is malformed."""
    if not is_id(dataset_id):
        raise InputError(
            f'{dataset_id!r} is no dataset id: give one such as d4rl/hopper/medium-v2, its parts of letters, digits, '
            '- and _ (the first of two or more), none of them `data`'
        )


def _place(dataset_id: str, overwrite: bool) -> Path:
    """The folder of a dataset that is to be made; InputError if it may not be."""
    check_id(dataset_id)
    if re.search(r'-v\d+/', dataset_id):  # that dataset could not be made any more
        raise InputError(f'{dataset_id!r}: only the last part of a dataset id ends in a version')
    top = root()
    path = top / dataset_id
    for folder in path.parents[: dataset_id.count('/')]:
        if (folder / 'data').exists() or (folder.exists() and not folder.is_dir()):
            kind = 'a dataset itself' if folder.is_dir() else 'a file'
            raise InputError(f'{dataset_id} cannot be in {folder}, which is {kind}: choose another id')
    if path.exists() and not (path / 'data').exists():
        raise InputError(f'{path} is there, but is no dataset: choose another id')
    if path.exists() and not overwrite:
        raise InputError(f'{dataset_id} is there already: --overwrite makes it anew')
    return path


def _remove(path: Path) -> None:
    """Removes a folder or a link to one, if it is there and can be removed."""
    with contextlib.suppress(OSError):
        path.unlink() if path.is_symlink() else shutil.rmtree(path)


def is_being_made(folder: Path) -> bool:
    """Whether a process has claimed the folder of a dataset that is not in its place yet."""
    with contextlib.suppress(OSError):  # it is gone, or cannot be read, or the file system has no locks
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False


@contextlib.contextmanager
def _claimed(folder: Path, dataset_id: str) -> Iterator[None]:
    """Makes an empty folder that is this process's alone; it is gone at the end, unless it was renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BeingMadeError(f'another process is making {dataset_id}: wait for it') from error
        except OSError:  # a file system without locks
            pass
        try:
            for old in folder.iterdir():  # left by a process that was killed
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _make_namespaces(folders: list[Path]) -> None:
    """Makes the folders, outermost first, that Minari takes for namespaces; all or none."""
    from spot_jax.storage.checkpoint import write_atomically  # not needed in the processes that play

    made = []
    try:
        for folder in folders:
            if not folder.exists():
                made.append(folder)
                folder.mkdir()
            if not (folder / NAMESPACE_METADATA_FILENAME).exists():
                write_atomically(folder / NAMESPACE_METADATA_FILENAME, b'{}')
    except (OSError, InputError):
        for folder in made[:1]:
            _remove(folder)
        raise


@contextlib.contextmanager
def new_dataset(dataset_id: str, overwrite: bool) -> Iterator[Path]:
    """Yields a folder for a dataset's files; it takes its place under the id once the block ends without an error.

    Raises InputError if the id is malformed, or is taken and not to be overwritten, or nothing can be written there: it
    names the file; BeingMadeError if another process is making the dataset.
    """
    from spot_jax.storage.outputs import require_writable  # not needed in the processes that play

    try:
        path = _place(dataset_id, overwrite)
        require_writable(path, 'Permission denied')
        # hidden at the top of the store, so that a failure leaves no empty namespaces
        hidden = path.parents[dataset_id.count('/')] / hidden_name(dataset_id)
        temporary, old = hidden.with_name(f'{hidden.name}.tmp'), hidden.with_name(f'{hidden.name}.old')
        with _claimed(temporary, dataset_id):
            yield temporary
            _make_namespaces(list(path.parents[: dataset_id.count('/')])[::-1])
            _remove(old)
            if os.path.lexists(path):
                path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
            for done in (old, *hidden.parent.glob(f'{hidden.name}-parts-*')):
                _remove(done)
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise  # of no file: the network's, or of the pipe that our output goes to
        file = error.filename2 or error.filename or dataset_id
        raise InputError(f'cannot write {file}: {error.strerror or error}') from error


def make_once(dataset_id: str, make: Callable[[str], None]) -> None:
    """Makes a dataset that is not here; while another process makes it, waits. Raises InputError as `new_dataset`."""
    place, told = root() / dataset_id / 'data', False
    while not place.exists():
        try:
            make(dataset_id)
        except InputError as error:
            if place.exists():  # the other one was quicker
                return
            if not isinstance(error, BeingMadeError):
                raise
            if not told:
                print(f'another process is making {dataset_id}: waiting for it', file=sys.stderr)
            told = True
            time.sleep(POLL)


def _code() -> str:
    """A digest of all that shapes a dataset: this package's recipes, environments, policies and what trains those.

    And the versions of the libraries that play and train.
    """
    package = Path(__file__).parents[1]
    rooms = ('acting', 'behavior', 'core', 'data', 'recipes')
    files = [path for room in rooms for path in (package / room).rglob('*.*[yz]')]  # modules and weights
    versions = [f'{name} {installed(name)}'.encode() for name in LIBRARIES]
    return hashlib.sha256(b''.join([*(path.read_bytes() for path in sorted(files)), *versions])).hexdigest()[:16]


@contextlib.contextmanager
def resumable(request: Request) -> Iterator[Path]:
    """Yields a folder that outlives an interruption or a full disk: the same request, by the same code, gets it again.

    `new_dataset` removes it, with what other seeds or older code have left, once the dataset is in its place.
    """
    folder = root() / f'{hidden_name(request.dataset_id)}-parts-{request.seed}-{_code()}'
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BaseException:
        if all(path.is_dir() for path in folder.rglob('*')):  # nothing is done yet
            shutil.rmtree(folder, ignore_errors=True)
        raise
