"""How an update's time grows with the members, the latents L, the batch and the hidden width: figures and a picture."""

from typing import Any

import jax
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ml_collections import ConfigDict

from spot_jax.benchmark.phases import Case, case, data_of_rows, random_rows, update_flops, with_settings
from spot_jax.benchmark.timing import measure
from spot_jax.pictures import style

AXES = {  # what is changed, its values, and the fields it sets
    'members': ((1, 4, 16, 64), lambda n: {'seeds': tuple(range(n))}),
    'latents L': ((1, 4, 16), lambda n: {'regularizer.num_samples': n}),
    'batch size': ((64, 256, 1024), lambda n: {'batch_size': n}),
    'hidden width': (
        (64, 256, 1024),
        lambda n: {f'{net}.hidden_dims': (n, n) for net in ('actor', 'critic', 'cvae')},
    ),
}


def cases(config: ConfigDict, sizes: tuple[int, int], updates: int) -> dict[tuple[str, int], Case]:
    """Policy updates with one setting changed at a time; a round takes about as long as `updates` of one member."""
    rows = data_of_rows(random_rows(sizes))
    config = with_settings(config, seeds=(0,))
    usual = update_flops(config, sizes, 'policy')
    compiled: dict[str, Case] = {}  # by settings: the usual ones lie on every axis
    found = {}
    for axis, (values, fields) in AXES.items():
        for value in values:
            changed = with_settings(config, **fields(value))
            key = changed.to_json()
            if key not in compiled:
                work = len(changed.seeds) * update_flops(changed, sizes, 'policy') / usual
                steps = max(10, round(updates / work / config.policy_freq)) * config.policy_freq
                compiled[key] = case(f'{axis} = {value}', changed, rows, 'policy', sizes, steps)
            found[axis, value] = compiled[key]
    return found


def scaling(config: ConfigDict, sizes: tuple[int, int], updates: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of one update of all members, and what its products take at the device's matmul rate."""
    found, figures = cases(config, sizes, updates), []
    peak, *measured = measure(list({one.name: one for one in found.values()}.values()), rounds)
    rates = {row['case']: row['updates_per_s'] for row in measured}
    for (axis, value), one in found.items():
        milliseconds = 1e3 * one.members / rates[one.name]
        products = 1e-6 * one.members * one.flops / peak['gflop_per_s']
        figures.append({'axis': axis, 'value': value, 'ms': milliseconds, 'ms_of_products': products})
    return figures


def table(figures: list[dict[str, Any]]) -> str:
    """The figures for people."""
    lines = [f'policy updates on {jax.devices()[0]}         ms  at the matmul rate']
    for row in figures:
        lines.append(f'{row["axis"]:>14s} = {row["value"]:<6d} {row["ms"]:20.2f} {row["ms_of_products"]:10.2f}')
    return '\n'.join(lines)


def draw(figures: list[dict[str, Any]]) -> Figure:
    """A panel for each axis, logarithmic: proportional growth is a line along the grid's diagonal."""
    figure = Figure(figsize=(10, 3.2), layout='constrained')
    panels = figure.subplots(1, len(AXES), sharey=True)
    for axes, axis in zip(panels, AXES, strict=True):
        rows = [row for row in figures if row['axis'] == axis]
        values = [row['value'] for row in rows]
        axes.plot(values, [row['ms'] for row in rows], color=style.COLORS[0], marker='o', markersize=4)
        axes.plot(values, [row['ms_of_products'] for row in rows], color=style.COLORS[1], linestyle='--')
        axes.set(xscale='log', yscale='log', xlabel=axis, xticks=values, xticklabels=values)
        axes.minorticks_off()
        style.plain(axes)
    panels[0].set_ylabel('one update of all members (ms)')
    handles = [
        Line2D([], [], color=style.COLORS[0], marker='o', markersize=4, label='measured'),
        Line2D([], [], color=style.COLORS[1], linestyle='--', label="its products at the device's matmul rate"),
    ]
    style.legend(figure, handles, 2)
    return figure
