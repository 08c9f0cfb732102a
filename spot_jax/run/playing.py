"""Where a run's policies are played again: as its data say, or, where these are gone or damaged, as its results do."""

import json
import os
import sys
from pathlib import Path

from gymnasium.envs.registration import EnvSpec

from spot_jax.acting.tasks import Reference, Task, recorded_reference
from spot_jax.data.load import evaluation_spec, open_minari, reference_of
from spot_jax.data.store import root
from spot_jax.recipes import provide
from spot_jax.storage.folder import read_json
from spot_jax.system.errors import InputError, first_line


def _recorded(workdir: Path) -> tuple[EnvSpec | None, Reference | None]:
    """What a finished run's results say; older ones do not tell of the whole environment. Raises InputError."""
    path = workdir / 'results.json'
    results = read_json(path) if os.path.lexists(path) else {}
    environment = results.get('environment')
    try:
        spec = None if environment is None else EnvSpec.from_json(json.dumps(environment))
        return spec, recorded_reference(results)
    except Exception as error:  # gymnasium raises many kinds
        raise InputError(f'{path} is damaged ({first_line(error)}): put it back, or move it away') from error


def environment_of(workdir: Path, dataset_id: str, task: Task) -> tuple[EnvSpec, Reference | None]:
    """The environment of the run in `workdir`, and what measures a normalised score there.

    Where the data are gone or damaged, a finished run's is the one of its results; else they are made or downloaded.
    Raises InputError if there is none, or if the data are not of the one that the run was evaluated in.
    """
    recorded, reference = _recorded(workdir)
    if recorded is not None and not (root() / dataset_id / 'data').exists():
        return recorded, reference
    provide(dataset_id)
    try:
        data = open_minari(dataset_id)
    except InputError as error:
        if recorded is None:
            raise
        print(f"played where the run's results say: {error}", file=sys.stderr)
        return recorded, reference
    spec = evaluation_spec(data)
    if spec is None:
        raise InputError(f'{dataset_id} names no environment to evaluate in')
    if recorded is not None and json.loads(recorded.to_json()) != json.loads(spec.to_json()):
        raise InputError(
            f'{dataset_id} is other data than the run in {workdir} learned from: their {spec.id} is not the '
            f'{recorded.id} that it was evaluated in; put the old ones back'
        )
    return spec, reference_of(data, task)
