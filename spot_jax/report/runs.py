"""What is told of single runs: learning curves, time, and how to make each again."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spot_jax.pictures.comparisons import WIDTH
from spot_jax.pictures.curves import Curve, draw_curves, draw_panels, learning_curves
from spot_jax.report.read import Run
from spot_jax.report.rows import UNITS, Group, Row
from spot_jax.report.scores import Section, columns_of
from spot_jax.report.tables import ABSENT, Table, number
from spot_jax.run.config import default_config, goes_on, lookup, members
from spot_jax.run.effects import read_paths

PLAIN = 'experiments/default.py'  # the config without a preset
MAX_TOGETHER = 4  # curves in one panel, as their bands hide each other


def _written(value: Any) -> str:
    """A field's value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ','.join(map(_written, value))
    return 'none' if value is None else str(value)


def changes(run: Run) -> dict[str, Any]:
    """The fields that the run reads whose values are not the defaults."""
    default = default_config()
    found = {path: lookup(run.config, path) for path in read_paths(run.config) if path != 'dataset_id'}
    plain = lambda value: list(value) if isinstance(value, tuple) else value
    different = {path: value for path, value in found.items() if plain(value) != plain(lookup(default, path))}
    return {'dataset_id': run.config.dataset_id, **different}


def command(run: Run) -> str:
    """The command that makes the run again, in a folder of its own, whatever presets there are.

    If Python handed the data over, before it a comment that says so: a command takes a whole dataset.
    """
    fields = [f'--config.{path}={_written(value)}' for path, value in changes(run).items()]
    begins = f'python -m spot_jax.main --config={PLAIN} {shlex.quote(f"--workdir=runs/{run.name}")}'
    text = ' \\\n  '.join([begins, *map(shlex.quote, fields)])
    if run.results is None or not run.results.held:
        return text
    held = '# It learned from data that Python held, by spot_jax.train(..., dataset=...). This takes the whole dataset:'
    return f'{held}\n{text}'


def fields(run: Run) -> str:
    """All fields that the run reads and their values, a line each."""
    return '\n'.join(f'{path} = {_written(lookup(run.config, path))}' for path in read_paths(run.config))


def _rows_of(group: Group) -> list[dict[str, str]]:
    """The rows of metrics.csv of a group's seeds."""
    numbers = [(entry.run.rows, str(entry.policy.member.number)) for entry in group.entries]
    return [row for rows, number_ in numbers for row in rows if row['member'] == number_]


def curves(rows: Sequence[Row]) -> tuple[list[Section], list[str]]:
    """A picture of each task's learning curves, and a line for each method whose metrics make no sense."""
    pictures, problems, order = {}, [], columns_of(rows)
    for number_, row in enumerate(rows):
        metric, found = f'evaluation/{row.metric}', []
        for group in row.compared.values():
            try:
                found += _curve(group, metric)
            except (KeyError, TypeError, ValueError):
                names = ', '.join(dict.fromkeys(entry.run.name for entry in group.entries))
                problems.append(
                    f'no learning curve of {group.label} on {row.label}: the metrics.csv of {names} is damaged'
                )
        if any(len(curve.steps) > 1 for curve in found):  # else the tables say it all
            title = f'{row.label}{", fine-tuned" * row.fine_tuned}'
            few = len(found) <= MAX_TOGETHER
            figure = (
                draw_curves(found, metric, title, WIDTH, order) if few else draw_panels(found, metric, title, WIDTH)
            )
            pictures[f'learning_curves_{number_ + 1}'] = figure
    return [Section('Learning curves', '', [], pictures)] if pictures else [], problems


def _curve(group: Group, metric: str) -> list[Curve]:
    """The curve of a group with the range of its seeds; none without evaluations in metrics.csv."""
    rows = [row for row in _rows_of(group) if row[metric]]
    if not all(math.isfinite(float(row[metric])) for row in rows):
        raise ValueError('numbers that cannot be drawn')
    keep = ('gradient_steps', 'seed', 'member', 'phase', metric)  # one curve, whatever its hyperparameters are called
    diverged = {str(e.policy.member.seed) for e in group.entries if e.policy.diverged}
    kept = [{name: row[name] for name in keep} for row in rows]
    return learning_curves(kept, metric, group.label, diverged) if rows else []


