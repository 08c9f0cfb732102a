"""Learning curves: which metric, one curve per setting with the range of its seeds, and their picture."""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, PercentFormatter

from spot_jax.core.fields import MAX_SIZE
from spot_jax.pictures.comparisons import Band, draw_each
from spot_jax.pictures.style import COLORS, legend, line_style, literal, sheet
from spot_jax.system.errors import InputError

BEFORE_HYPERPARAMETERS = ('phase', 'gradient_steps', 'member', 'seed')  # the columns of metrics.csv without a prefix
ONLINE: dict[str, Any] = {'color': '#555555', 'linewidth': 1, 'linestyle': (0, (1, 2))}  # where it begins
DEFAULT_METRICS = ['evaluation/success_rate', 'evaluation/normalized_score', 'evaluation/return']


class Curve(NamedTuple):
    """A metric of the seeds of one setting."""

    label: str
    steps: np.ndarray  # [N] gradient steps
    mean: np.ndarray  # [N], over the seeds that have not stopped before
    low: np.ndarray  # [N]
    high: np.ndarray  # [N]
    num_seeds: int
    stopped: np.ndarray  # [D, 2]: last step and value of each seed that diverged
    online_from: int | None = None  # the step that fine-tuning begins at, if the curve begins before it


def choose_metric(tables: Sequence[Sequence[Mapping[str, str]]], wanted: str | None) -> str:
    """`wanted`, or by default the first of `DEFAULT_METRICS` that every table of rows has values of.

    Raises InputError if there is no such metric.
    """
    columns = [name for name in tables[0][0] if '/' in (name or '')]
    have = [name for name in columns if all(any(row.get(name) for row in rows) for rows in tables)]
    choices = f'choose a --metric that every run has values of: {", ".join(have) or "there is none yet"}'
    if wanted is not None:
        if wanted not in have:
            raise InputError(f'--metric={wanted}: {choices}')
        return wanted
    for name in DEFAULT_METRICS:
        if name in have:
            return name
    raise InputError(f'no metric of evaluations: {choices}')


def setting_labels(settings: Sequence[Mapping[str, float]]) -> list[str]:
    """Each setting's hyperparameters that differ among the settings, e.g. 'regularizer_weight=0.1'."""
    varied = [name for name in settings[0] if len({s[name] for s in settings}) > 1]
    return [', '.join(f'{name}={s[name]:.12g}' for name in varied) for s in settings]


def learning_curves(
    rows: Sequence[Mapping[str, str]], metric: str, name: str = '', diverged: Collection[str] | None = None
) -> list[Curve]:
    """One curve per setting of a run's hyperparameters, from the rows of its metrics.csv; `name` begins the labels.

    Of a metric that both the policy and a stage before it have, the policy's: each counts its own steps.
    `diverged` are the seeds that did. None: of a run that may be going on, those whose last value comes before the
    run's last. Steps that a seed going on has no value at are passed over, else the curve would jump to the others'.
    Raises KeyError, TypeError or ValueError if a cell makes no sense or none has a value.
    """
    of_policy = [row for row in rows if row.get('phase') in ('offline', 'online')]
    if any(row[metric] for row in of_policy):
        rows = of_policy
    names = [column for column in rows[0] if '/' not in column and column not in BEFORE_HYPERPARAMETERS]
    labels = setting_labels([{n: float(row[n]) for n in names} for row in rows])
    groups: dict[str, dict[str, dict[int, float]]] = {}  # label, seed, step
    for label, row in zip(labels, rows, strict=True):
        if row[metric]:
            values = groups.setdefault(label, {}).setdefault(row['seed'], {})
            step = int(row['gradient_steps'])
            if not 0 <= step <= MAX_SIZE:
                raise ValueError(f'{step:.3g} gradient steps')
            values.setdefault(step, float(row[metric]))
    online = min((int(row['gradient_steps']) for row in rows if row.get('phase') == 'online'), default=None)
    end = max(max(values) for seeds in groups.values() for values in seeds.values())
    curves = []
    for label, seeds in groups.items():
        columns = {}
        for step in sorted(set().union(*seeds.values())):
            going_on = [values for values in seeds.values() if max(values) >= step]
            if all(step in values for values in going_on):
                columns[step] = [values[step] for values in going_on]
        mean, low, high = (np.array([f(column) for column in columns.values()]) for f in (np.mean, np.min, np.max))
        last = {seed: (max(values), values[max(values)]) for seed, values in seeds.items()}
        ended = [seed for seed, (step, _) in last.items() if (step < end if diverged is None else seed in diverged)]
        stopped = np.array([last[seed] for seed in ended]).reshape(-1, 2)
        full_label = ', '.join(filter(None, [name, label]))
        online_from = None if online is None or online <= min(columns) else online
        curves.append(Curve(full_label, np.array(list(columns)), mean, low, high, len(seeds), stopped, online_from))
    return curves


