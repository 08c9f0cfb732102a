"""Learning curves of behaviour policies as a picture."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from spot_jax.acting.tasks import REFERENCE_RETURNS, family
from spot_jax.behavior.settings import MEDIUM_SHARES
from spot_jax.pictures.style import COLORS, plain, png
from spot_jax.storage.outputs import require_free, write_all
from spot_jax.system.errors import InputError, first_line


def read_curve(workdir: Path) -> tuple[str, np.ndarray]:
    """A training's environment, and its evaluations `[N, 3]`: environment steps, mean return, deviation."""
    try:
        environment = json.loads((workdir / 'config.json').read_text())['environment']
        with (workdir / 'metrics.csv').open(newline='') as file:
            rows = [
                [float(row[f]) for f in ('environment_steps', 'evaluation/return', 'evaluation/return_std')]
                for row in csv.DictReader(file)
            ]
        environment = environment.split(':')[-1]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f'{workdir} is no training of a behaviour policy: {first_line(error)}') from error
    return environment, np.array(rows).reshape(-1, 3)


def draw(workdirs: Sequence[Path]) -> Figure:
    """A panel for each training: the mean return and its deviation; D4RL's expert and where medium is taken."""
    figure = Figure(figsize=(3.6 * len(workdirs), 3), layout='constrained')
    for i, workdir in enumerate(workdirs):
        environment, curve = read_curve(workdir)
        axes = figure.add_subplot(1, len(workdirs), i + 1)
        plain(axes)
        steps, mean, std = curve.T
        axes.fill_between(steps, mean - std, mean + std, color=COLORS[0], alpha=0.2, linewidth=0)
        axes.plot(steps, mean, color=COLORS[0])
        references = REFERENCE_RETURNS.get(family(environment))
        if references:
            low, high = (share * references[1] for share in MEDIUM_SHARES)
            axes.axhspan(low, high, color=COLORS[2], alpha=0.2, linewidth=0, label='medium')
            axes.axhline(references[1], color=COLORS[1], linestyle='--', label="D4RL's expert")
            axes.legend(fontsize=8, frameon=False, loc='lower right')
        axes.set_title(environment, fontsize=10)
        axes.set_xlabel('environment steps')
        axes.xaxis.set_major_formatter(EngFormatter(sep=''))
        if i == 0:
            axes.set_ylabel('return of 10 episodes')
    return figure


def plot(workdirs: Sequence[Path], out: Path, overwrite: bool = False) -> None:
    """Draws learning curves in a PNG file; raises InputError if a folder holds none or the file cannot be written."""
    require_free([out], overwrite, '--out')
    print(*write_all(out.parent, {out.name: png(draw(workdirs))}))
