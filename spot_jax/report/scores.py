"""What the policies score: the poster's table, statistics over tasks, fine-tuning, and the published numbers."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from spot_jax.pictures.comparisons import Band, draw_bands, draw_intervals
from spot_jax.report import statistics
from spot_jax.report.read import SCORES
from spot_jax.report.rows import Group, Row, group_order, pooled, unit
from spot_jax.report.tables import ABSENT, Table, best_of_row, number, with_interval, with_spread, with_totals

PUBLISHED = Path(__file__).with_name('published.json')
THRESHOLDS = np.arange(0.0, 101.0)


class Section(NamedTuple):
    """A part of the report."""

    title: str
    text: str
    tables: list[Table]
    pictures: dict[str, Figure]  # by the names of their files


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The labels of all methods and settings, in the poster's order."""
    groups = {label: group for row in rows for label, group in row.compared.items()}
    return sorted(groups, key=lambda label: group_order(groups[label]))


def is_whole(group: Group | None, metric: str) -> bool:
    """Whether all seeds have a score: else its mean is that of those who got through."""
    return group is not None and not group.num_missing and 0 < len(group.scores(metric)) == len(group.entries)


def _remarks(group: Group, num_scores: int, usual: int) -> str:
    total = len(group.entries)
    amiss = {'diverged': group.num_diverged, 'without a score': total - group.num_diverged - num_scores}
    remarks = [f'{count} of {total} {what}' for what, count in amiss.items() if count]
    if group.num_missing:
        remarks.append(f'{group.num_missing} of {total + group.num_missing} seeds are not there')
    remarks += [f'{total} seed{"s" * (total > 1)}'] if total != usual and not remarks else []
    return f' ({", ".join(remarks)})' if remarks else ''


def _usual(rows: Sequence[Row]) -> int:
    return Counter(len(group.entries) for row in rows for group in row.compared.values()).most_common(1)[0][0]


def _seeds(usual: int) -> str:
    return f'{usual} seeds where nothing else is said' if usual > 1 else 'one seed where nothing else is said'


def cell(group: Group | None, scores: np.ndarray, usual: int) -> str:
    """'mean ± standard deviation' of a group's `scores`, with what is amiss."""
    if group is None:
        return ABSENT
    text = with_spread(*statistics.mean_and_std(scores)) if len(scores) else 'no score'
    return text + _remarks(group, len(scores), usual)


def score_table(rows: Sequence[Row]) -> Table:
    """Tasks × methods, as the poster has it."""
    labels, usual = columns_of(rows), _usual(rows)
    cells: list[list[str]] = []
    values = np.full((len(rows), len(labels)), np.nan)
    best: set[tuple[int, int]] = set()
    for i, row in enumerate(rows):
        groups = [row.compared.get(label) for label in labels]
        scores = [np.empty(0) if group is None else group.scores(row.metric) for group in groups]
        cells.append([f'{row.label} ({unit(row)})', *(cell(*each, usual) for each in zip(groups, scores, strict=True))])
        whole = [is_whole(group, row.metric) for group in groups]
        means = [float(np.mean(s)) if ok else None for s, ok in zip(scores, whole, strict=True)]
        values[i] = [np.nan if mean is None else mean for mean in means]
        best |= {(i, j + 1) for j in best_of_row(means)}
    with_total = len(rows) > 1 and len(pooled(rows)) == len(rows) and len({row.metric for row in rows}) == 1
    note = (
        f'Mean ± standard deviation (n − 1) over seeds of the last evaluation; {_seeds(usual)}. Bold: the best mean. '
    )
    note += 'A mean of some of the seeds only is never the best and enters no total.'
    if len(rows) > 1 and not with_total:
        note += ' No totals: there are none of returns, of several kinds of scores, or of several rows of one dataset.'
    if with_total:
        cells = with_totals(cells, values)
        best |= {(len(rows), j + 1) for j in best_of_row([None if np.isnan(v) else v for v in values.sum(0)])}
    return Table('scores', 'Scores', note, ['task', *labels], cells, best, with_total)


def common_tasks(rows: Sequence[Row]) -> list[tuple[list[Row], list[str]]]:
    """Tasks that several methods can be compared over, with these methods: each has all of its seeds on all of them.

    At most two sets for each metric, of those that are all tasks of some method: the one of most tasks, and the one
    that most methods share. They may be the same one, and there may be none.
    """
    return [each for metric in SCORES for each in _common([row for row in pooled(rows) if row.metric == metric])]


def _common(rows: Sequence[Row]) -> list[tuple[list[Row], list[str]]]:
    """`common_tasks` of one metric."""
    have = {
        label: tuple(i for i, row in enumerate(rows) if is_whole(row.compared.get(label), row.metric))
        for label in columns_of(rows)
    }
    sets = sorted({tasks for tasks in have.values() if tasks}, key=lambda tasks: (-len(tasks), tasks))
    found = [(tasks, [label for label in have if set(tasks) <= set(have[label])]) for tasks in sets]
    shared = [([rows[i] for i in tasks], labels) for tasks, labels in found if len(labels) > 1]
    return shared[:1] + [each for each in shared[1:] if len(each[1]) == max(len(labels) for _, labels in shared)][:1]


def _improvement(scores: dict[str, list[np.ndarray]]) -> list[list[str]]:
    """The probability of each method's improvement on each other; the other way round it is the rest to one."""
    found: dict[tuple[str, str], str] = {}
    for (ours, a), (theirs, b) in combinations(scores.items(), 2):
        value, low, high = statistics.probability_of_improvement(a, b)
        found[ours, theirs] = with_interval(value, low, high, 2)
        rest = (None, None) if low is None else (1 - high, 1 - low)
        found[theirs, ours] = with_interval(1 - value, rest[0], rest[1], 2)
    return [[label, *(found.get((label, other), ABSENT) for other in scores)] for label in scores]


