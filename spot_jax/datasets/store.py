"""What recipes make datasets with: Minari's local folder, written whole or not at all, and how they are labelled."""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gymnasium.envs.registration import EnvSpec

from spot_jax.errors import InputError


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


@contextlib.contextmanager
def new_dataset(dataset_id: str, overwrite: bool) -> Iterator[Path]:
    """Yields a folder for a dataset's files; it takes its place under the id once the block ends without an error.

    Raises InputError if the id is malformed, or is taken and not to be overwritten, or nothing can be written there.
    """
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.namespace import create_namespace, list_local_namespaces
    from minari.storage import get_dataset_path

    try:
        namespace, _, _ = parse_dataset_id(dataset_id)
        if '//' in dataset_id:  # Minari takes it, and then does not find the dataset
            raise ValueError('empty name')
    except (ValueError, TypeError) as error:
        raise InputError(f'{dataset_id!r} is no dataset id: give one such as d4rl/hopper/medium-v2') from error
    temporary = None
    try:
        path = Path(get_dataset_path(dataset_id))
        if path.exists() and not (path / 'data').exists():
            raise InputError(f'{path} is there, but is no dataset: choose another id')
        if path.exists() and not overwrite:
            raise InputError(f'{dataset_id} is there already: --overwrite makes it anew')
        # hidden at the top of the store, so that a failure leaves no empty namespaces
        temporary = Path(get_dataset_path(f'.{dataset_id.replace("/", "-")}.tmp'))
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        if namespace is not None and namespace not in list_local_namespaces():
            create_namespace(namespace)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    except OSError as error:
        raise InputError(f'cannot write {dataset_id}: {str(error).splitlines()[0]}') from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _code() -> str:
    """A digest of all that shapes a dataset: this package's recipes, environments and policies."""
    package = Path(__file__).parents[1]
    files = [*package.glob('*.py'), *package.glob('datasets/*.py'), *package.glob('behavior/**/*.*[yz]')]
    return hashlib.sha256(b''.join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]


@contextlib.contextmanager
def resumable(request: Request) -> Iterator[Path]:
    """Yields a folder that outlives an interruption: the same request, by the same code, is given it again.

    It is removed once the block ends, with an error or without; also what another seed or older code has left.
    """
    from minari.storage import get_dataset_path

    prefix = f'.{request.dataset_id.replace("/", "-")}-parts'
    folder = Path(get_dataset_path(f'{prefix}-{request.seed}-{_code()}'))
    for old in folder.parent.glob(f'{prefix}-*'):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
