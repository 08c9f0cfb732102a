"""Weights & Biases: each member of a population is a run of its own, and those of a folder are a group."""

import importlib.util
import re
import secrets
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spot_jax.storage.checkpoint import write_atomically
from spot_jax.system.errors import InputError, first_line

ID_FILE = 'wandb_id'  # in the run's folder: what its members' ids begin with, so that a resumed run finds them again


def require_ready(project: str) -> None:
    """Raises InputError if Weights & Biases is not installed, or is to send its runs and nobody is logged in."""
    if importlib.util.find_spec('wandb') is None:
        raise InputError(
            f"config.wandb.project={project}: Weights & Biases is not installed: pip install 'spot_jax[wandb]'"
        )
    try:
        import wandb

        if wandb.setup().settings.mode in ('online', 'run'):
            wandb.login()
    except Exception as error:  # a broken installation raises anything
        advice = 'with WANDB_MODE=offline the runs stay in their folder'
        raise InputError(f'config.wandb.project={project}: {first_line(error)}; {advice}') from error


class WandbRuns:
    """Copies rows of metrics to the members' runs, by the same names over `gradient_steps`.

    A row's place among its member's rows is its step there. What a killed run wrote after its last checkpoint comes
    again from the resumed one, number for number, and is not taken twice.
    """

    def __init__(
        self,
        workdir: Path,
        project: str,
        config: Mapping[str, Any],
        identities: Sequence[Mapping[str, Any]],
        before: Sequence[Mapping[str, Any]],
    ):
        """`config` is what all members share, `identities` what tells them apart; `before` are a resumed run's rows.

        With `WANDB_MODE=offline` the runs stay in the folder. Raises InputError if they cannot be begun.
        """
        here = Path.cwd()
        shown = str(workdir.relative_to(here) if workdir.is_relative_to(here) else workdir)
        self._written = Counter(int(row['member']) for row in before)
        self._runs: dict[int, Any] = {}
        try:
            import wandb

            settings = wandb.Settings(console='off', silent=True, save_code=False)
            for identity in identities:
                number = identity['member']
                self._runs[number] = wandb.init(
                    project=project,
                    group=shown,
                    name=f'{shown}/member_{number}',
                    id=f'{_id(workdir)}-{number}',
                    config={**config, **identity},
                    dir=workdir,
                    resume='allow',
                    reinit='create_new',  # beside the others, which go on
                    settings=settings,
                )
                self._runs[number].define_metric('*', step_metric='gradient_steps')
            first = next(iter(self._runs.values()))
            place = f'{workdir}/wandb, from which `wandb sync` sends them' if first.offline else first.url
            print(f'the members are runs of Weights & Biases: {place}')
        except Exception as error:  # no network, a full disk: it raises anything
            self.close()
            raise InputError(
                f'config.wandb.project={project}: {first_line(error)}; the same command without it goes on'
            ) from error

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the metrics of rows."""
        if not self._runs:
            return
        try:
            for row in rows:
                values = {name: value for name, value in row.items() if '/' in name and value != ''}
                number, shown = row['member'], {name: row[name] for name in ('phase', 'gradient_steps')}
                self._runs[number].log(shown | values, step=self._written[number])
                self._written[number] += 1
        except Exception as error:
            print(f'nothing goes to Weights & Biases from now on: {first_line(error)}', file=sys.stderr)
            self.close()

    def close(self) -> None:
        """Waits until all is written or sent; says so if that fails."""
        runs, self._runs = self._runs, {}
        for number, run in runs.items():
            try:
                run.finish()
            except Exception as error:  # its own process may be gone, and then it raises anything
                print(f'Weights & Biases may lack the last of member {number}: {first_line(error)}', file=sys.stderr)


def _id(workdir: Path) -> str:
    """What the ids of this folder's runs begin with, made at the first time."""
    path = workdir / ID_FILE
    if not re.fullmatch(r'[0-9a-f]{8}\n', path.read_text() if path.is_file() else ''):
        write_atomically(path, f'{secrets.token_hex(4)}\n'.encode())
    return path.read_text().strip()
