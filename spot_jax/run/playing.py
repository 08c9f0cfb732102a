"""Where a run's policies are played again: as its data say, or, where these are gone, as its results do."""

import contextlib
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import EnvSpec

from spot_jax.acting import specs
from spot_jax.acting.tasks import Reference, Task
from spot_jax.data.load import evaluation_spec, open_minari, reference_of
from spot_jax.data.store import root
from spot_jax.recipes import provide
from spot_jax.storage.folder import read_json
from spot_jax.system.errors import InputError


def environment_of(workdir: Path, dataset_id: str, task: Task) -> tuple[EnvSpec, Reference | None]:
    """The environment of the run in `workdir`, and what measures a normalised score there.

    Without the data, a finished run's is the registered one of the name that it was evaluated in; else they are made or
    downloaded. Raises InputError if there is none, or if the data are not of the one that the run was evaluated in.
    """
    results: dict[str, Any] = {}
    with contextlib.suppress(InputError):  # it is not finished
        results = read_json(workdir / 'results.json')
    name, returns = results.get('environment_id'), results.get('reference_returns')
    if name is not None and not (root() / dataset_id / 'data').exists():
        with contextlib.suppress(InputError):
            return specs.registered(name), Reference(**returns) if returns else None
    provide(dataset_id)
    data = open_minari(dataset_id)
    spec = evaluation_spec(data)
    if spec is None:
        raise InputError(f'{dataset_id} names no environment to evaluate in')
    if name not in (None, spec.id):
        raise InputError(
            f'{dataset_id} is other data than the run in {workdir} learned from: they are of {spec.id}, it was '
            f'evaluated in {name}; put the old ones back'
        )
    return spec, reference_of(data, task)
