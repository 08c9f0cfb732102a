"""Which policies may be compared: those of one task in a row, those of one method and setting in a column of it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from spot_jax.acting.specs import MAX_EPISODE_STEPS
from spot_jax.data.load import Selection
from spot_jax.methods import hyperparameters
from spot_jax.population.members import Member
from spot_jax.report.collect import Collected
from spot_jax.report.read import SCORES, Run
from spot_jax.report.rows import UNITS, Entry, Facts, Row, grouped, labelled, told_apart
from spot_jax.run.build import selection_of
from spot_jax.run.config import lookup
from spot_jax.run.effects import covers, read_paths
from spot_jax.run.workdir import NO_EFFECT

# What makes a task: runs that differ in one of these are in rows of their own.
TASK = ('dataset_id', 'task', 'flatten_observations', 'clip_actions', 'offline.steps', 'online.steps')
EVALUATION = ('evaluation.episodes', 'evaluation.seed', 'evaluation.max_episode_steps')
# Of these, None is that a run does not tell: it learned from some of the data, or is of an older version.
NOT_TOLD = ('data', 'environment_made_as')
# What changes no result, or is told of by the members.
ASIDE = ('seeds', 'part', 'grid', 'method', 'log_interval', 'checkpoint', 'evaluation', *NO_EFFECT)
SIZES = ('umaze', 'medium', 'large')  # the order of mazes


def _plain(value: Any) -> Any:
    """Equal values are equal and hashable, whether a grid or a config file gave them."""
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _chooses(run: Run) -> bool:
    """Whether it learned from some of the episodes: the checksum is then that of these, not of the dataset."""
    return selection_of(run.config) != Selection()


def _task(run: Run) -> Facts:
    assert run.results is not None
    config = run.config
    facts = {path: lookup(config, path) for path in (*TASK, *EVALUATION)}
    if config.online.steps:
        facts['evaluation.interval'] = config.evaluation.interval  # the regret is a mean over these
        if config.online.restore is not None:
            del facts['offline.steps']
    spec, made_as = run.results.spec, None
    if spec is not None:
        if spec.get('max_episode_steps') is not None:
            facts['evaluation.max_episode_steps'] = MAX_EPISODE_STEPS  # whatever the config says: nothing reads it
        made_as = _digest([spec.get('max_episode_steps'), spec.get('kwargs')])
    facts |= {'environment': run.results.environment, 'reference': run.results.reference}
    facts |= {'data': None if _chooses(run) else run.results.sha256[:8], 'environment_made_as': made_as}
    return tuple(sorted(facts.items()))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _whole_task(task: Facts, others: Iterable[Facts]) -> Facts:
    """Of runs that do not tell all `NOT_TOLD`, the task of those that tell most and agree in the rest, if just one.

    So that %BC stands in the row of the dataset that it takes its episodes from, and an older run beside newer ones.
    """
    facts = dict(task)
    unknown = {name: None for name in NOT_TOLD if facts[name] is None}
    same = [dict(other) for other in others if dict(other) | unknown == facts and other != task]
    told = [sum(other[name] is not None for name in NOT_TOLD) for other in same]
    most = [other for other, count in zip(same, told, strict=True) if count == max(told)]
    return tuple(sorted(most[0].items())) if len(most) == 1 else task


def _setting(run: Run, member: Member) -> Facts:
    config = run.config
    aside, paths = (*ASIDE, *TASK), hyperparameters(config.method)
    facts = {path: _plain(lookup(config, path)) for path in read_paths(config) if not covers(aside, path)}
    if run.results is not None and _chooses(run):
        facts['data'] = run.results.sha256[:8]
    return tuple(sorted((facts | {paths[name]: value for name, value in member.hyperparameters.items()}).items()))


def _titles(runs: Iterable[Run]) -> dict[str, str]:
    """What to call the method of each run, by the run's name: two methods with one title are told apart."""
    methods: dict[str, set[str]] = {}
    for run in runs:
        methods.setdefault(run.title, set()).add(run.config.method)
    return {run.name: run.title + f' ({run.config.method})' * (len(methods[run.title]) > 1) for run in runs}


def _task_order(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    name = facts['dataset_id']
    size = next((i for i, word in enumerate(SIZES) if word in name.partition('maze/')[2]), len(SIZES))
    return _kind(facts)[1], facts['task'], name.partition('maze/')[0], size, name, repr(sorted(facts.items(), key=repr))


def _kind(facts: Mapping[str, Any]) -> tuple[str, bool]:
    """Tasks of one kind are in one table under one name, if nothing else tells them apart."""
    return facts['dataset_id'], facts['online.steps'] > 0


def _metric(entries: Iterable[Entry]) -> str:
    """The first of SCORES that all evaluated policies have."""
    scores = [e.policy.scores for e in entries if e.policy.scores['return'] is not None]
    return next((name for name in SCORES if scores and all(s[name] is not None for s in scores)), 'return')


def compare(collected: Collected) -> tuple[list[Row], list[str]]:
    """The rows of finished runs, and a line for each thing that keeps them apart or out."""
    problems: list[str] = []
    tasks: dict[Facts, list[Entry]] = {}
    seen: dict[Any, str] = {}
    known = {_task(run) for run in collected.runs if run.results}
    for run in collected.runs:
        for policy in run.results.policies if run.results else ():
            entry = Entry(run, policy, _whole_task(_task(run), known), _setting(run, policy.member))
            first = seen.setdefault((entry.task, run.title, entry.setting, policy.member.seed), run.name)
            if first != run.name:
                seed = f'seed {policy.member.seed}'
                problems.append(f'{run.name}: {seed} of {run.title} is in {first} already, with the same settings')
                continue
            tasks.setdefault(entry.task, []).append(entry)
    rows, titles = [], _titles(collected.runs)
    facts = sorted((dict(task) for task in tasks), key=_task_order)
    for name, fine_tuned in dict.fromkeys(map(_kind, facts)):
        own = [each for each in facts if _kind(each) == (name, fine_tuned)]
        labels = told_apart(own)
        if len(own) > 1:
            what = sorted({part.partition('=')[0] for label in labels for part in label.split(', ')})
            problems.append(f'runs on {name} differ in {", ".join(what)}: they are in {len(own)} rows, not compared')
        for each, label in zip(own, labels, strict=True):
            entries = tasks[tuple(sorted(each.items()))]
            row = Row(labelled(name, label), each, _metric(entries), grouped(entries, titles))
            rows.append(row)
            evaluated = [e for e in entries if e.policy.scores['return'] is not None]
            best = next((s for s in SCORES if any(e.policy.scores[s] is not None for e in evaluated)), row.metric)
            if best != row.metric:
                without = dict.fromkeys(e.run.name for e in evaluated if e.policy.scores[best] is None)
                instead = f'{row.label} is compared by {UNITS[row.metric]}, not {UNITS[best]}'
                problems.append(f'{instead}: there is none of {", ".join(without)}')
    return rows, problems