def _finish(axes: Axes, curves: Sequence[Curve], metric: str) -> list[Line2D]:
    """Marks where fine-tuning begins, and success in percent; returns what a legend has of it."""
    starts = {curve.online_from for curve in curves if curve.online_from is not None}
    for start in starts:
        axes.axvline(start, **ONLINE)
    if metric == 'evaluation/success_rate':
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return [Line2D([], [], label='fine-tuning begins', **ONLINE)] if starts else []


def draw_curves(
    curves: Sequence[Curve], metric: str, title: str, width: float = 7, order: Sequence[str] = ()
) -> Figure:
    """The picture of learning curves, so many inches wide; `order` of their labels is that of the colours, if given."""
    figure, axes = sheet()
    counts = sorted({curve.num_seeds for curve in curves})
    number = ' to '.join(str(n) for n in {counts[0]: 0, counts[-1]: 0})
    caption = 'one seed' if counts == [1] else f'mean and range of {number} seeds'
    handles: list[Any] = []
    for i, curve in enumerate(curves):
        style: dict[str, Any] = {
            **line_style(i, curve.label, order),
            'marker': 'o' if len(curve.steps) <= 25 else '',
            'markersize': 3,
        }
        axes.fill_between(curve.steps, curve.low, curve.high, color=style['color'], alpha=0.18, linewidth=0)
        handles += axes.plot(curve.steps, curve.mean, label=literal(curve.label) or caption, **style)
        axes.plot(*curve.stopped.T, 'x', color=style['color'], markersize=7, markeredgewidth=2)
    if any(len(curve.stopped) for curve in curves):
        options: dict[str, Any] = {'color': '#555555', 'markersize': 7, 'markeredgewidth': 2, 'linestyle': 'none'}
        handles.append(Line2D([], [], marker='x', label='a seed diverged', **options))
    handles += _finish(axes, curves, metric)
    columns = max(1, int(100 * width / 7) // (max(len(handle.get_label()) for handle in handles) + 6))
    figure.set_size_inches(width, 3.7 + 0.2 * math.ceil(len(handles) / columns))
    legend(figure, handles, columns, caption if curves[0].label else '')
    axes.set_title(
        '\n'.join(textwrap.fill(literal(line), int(72 * width / 7)) for line in title.splitlines()), fontsize=11
    )
    axes.set_xlabel('gradient steps')
    axes.set_ylabel(metric.removeprefix('evaluation/').replace('_', ' '))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    return figure


def draw_panels(curves: Sequence[Curve], metric: str, title: str, width: float = 7) -> Figure:
    """The picture of many learning curves, so many inches wide: each in a panel, before the others' means in grey."""
    figure, panels = draw_each([Band(c.label, c.steps, c.mean, c.low, c.high) for c in curves], title, width)
    begins = False
    for axes, curve in zip(panels, curves, strict=True):
        axes.plot(*curve.stopped.T, 'x', color=COLORS[1], markersize=6, markeredgewidth=2)
        begins = bool(_finish(axes, [curve], metric)) or begins
    panels[0].xaxis.set_major_formatter(EngFormatter(sep=''))
    marks = '; ×: a seed diverged' * any(len(curve.stopped) for curve in curves)
    marks += '; dotted: fine-tuning begins' * begins
    figure.supxlabel(f'gradient steps (mean and range of seeds; grey: the other means{marks})', fontsize=8)
    figure.supylabel(metric.removeprefix('evaluation/').replace('_', ' '), fontsize=9)
    return figure