def timing(runs: Iterable[Run]) -> list[Section]:
    """Seconds of each phase, and updates per second."""
    finished = [run for run in runs if run.results is not None]
    phases = dict.fromkeys(name for run in finished for name in (run.results.seconds if run.results else ()))
    order = [*(p for p in phases if p not in ('offline', 'online', 'evaluation'))]
    order += [p for p in ('offline', 'online', 'evaluation') if p in phases]
    cells = []
    for run in finished:
        assert run.results is not None
        seconds, policies = run.results.seconds, run.results.policies
        rate = None
        if seconds.get('offline') and not run.config.online.steps:
            rate = sum(p.gradient_steps for p in policies) / seconds['offline']
        elif seconds.get('online'):
            rate = len(policies) * run.config.online.steps * run.config.online.updates_per_step / seconds['online']
        cells.append(
            [run.name, run.title, str(len(policies)), *(number(seconds.get(p), 0) for p in order), number(rate, 0)]
        )
    note = (
        'Seconds that each phase took, as the run counted them; evaluations go on beside training. Updates: gradient '
    )
    note += 'steps of all members together per second of the offline phase, or of the online one.'
    heads = ['run', 'method', 'members', *(f'{p}, s' for p in order), 'updates per second']
    return [Section('Time', '', [Table('time', 'Time', note, heads, cells)], {})] if cells else []


def run_table(runs: Iterable[Run]) -> Table:
    """All runs and how far they are."""
    cells = [
        [
            run.name,
            run.config.dataset_id,
            run.title,
            _seeds(run),
            str(len(members(run.config).members)),
            ABSENT if goes_on(run.config) else str(run.config.offline.steps),
            str(run.config.online.steps or ABSENT),
            _last(run),
            run.state,
        ]
        for run in runs
    ]
    heads = ['run', 'dataset', 'method', 'seeds', 'members', 'offline updates', 'environment steps']
    heads += ['last evaluation, mean of its members', 'state']
    return Table('runs', 'Runs', 'Unfinished runs are in no other table.', heads, cells)


def _seeds(run: Run) -> str:
    return ','.join(str(seed) for seed in dict.fromkeys(m.seed for m in members(run.config).members))


def _last(run: Run) -> str:
    """The mean of the last evaluation in metrics.csv over the members that have it and have not diverged."""
    diverged = {str(p.member.number) for p in run.results.policies if p.diverged} if run.results else set()
    for metric in ('success_rate', 'normalized_score', 'return'):
        scale = 100 if metric == 'success_rate' else 1
        try:
            rows = [row for row in run.rows if row[f'evaluation/{metric}']]
            last = max((int(row['gradient_steps']) for row in rows), default=0)
            latest = [row for row in rows if int(row['gradient_steps']) == last and row['member'] not in diverged]
            found = [float(row[f'evaluation/{metric}']) for row in latest]
        except (KeyError, ValueError):
            continue
        if found and np.isfinite(found).all():
            return f'{number(scale * float(np.mean(found)))} ({UNITS[metric]})'
    return ABSENT


def policy_table(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Every policy that was compared, a line each, for other programs."""
    return [
        {
            'task': row.label,
            'dataset_id': row.facts['dataset_id'],
            'method': group.title,
            'setting': group.label,
            'run': entry.run.name,
            'seed': entry.policy.member.seed,
            'status': 'diverged' if entry.policy.diverged else 'completed',
            'gradient_steps': entry.policy.gradient_steps,
            **entry.policy.scores,
            'regret': entry.policy.regret,
        }
        for row in rows
        for group in row.groups.values()
        for entry in group.entries
    ]
