"""What a grid says: how scores hang on a hyperparameter, and what choosing the best policy would have cost."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spot_jax.pictures.comparisons import Band, Points, draw_bands, draw_points
from spot_jax.report.rows import Group, Row, told_apart, unit, ylim
from spot_jax.report.scores import Section, cell
from spot_jax.report.statistics import best_of
from spot_jax.report.tables import ABSENT, Table, number

BUDGETS = (1, 2, 3, 5, 8, 12, 20, 50, 100)


def _grids(row: Row) -> Iterator[tuple[str, list[Group]]]:
    """The settings of each method that has several."""
    titles = dict.fromkeys(group.title for group in row.groups.values())
    for title in titles:
        groups = [group for group in row.groups.values() if group.title == title]
        if len(groups) > 1:
            yield title, groups


def _lines(groups: Sequence[Group], name: str, metric: str) -> list[Points]:
    """The settings that differ in `name` alone, a line for each value of the others."""
    others: dict[str, list[Group]] = {}
    for group in groups:
        rest = {path: value for path, value in group.setting.items() if path != name}
        others.setdefault(repr(sorted(rest.items())), []).append(group)
    lines = [sorted(line, key=lambda g: g.setting[name]) for line in others.values() if len(line) > 1]
    rests = [{path: value for path, value in line[0].setting.items() if path != name} for line in lines]
    labels = told_apart(rests) if lines else []
    return [
        Points(label, np.array([g.setting[name] for g in line]), [g.scores(metric) for g in line])
        for label, line in zip(labels, lines, strict=True)
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sensitivity(rows: Sequence[Row]) -> list[Section]:
    """All settings of methods that have several on a task, and a picture for each number that they differ in."""
    pictures, cells = {}, []
    for number_, row in enumerate(rows):
        for title, groups in _grids(row):
            shown = zip(groups, told_apart([g.setting for g in groups]), strict=True)
            for group, setting in shown:
                count = len(group.entries)
                cells.append([row.label, title, setting, str(count), cell(group, group.scores(row.metric), count)])
            groups = [group for group in groups if len(group.scores(row.metric))]
            names = sorted({n for g in groups for n, value in g.setting.items() if _is_number(value)})
            for name in names:
                values = [g.setting.get(name) for g in groups]
                if len(set(values)) < 2 or not all(map(_is_number, values)):  # some are None: no axis has that
                    continue
                lines = _lines(groups, name, row.metric)
                if lines:
                    figure = draw_points(lines, name, unit(row), f'{title} on {row.label}', ylim(row))
                    pictures[f'sensitivity_{number_ + 1}_{_file(title)}_{_file(name)}'] = figure
    text = 'Every seed that did not diverge, and the means of each value.'
    heads = ['task', 'method', 'setting', 'seeds', 'score']
    table = Table('settings', 'Settings', 'Mean ± standard deviation (n − 1) over seeds.', heads, cells)
    return [Section('Hyperparameters', text, [table], pictures)] if cells else []


def _file(text: str) -> str:
    """A name that a file can have."""
    return ''.join(c if c.isalnum() else {'%': 'percent', '+': '_plus_'}.get(c, '_') for c in text).lower()


def budget(rows: Sequence[Row]) -> list[Section]:
    """The score to be expected of the best of n evaluated policies, of each method that has several settings on a task.

    As "A Clean Slate for Offline RL" (2504.11453) asks for; by the closed form over subsets, not by its bandit.
    """
    cells, pictures, counts = [], {}, set()
    for number_, row in enumerate(rows):
        curves = []
        for title, groups in _grids(row):
            scores = np.concatenate([group.scores(row.metric) for group in groups])
            if not len(scores):
                continue
            expected = best_of(scores)
            diverged = sum(group.num_diverged for group in groups)
            label = f'{title}, {len(scores)} policies of {len(groups)} settings' + f', {diverged} diverged' * bool(
                diverged
            )
            curves.append(Band(label, np.arange(1, len(expected) + 1), expected))
            counts |= {n for n in BUDGETS if n <= len(expected)}
        if curves:
            labelled = f'best score of n ({unit(row)})'
            figure = draw_bands(curves, 'n, policies evaluated', labelled, ylim(row), row.label)
            pictures[f'budget_{number_ + 1}'] = figure
            cells += [(f'{row.label}: {curve.label}', curve.value) for curve in curves]
    if not cells:
        return []
    text = 'Expected score of the best of n policies drawn from the grid without repetition (its settings and seeds), '
    text += 'chosen by the same evaluation that is reported: n = 1 is what an untuned policy scores. '
    text += 'Diverged ones are not drawn.'
    columns = sorted(counts)
    table = [[label, *(number(v[n - 1]) if n <= len(v) else ABSENT for n in columns)] for label, v in cells]
    heads = ['grid', *(f'n = {n}' for n in columns)]
    return [Section('What tuning costs', text, [Table('budget', 'Best of n', '', heads, table)], pictures)]
