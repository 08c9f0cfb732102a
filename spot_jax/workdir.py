"""A run's folder: its config and checkpoints, opened to resume it or to use what it learned."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from spot_jax import checkpoint
from spot_jax.errors import InputError


def open_workdir(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """Makes a run's folder, or returns the checkpoint to resume from; more offline or online steps make a run longer.

    Raises InputError if it is another run's, cannot be written, or has no whole checkpoint among several.
    """
    text = json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + '\n'
    path = workdir / 'config.json'
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError(13, 'Permission denied')
        if not path.exists():
            checkpoint.write_atomically(path, text.encode())
            return None
    except OSError as error:
        raise InputError(f'cannot write in --workdir={workdir}: {error.strerror}') from error
    theirs, ours = _read_config(path), json.loads(text)
    if theirs != ours and not _is_longer(theirs, ours):
        names = [k for k in sorted(ours.keys() | theirs.keys()) if theirs.get(k) != ours.get(k)]
        raise InputError(
            f'{workdir} holds a run of another config (differs in {", ".join(names)}): choose another --workdir'
        )
    state = _restore(workdir)
    if theirs.get('offline') != ours.get('offline') and state is not None and state['phase'] == 'online':
        raise InputError(f'the run in {workdir} is past its offline phase: choose another --workdir')
    if theirs != ours:
        checkpoint.write_atomically(path, text.encode())
    return state


def _is_longer(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether our config differs from theirs in more steps of a phase alone."""
    steps = lambda config, phase: config.get(phase, {}).get('steps', 0)
    longer = [phase for phase in ('offline', 'online') if steps(theirs, phase) < steps(ours, phase)]
    with_more = {phase: {**theirs.get(phase, {}), 'steps': steps(ours, phase)} for phase in longer}
    return {**theirs, **with_more} == ours


def read_run(workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and newest checkpoint of a run that has come to its policies, as nested dicts.

    Raises InputError if there are none.
    """
    path = workdir / 'config.json'
    if not path.exists():
        raise InputError(f'{workdir} is no run: it has no config.json')
    state = _restore(workdir)
    if state is None or state['phase'] == 'cvae':
        raise InputError(f'the run in {workdir} has no trained policy yet: let it go on training')
    return _read_config(path), state


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f'{path} is damaged ({error}): choose another folder') from error


def _restore(workdir: Path) -> dict[str, Any] | None:
    state, damaged = checkpoint.restore(workdir / 'checkpoints')
    for name in damaged:
        print(f'checkpoint {name} is damaged: going on from the one before it', file=sys.stderr)
    return state
