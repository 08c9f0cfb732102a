"""Finding runs in folders, each once."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from spot_jax.report.read import Run, read, untaken
from spot_jax.storage.folder import FILES
from spot_jax.system.errors import InputError, printable


class Collected(NamedTuple):
    """All runs that could be read, and a line for each thing that could not."""

    runs: list[Run]
    problems: list[str]


def _folders(top: Path, failed: Callable[[OSError], None]) -> Iterator[tuple[Path, bool]]:
    """The folders of runs in and below `top`, in the order of their names, and whether they have a config."""
    visited = set()
    for path, inner, files in os.walk(top, onerror=failed, followlinks=True):
        real = os.path.realpath(path)
        if real in visited:  # links in a circle, or two to one folder
            inner.clear()
            continue
        visited.add(real)
        inner.sort()
        names = {*files, *inner}
        if 'config.json' in names:
            yield Path(path), True
        elif names & set(FILES) and not any(name.startswith('host_') for name in inner):  # those have configs
            yield Path(path), False


def _bases(tops: Sequence[Path]) -> list[Path]:
    """What the folders that were given are called: the ends of their paths, long enough to tell them apart."""
    places = [Path(os.path.realpath(top)) for top in tops]
    for length in range(1, max(len(place.parts) for place in places)):
        ends = [Path(*place.parts[-length:]) for place in places]
        if len(set(ends)) == len(ends):
            return ends
    return places


def _name(base: Path, inner: Path, several: bool, taken: Collection[str]) -> str:
    """What a run is called: its place below the folder that was given, whose own name comes first among several.

    Another name than those that are taken.
    """
    return untaken(printable(str(base / inner) if several or inner == Path() else str(inner)), taken)


def _content(run: Run) -> str:
    """What two copies of a run agree on."""
    assert run.results is not None
    config = json.loads(run.config.to_json())
    return json.dumps([config, run.results.sha256, run.results.policies], sort_keys=True)


def collect(tops: Iterable[Path]) -> Collected:
    """All runs in and below the given folders. A run that is there twice, or a copy of one, is taken once."""
    tops = list({os.path.realpath(top): top for top in tops}.values())
    runs: list[Run] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    failed = lambda error: problems.append(f'cannot read {error.filename}: {error.strerror}')
    for top, base in zip(tops, _bases(tops), strict=True):
        if not top.is_dir():
            problems.append(f'{top} is {"no folder" if os.path.lexists(top) else "not there"}')
            continue
        before = len(problems)
        found = list(_folders(top, failed))
        if not found and len(problems) == before:
            problems.append(f'{top} has no runs in it')
        for workdir, has_config in found:
            real = os.path.realpath(workdir)
            if real in seen:
                continue
            name = seen[real] = _name(base, workdir.relative_to(top), len(tops) > 1, seen.values())
            if not has_config:
                problems.append(f'{name} has no config.json')
                continue
            try:
                run, lines = read(workdir, name)
            except InputError as error:
                problems.append(f'{name}: {error}')
                continue
            problems += lines
            if run.results is not None and (other := seen.setdefault(_content(run), name)) != name:
                problems.append(f'{name} is a copy of {other}')
                continue
            runs.append(run)
    return Collected(runs, list(map(printable, problems)))
