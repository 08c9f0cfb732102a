"""The rows of a report: a task each, and in it the seeds of every method and setting."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spot_jax.methods import IN_TABLES
from spot_jax.report.read import Policy, Run, untaken
from spot_jax.run.config import members

UNITS = {'normalized_score': 'normalised score', 'success_rate': 'success, %', 'return': 'return'}

Facts = tuple[tuple[str, Any], ...]  # names to values, sorted


class Entry(NamedTuple):
    """A policy and what it is of."""

    run: Run
    policy: Policy
    task: Facts
    setting: Facts  # all that its learning depends on


class Group(NamedTuple):
    """The seeds of one method and setting on one task."""

    label: str
    title: str  # the method's
    setting: dict[str, Any]
    entries: list[Entry]  # by their seeds
    of_a_grid: bool = False  # other runs of the method have a setting of their own: this one is only in a grid

    def scores(self, metric: str) -> np.ndarray:
        """Those of the seeds that did not diverge and were evaluated; success in percent."""
        found = [e.policy.scores[metric] for e in self.entries if not e.policy.diverged]
        return np.array([x for x in found if x is not None]) * (100 if metric == 'success_rate' else 1)

    @property
    def num_missing(self) -> int:
        """How many seeds its runs were to have, and have not: those of parts that are not there."""
        seeds = {seed for entry in self.entries for seed in entry.run.config.seeds}
        return len(seeds - {entry.policy.member.seed for entry in self.entries})

    @property
    def num_diverged(self) -> int:
        """How many seeds did."""
        return sum(e.policy.diverged for e in self.entries)


class Row(NamedTuple):
    """All that is known of one task."""

    label: str
    facts: dict[str, Any]
    metric: str  # of SCORES
    groups: dict[str, Group]  # by their labels

    @property
    def compared(self) -> dict[str, Group]:
        """Those that stand for their methods beside others."""
        return {label: group for label, group in self.groups.items() if not group.of_a_grid}

    @property
    def fine_tuned(self) -> bool:
        """Whether its policies went on online."""
        return self.facts['online.steps'] > 0


def unit(row: Row) -> str:
    """What a row's scores are, in words."""
    return UNITS[row.metric]


def ylim(row: Row) -> tuple[float, float] | None:
    """What an axis of its scores spans; None: what the scores do."""
    return (0, 100) if row.metric == 'success_rate' else None


def pooled(rows: Sequence[Row]) -> list[Row]:
    """Those whose scores may be pooled: no raw returns, and no dataset that is in several rows: it would weigh more."""
    times = Counter(row.facts['dataset_id'] for row in rows)
    return [row for row in rows if row.metric != 'return' and times[row.facts['dataset_id']] == 1]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.15g}'
    return ','.join(map(_text, value)) if isinstance(value, tuple) else str(value)


def told_apart(facts: list[dict[str, Any]]) -> list[str]:
    """For each of several sets of facts, those that differ among them, in words."""
    names = sorted({name for each in facts for name in each})
    differ = [name for name in names if len({each.get(name) for each in facts}) > 1]
    return [', '.join(f'{name}={_text(each[name])}' for name in differ if name in each) for each in facts]


def labelled(beginning: str, rest: str) -> str:
    """The two with a comma, if both are there."""
    return ', '.join(filter(None, [beginning, rest]))


def group_order(group: Group) -> tuple[int, str, list[tuple[str, float | str]]]:
    """The poster's order of methods; the settings of one by their values."""
    name = group.title.partition(' (')[0]
    place = IN_TABLES.index(name) if name in IN_TABLES else -1
    values = [(name, value if isinstance(value, int | float) else 0.0) for name, value in sorted(group.setting.items())]
    return place, group.title, values  # type: ignore[return-value]


def _has_one_setting(run: Run) -> bool:
    return len({repr(member.hyperparameters) for member in members(run.config).members}) == 1


def grouped(entries: list[Entry], titles: Mapping[str, str]) -> dict[str, Group]:
    """The groups of a task by their labels, in the poster's order; `titles` by the names of runs."""
    settings: dict[tuple[str, Facts], list[Entry]] = {}
    for entry in entries:
        settings.setdefault((titles[entry.run.name], entry.setting), []).append(entry)
    found = []
    for title in {title for title, _ in settings}:
        own = {
            setting: each
            for (other, setting), each in sorted(settings.items(), key=lambda item: repr(item[0]))
            if other == title
        }
        alone = [setting for setting, each in own.items() if any(_has_one_setting(entry.run) for entry in each)]
        among = alone if len(alone) > 1 else list(own)
        labels = dict(zip(own, told_apart([dict(each) for each in own]), strict=True))
        labels |= dict(zip(among, told_apart([dict(each) for each in among]), strict=True))
        labels |= dict.fromkeys(alone, '') if len(alone) == 1 else {}
        for setting, each in own.items():
            seeds = sorted(each, key=lambda e: e.policy.member.seed)
            of_a_grid = bool(alone) and setting not in alone
            found.append(Group(labelled(title, labels[setting]), title, dict(setting), seeds, of_a_grid))
    groups: dict[str, Group] = {}
    for group in sorted(found, key=group_order):
        label = untaken(group.label, groups)
        groups[label] = group._replace(label=label)
    return groups
