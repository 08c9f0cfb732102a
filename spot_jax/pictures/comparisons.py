"""Methods beside each other: intervals, curves with bands, scores against a hyperparameter."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from spot_jax.pictures.style import COLORS, legend, line_style, literal, plain, sheet

WIDTH = 5.0  # inches: letters can still be read where the picture is as wide as a phone
MAX_BANDS = 6  # more hide each other


class Band(NamedTuple):
    """A curve, with a band if its ends are known."""

    label: str
    x: np.ndarray  # [N]
    value: np.ndarray  # [N]
    low: np.ndarray | None = None  # [N]
    high: np.ndarray | None = None  # [N]


def draw_intervals(labels: Sequence[str], estimates: Sequence[Any], xlabel: str) -> Figure:
    """A point for each label, with the interval of its estimate (`value`, `low`, `high`), the first on top."""
    names = [textwrap.fill(literal(label), 28) for label in labels]
    lines = max(name.count('\n') + 1 for name in names)
    figure = Figure(figsize=(WIDTH, 0.9 + (0.16 + 0.16 * lines) * len(labels)), layout='constrained')
    axes = figure.add_subplot()
    plain(axes)
    for i, estimate in enumerate(estimates):
        if estimate.low is not None:
            ends = [estimate.low, estimate.high]
            axes.plot(ends, [i, i], color=COLORS[0], linewidth=5, alpha=0.3, solid_capstyle='butt')
        axes.plot(estimate.value, i, 'o', color=COLORS[0], markersize=6)
    axes.set_yticks(range(len(labels)), names, fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    return figure


def draw_each(bands: Sequence[Band], title: str, width: float) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each curve and its band, before the others in grey; the caller names the axes."""
    columns = 3
    rows = math.ceil(len(bands) / columns)
    figure = Figure(figsize=(width, 0.9 + 1.4 * rows), layout='constrained')
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel())
    for i, (axes, band) in enumerate(zip(panels, bands, strict=False)):
        plain(axes)
        for other in bands:
            axes.plot(other.x, other.value, color='#c4c4c4', linewidth=0.8)
        if band.low is not None and band.high is not None:
            axes.fill_between(band.x, band.low, band.high, color=COLORS[0], alpha=0.25, linewidth=0)
        axes.plot(band.x, band.value, color=COLORS[0], linewidth=2)
        axes.set_title(textwrap.fill(literal(band.label), 22), fontsize=8.5)
        axes.tick_params(labelsize=8, labelbottom=i >= len(bands) - columns)
    for axes in panels[len(bands) :]:
        axes.set_visible(False)
    panels[0].xaxis.set_major_locator(MaxNLocator(3))
    figure.suptitle(textwrap.fill(literal(title), int(72 * width / 7)), fontsize=10)
    return figure, panels[: len(bands)]


def draw_bands(
    bands: Sequence[Band],
    xlabel: str,
    ylabel: str,
    ylim: tuple[float, float] | None = None,
    title: str = '',
    order: Sequence[str] = (),
) -> Figure:
    """Curves with their bands, each in a panel if they are many; colours are by the labels' places in `order`."""
    if len(bands) > MAX_BANDS:
        figure, panels = draw_each(bands, title, WIDTH)
        figure.supxlabel(f'{xlabel} (grey: the others)', fontsize=8)
        figure.supylabel(ylabel, fontsize=9)
        _limit(panels[0], ylim)
        return figure
    figure, axes = sheet()
    handles: list[Any] = []
    for i, band in enumerate(bands):
        style = line_style(i, band.label, order)
        if band.low is not None and band.high is not None:
            axes.fill_between(band.x, band.low, band.high, color=style['color'], alpha=0.12, linewidth=0)
        marker = 'o' if len(band.x) <= 12 else ''
        handles += axes.plot(band.x, band.value, label=literal(band.label), marker=marker, markersize=4, **style)
    _finish(figure, handles, (xlabel, ylabel), ylim, title)
    return figure


class Points(NamedTuple):
    """Scores of several seeds at each value of a hyperparameter."""

    label: str
    x: np.ndarray  # [N]
    scores: list[np.ndarray]  # [N], of the seeds


def draw_points(
    lines: Sequence[Points], xlabel: str, ylabel: str, title: str, ylim: tuple[float, float] | None = None
) -> Figure:
    """Every seed's score against a hyperparameter, and their means joined; logarithmic if the values are far apart."""
    figure, axes = sheet()
    handles: list[Any] = []
    for i, line in enumerate(lines):
        style = line_style(i)
        for x, scores in zip(line.x, line.scores, strict=True):
            axes.plot(np.full(len(scores), x), scores, 'o', color=style['color'], alpha=0.35, markersize=5)
        means = [np.mean(scores) for scores in line.scores]
        handles += axes.plot(line.x, means, label=literal(line.label) or 'mean', **style)
    handles.append(Line2D([], [], marker='o', color='#777777', linestyle='none', label='a seed', alpha=0.6))
    values = np.concatenate([line.x for line in lines])
    if values.min() > 0 and values.max() / values.min() > 5:
        axes.set_xscale('log')
        ticks = np.unique(values)
        if len(ticks) <= 8:
            axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
            axes.minorticks_off()
    _finish(figure, handles, (xlabel, ylabel), ylim, title)
    return figure


def _finish(
    figure: Figure, handles: list[Any], labels: tuple[str, str], ylim: tuple[float, float] | None, title: str
) -> None:
    (axes,) = figure.axes
    columns = max(1, 70 // (max(len(handle.get_label()) for handle in handles) + 6))
    figure.set_size_inches(WIDTH, 3.3 + 0.2 * math.ceil(len(handles) / columns))
    legend(figure, handles, columns)
    axes.set_title(textwrap.fill(literal(title), 60), fontsize=10)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    _limit(axes, ylim)


def _limit(axes: Axes, ylim: tuple[float, float] | None) -> None:
    if ylim is not None:
        margin = 0.03 * (ylim[1] - ylim[0])
        axes.set_ylim(ylim[0] - margin, ylim[1] + margin)
