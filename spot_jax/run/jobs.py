"""The runs of a suite: whether each is finished, and how far it is."""

import json
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from spot_jax.run.build import build
from spot_jax.run.config import goes_on
from spot_jax.run.restore import stages_folder, with_population
from spot_jax.run.workdir import read_config, with_our_means
from spot_jax.storage.folder import read_json, read_rows
from spot_jax.system.errors import InputError


class Job(NamedTuple):
    """One run of a suite."""

    name: str
    arguments: list[str]  # of the command
    config: ConfigDict
    workdir: Path

    @property
    def log(self) -> Path:
        """Where what the run prints goes."""
        return self.workdir.with_name(f'{self.workdir.name}.log')


def is_finished(job: Job) -> bool:
    """Whether the run has come to its end with this config. Not if it is damaged: the run itself tells of that."""
    try:
        stored, ours = read_config(job.workdir), with_population(job.config, job.workdir)
        found = read_json(job.workdir / 'results.json')['members']
        # Runs that an older version made longer have the results of before.
        steps = 0 if job.config.online.steps else job.config.offline.steps
        made = all(m['gradient_steps'] >= steps for m in found if m['status'] == 'completed')
    except (InputError, LookupError, TypeError):
        return False
    return made and with_our_means(stored, ours) == json.loads(ours.to_json())


def _phases(config: ConfigDict) -> dict[str, int]:
    """The updates of each phase that the run goes through."""
    stages = () if goes_on(config) or stages_folder(config) else build(config, 1, 1).stages
    offline = 0 if goes_on(config) else config.offline.steps
    found = {stage.name: stage.num_steps for stage in stages}
    return found | {'offline': offline, 'online': config.online.steps * config.online.updates_per_step}


def total(job: Job) -> int:
    """The updates of a run."""
    return sum(_phases(job.config).values())


def done(job: Job) -> int:
    """The updates that a run has made so far, by its metrics.csv."""
    phases = _phases(job.config)
    try:
        rows = read_rows(job.workdir)
        phase, steps = (rows[-1]['phase'], int(rows[-1]['gradient_steps'])) if rows else ('', 0)
        if goes_on(job.config) and rows:
            steps -= int(rows[0]['gradient_steps'])  # the other run's, if the first row is an evaluation's
            if not job.config.evaluation.episodes:
                steps += job.config.log_interval * job.config.online.updates_per_step
    except (InputError, LookupError, ValueError):
        return 0
    names = list(phases)
    before = sum(phases[name] for name in names[: names.index(phase)]) if phase in phases else 0
    before -= phases['offline'] * (phase == 'online')  # its gradient steps count on from those
    return min(before + steps, sum(phases.values()))
