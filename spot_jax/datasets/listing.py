"""What is in Minari's folder: datasets, damaged ones, and folders that are none."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from spot_jax.data.store import NAMESPACE_METADATA_FILENAME, UNFINISHED, is_being_made, is_id, root
from spot_jax.recipes import RECIPES
from spot_jax.system.errors import InputError

DEPTH = 8  # of folders in folders


class Entry(NamedTuple):
    """A line of the list."""

    text: str
    is_dataset: bool = True  # maybe a damaged one


def printable(text: Any) -> str:
    """Text from a file on one line, without anything that a terminal obeys."""
    return ''.join(c if c.isprintable() else ' ' if c.isspace() else ascii(c)[1:-1] for c in str(text))


def describe(dataset_id: str) -> str:
    """A dataset of the store in a line, by its metadata; the episodes are not looked at."""
    data = root() / dataset_id / 'data'
    if not is_id(dataset_id):
        return f'{dataset_id}: is there, but that is no dataset id'
    try:
        for name in ('metadata.json', 'main_data.hdf5'):
            if not (data / name).is_file() and (name == 'metadata.json' or not list(data.glob('*/*.arrow'))):
                raise ValueError(f'it has no {name}')
        metadata = json.loads((data / 'metadata.json').read_text())
        if not isinstance(metadata, dict):
            raise ValueError('its metadata are no JSON object')
        named, steps, episodes = (metadata[name] for name in ('dataset_id', 'total_steps', 'total_episodes'))
        if named != dataset_id:
            raise ValueError(f'its metadata call it {named!r}')
        if not all(type(count) is int and count >= 0 for count in (steps, episodes)):
            raise ValueError('its metadata count no steps and episodes')
        if (data / 'main_data.hdf5').is_file():
            h5py.File(data / 'main_data.hdf5').close()  # which tells if it is cut off
    except KeyError as error:
        return f'{dataset_id}: damaged (its metadata have no {error})'
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        return f'{dataset_id}: damaged ({reason})'
    return f'{dataset_id}: {steps} transitions in {episodes} episodes'


def _holds_dataset(data: Path) -> bool:
    """Whether a folder named `data` is a dataset's, be it a damaged one: not if it is a namespace of that name."""
    files = [path for path in data.iterdir() if path.name != NAMESPACE_METADATA_FILENAME]
    return not files or not all(path.is_dir() for path in files)


def _entries(folder: Path, name: str, seen: set[str]) -> list[Entry]:
    """What is in a folder, itself included; `seen` are folders that links led to before."""
    real = os.path.realpath(folder)
    if real in seen or name.count('/') > DEPTH:
        return []
    seen.add(real)
    entries = []
    try:
        children = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))
        if name and 'data' in children and _holds_dataset(folder / 'data'):
            entries.append(Entry(describe(name)))
            children.remove('data')
        is_namespace = (folder / NAMESPACE_METADATA_FILENAME).exists()
    except OSError as error:
        return [Entry(f'{name}: cannot be read ({error.strerror})')]
    for child in children:
        entries += _entries(folder / child, f'{name}/{child}'.lstrip('/'), seen)
    if name and not is_namespace and not any(entry.is_dataset for entry in entries):
        return [Entry(f'{name}: holds no dataset', is_dataset=False)]  # one line for a whole tree of other things
    return entries


def show_all() -> None:
    """Prints the local datasets, one a line, damaged ones and foreign folders too; then the recipes."""
    top = root()
    try:
        hidden = sorted(p.name for p in top.iterdir() if UNFINISHED.fullmatch(p.name)) if top.exists() else []
    except OSError as error:
        raise InputError(f'cannot list the datasets in {top}: {error.strerror}') from error
    for entry in _entries(top, '', set()) if top.exists() else []:
        print(printable(entry.text))
    at_work = tuple(name.removesuffix('.tmp') for name in hidden if name.endswith('.tmp') and is_being_made(top / name))
    for name in at_work:
        print(f'{printable(name)}: another process is making it')
    for name in hidden:
        if not name.startswith(at_work):
            print(f'{printable(name)}: unfinished; the command that began it goes on with it, or begins anew')
    print('can be generated:', ', '.join(RECIPES))
