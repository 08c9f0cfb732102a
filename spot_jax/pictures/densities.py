"""How likely the data's policy is to take actions: their log-densities as histograms, and at states."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spot_jax.pictures.style import COLORS, legend, literal, plain

# Whose actions they are, and how they are drawn: a colour and the mark of one action.
KINDS = {
    'dataset': ('#000000', 'o'),
    'random': ('#8a8a8a', ''),
    'policy before training': (COLORS[1], 'X'),
    'policy after training': (COLORS[3], '*'),
}
DEPTH = 15.0  # nats below the most likely action that a slice's colours reach


class Slice(NamedTuple):
    """Log-densities of the actions that differ in two dimensions, at one state."""

    title: str
    extent: tuple[float, float, float, float]  # the two dimensions' bounds: left, right, bottom, top
    log_prob: np.ndarray  # [G, G] in nats, of the second dimension's values times the first's
    marks: Mapping[str, np.ndarray]  # of `KINDS`: the action [2] there


class Densities(NamedTuple):
    """What is drawn of one policy."""

    title: str
    log_prob: Mapping[str, np.ndarray]  # of `KINDS`: in nats, an action in each of the same states [N]
    slices: Sequence[Slice]


def histogram(values: Mapping[str, np.ndarray], bins: int = 50) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Edges [bins + 1] that leave out no more than the lowest percent of any kind, and shares per nat [bins] of each.

    What lies below is counted in the lowest bin, so that all areas are 1.
    """
    low = min(float(np.percentile(v, 1)) for v in values.values())
    high = max(float(v.max()) for v in values.values())
    edges = np.linspace(low, max(high, low + 1e-3), bins + 1)
    shares = {name: np.histogram(np.clip(v, low, None), edges)[0] / len(v) for name, v in values.items()}
    return edges, {name: share / (edges[1] - edges[0]) for name, share in shares.items()}


def draw_densities(runs: Sequence[Densities]) -> Figure:
    """A row for each policy: the histograms, then its slices."""
    columns = 1 + max(len(run.slices) for run in runs)
    figure = Figure(figsize=(max(5.5, 3.9 * columns), 0.5 + 3.5 * len(runs)), layout='constrained')
    grid = figure.add_gridspec(len(runs), columns)
    for row, run in enumerate(runs):
        axes = figure.add_subplot(grid[row, 0])
        edges, shares = histogram(run.log_prob)
        for name, share in shares.items():
            axes.stairs(share, edges, color=KINDS[name][0], linewidth=1.6)
            axes.axvline(float(np.median(run.log_prob[name])), color=KINDS[name][0], linewidth=1, linestyle=':')
        axes.set_xlabel('log-density of the action (nats; the lowest bar: and all below)')
        axes.set_ylabel('share of the actions per nat')
        axes.set_title(literal(run.title), fontsize=10)
        plain(axes)
        top = max((float(part.log_prob.max()) for part in run.slices), default=0.0)
        lowest = min((float(part.log_prob.min()) for part in run.slices), default=0.0)
        for column, part in enumerate(run.slices, 1):
            axes = figure.add_subplot(grid[row, column])
            image = axes.imshow(
                part.log_prob,
                origin='lower',
                extent=part.extent,
                aspect='auto',
                cmap='viridis',
                vmin=max(lowest, top - DEPTH),
                vmax=top,
                interpolation='nearest',
            )
            for name, action in part.marks.items():
                color, marker = KINDS[name]
                axes.plot(*action, marker, color=color, markersize=10, markeredgecolor='white', clip_on=False)
            axes.set_xlabel('action, first dimension')
            axes.set_ylabel('second dimension')
            axes.set_title(literal(part.title), fontsize=10)
            if column == len(run.slices):
                figure.colorbar(
                    image, ax=axes, label='log-density (nats)', extend='min' if lowest < top - DEPTH else 'neither'
                )
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=7, label=name) for name, (color, marker) in KINDS.items()
    ]
    handles.append(Line2D([], [], color='black', linewidth=1, linestyle=':', label='median'))
    legend(figure, handles, len(handles) if columns > 1 else 2)
    return figure
