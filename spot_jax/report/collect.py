"""Finding runs in folders, each once."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from spot_jax.report.read import Run, read
from spot_jax.storage.folder import FILES
from spot_jax.system.errors import InputError, printable


class Collected(NamedTuple):
    """All runs that could be read, and a line for each thing that could not."""

    runs: list[Run]
    problems: list[str]


def _folders(top: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of runs in and below `top`, in the order of their names, and whether they have a config."""
    visited = set()
    for path, inner, files in os.walk(top, followlinks=True):
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


def _name(top: Path, workdir: Path, several: bool) -> str:
    """What a run is called: its place below the folder that was given, whose own name comes first among several."""
    inner = workdir.relative_to(top)
    base = Path(os.path.realpath(top)).name
    return printable(str(Path(base) / inner) if several or inner == Path() else str(inner))


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
    for top in tops:
        if not top.is_dir():
            problems.append(f'{top} is {"no folder" if os.path.lexists(top) else "not there"}')
            continue
        found = list(_folders(top))
        if not found:
            problems.append(f'{top} has no runs in it')
        for workdir, has_config in found:
            name = _name(top, workdir, len(tops) > 1)
            if not has_config:
                problems.append(f'{name} has no config.json')
                continue
            real = os.path.realpath(workdir)
            if real in seen:
                continue
            seen[real] = name
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