def aggregates(rows: Sequence[Row], labels: Sequence[str], suffix: str, order: Sequence[str]) -> Section:
    """Statistics over tasks of methods that have all of them; `order` of the labels gives each its colour."""
    scores = {label: [row.compared[label].scores(row.metric) for row in rows] for label in labels}
    cells, middle, profiles = [], [], []
    for label, own in scores.items():
        mean, iqm = statistics.mean(own), statistics.interquartile_mean(own)
        middle.append(iqm)
        seeds = '/'.join(dict.fromkeys(str(len(values)) for values in own))
        cells.append([label, seeds, with_interval(*mean), with_interval(*iqm)])
        profiles.append(Band(label, THRESHOLDS, *statistics.performance_profile(own, THRESHOLDS)))
    best = {(i, 3) for i in best_of_row([float(each.value) for each in middle])}
    names = ', '.join(row.label for row in rows)
    level = f'{statistics.LEVEL:.0%} interval'
    interval = f'[ ]: {level} of a bootstrap within each task'
    units = '; '.join(dict.fromkeys(map(unit, rows)))
    where = f'over {len(rows)} tasks' if len(rows) > 1 else f'on {names}'
    more = f'Scores of the last evaluation ({units}). {interval}; none of a method with one seed of a task.'
    return Section(
        f'{len(labels)} methods {where}',
        f'Methods with a score of every seed on {names}. Interquartile mean: of the middle half of all scores. '
        f'Profile: the share of seeds that score more than τ, with its {level}.',
        [
            Table(
                f'aggregates{suffix}',
                'Mean and interquartile mean',
                more,
                ['method', 'seeds', 'mean', 'interquartile mean'],
                cells,
                best,
            ),
            Table(
                f'improvement{suffix}',
                'Probability of improvement',
                f"How probably a seed of the row's method scores more than one of the column's, ties half. {interval}.",
                ['method', *labels],
                _improvement(scores),
            ),
        ],
        {
            f'interquartile_mean{suffix}': draw_intervals(labels, middle, f'interquartile mean ({units})'),
            f'profiles{suffix}': draw_bands(
                profiles, f'τ ({units})', 'share of seeds with score > τ', (0, 1), order=order
            ),
        },
    )


def online_table(rows: Sequence[Row]) -> Table:
    """Before and after fine-tuning, with the regret."""
    labels, usual = columns_of(rows), _usual(rows)
    cells, best = [], set()
    for i, row in enumerate(rows):
        line, after = [f'{row.label} ({unit(row)})', str(row.facts['online.steps'])], []
        for label in labels:
            group = row.compared.get(label)
            good = [] if group is None else [e.policy for e in group.entries if not e.policy.diverged]
            scores = np.empty(0) if group is None else group.scores(row.metric)
            pairs = [(p.before or {}).get(row.metric) for p in good]
            before = np.array([x for x in pairs if x is not None]) * (100 if row.metric == 'success_rate' else 1)
            regrets = np.array([p.regret for p in good if p.regret is not None])
            first = with_spread(*statistics.mean_and_std(before)) if len(before) else ABSENT
            regret = with_spread(*statistics.mean_and_std(100 * regrets)) if len(regrets) else ABSENT
            line += [first, cell(group, scores, usual), regret]
            after.append(float(np.mean(scores)) if is_whole(group, row.metric) else None)
        best |= {(i, 3 * j + 3) for j in best_of_row(after)}
        cells.append(line)
    heads = [f'{label}, {what}' for label in labels for what in ('offline', 'online', 'regret')]
    note = (
        f'Mean ± standard deviation (n − 1) over seeds before and after; {_seeds(usual)}. '
        'Regret: the mean of 100 − success, in percent, '
    )
    note += "over the online phase's evaluations, the one before its first step included. Bold: the best afterwards."
    return Table('online', 'Online fine-tuning', note, ['task', 'environment steps', *heads], cells, best)


def published(rows: Sequence[Row]) -> list[Section]:
    """D4RL's numbers as they were printed, of the kinds of tasks that there are."""
    facts = json.loads(PUBLISHED.read_text())
    kinds = {(row.facts['task'], False) for row in rows} | {(row.facts['task'], row.fine_tuned) for row in rows}
    tables = []
    for each in facts['tables']:
        if (each['task'], each['fine_tuned']) not in kinds:
            continue
        best = {(i, j + 1) for i, row in enumerate(each['rows'].values()) for j in best_of_row(row)}
        cells = [[name, *map(number, row)] for name, row in each['rows'].items()]
        for row, std in zip(cells, each.get('standard_deviation_of_last', ()), strict=False):
            row[-1] = f'{row[-1]} ± {number(std)}'
        total = 'total' in each['rows']
        tables.append(Table(each['name'], each['title'], '', ['task', *each['columns']], cells, best, total))
    text = f"From {facts['source']}: on D4RL's own data. Those above are of other data, unless a task says D4RL."
    return [Section('Published numbers, on other data', text, tables, {})] if tables else []


def score_sections(rows: Sequence[Row]) -> list[Section]:
    """All of the above but the published numbers."""
    sections: list[Section] = []
    offline = [row for row in rows if not row.fine_tuned]
    online = [row for row in rows if row.fine_tuned]
    if offline:
        sections.append(Section('Scores', '', [score_table(offline)], {}))
    for number_, (tasks, labels) in enumerate(common_tasks(offline)):
        sections.append(aggregates(tasks, labels, f'_{number_ + 1}' if number_ else '', columns_of(rows)))
    if online:
        sections.append(Section('Online fine-tuning', '', [online_table(online)], {}))
    return sections
