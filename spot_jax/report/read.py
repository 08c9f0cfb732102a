"""Reading what a run has written, checked; whatever is wrong with it is told of in one line."""

import math
import os
from collections.abc import Collection
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from spot_jax.acting.tasks import recorded_reference
from spot_jax.core.fields import LARGE
from spot_jax.methods import METHODS, options
from spot_jax.population.members import Member
from spot_jax.run.config import members, require
from spot_jax.run.workdir import read_config
from spot_jax.storage.folder import read_json, read_rows
from spot_jax.system.errors import InputError, printable

SCORES = ('normalized_score', 'success_rate', 'return')


class Policy(NamedTuple):
    """What one member of a run came to."""

    member: Member
    diverged: bool
    gradient_steps: int
    scores: dict[str, float | None]  # those of SCORES, None where there is none
    before: dict[str, float | None] | None  # the same before fine-tuning; None without it
    regret: float | None


class Results(NamedTuple):
    """A finished run's results.json, checked."""

    policies: list[Policy]
    sha256: str  # of its data
    held: bool  # whether Python handed them over, so that they may be a part of the dataset
    environment: str | None
    spec: dict[str, Any] | None  # all that is told of the environment; None: an older run
    reference: str | None  # what its normalised scores are measured by
    seconds: dict[str, float]  # of each phase
    versions: dict[str, str]


class Run(NamedTuple):
    """A run's folder."""

    name: str
    workdir: Path
    config: ConfigDict
    rows: list[dict[str, str]]  # of metrics.csv; none if that is damaged or missing
    results: Results | None  # None: it has not ended
    state: str  # in words

    @property
    def title(self) -> str:
        """What its method is called."""
        return METHODS[self.config.method].title(options(self.config))


def untaken(name: str, taken: Collection[str]) -> str:
    """The name, with a number if it is one of those that are taken."""
    others = (f'{name} ({number})' for number in count(2))
    return name if name not in taken else next(other for other in others if other not in taken)


def _number(value: Any, what: str, low: float = -LARGE, high: float = LARGE) -> float:
    fits = type(value) in (int, float) and low <= value <= high  # of NaN, too, this is false
    require(fits, f'{what} is {value!r:.40}, which is no such number')
    return float(value)


def _scores(found: Any, episodes: int, what: str) -> dict[str, float | None]:
    """The scores of an evaluation in results.json."""
    require(isinstance(found, dict), f'{what} is no evaluation')
    returns = found.get('returns')
    if returns is None:
        return dict.fromkeys(SCORES)
    require(isinstance(returns, list) and bool(returns), f'{what} has no list of returns')
    require(len(returns) == episodes, f"{what} has {len(returns)} episodes, the config's are {episodes}")
    scores: dict[str, float | None] = {'return': float(np.mean([_number(r, f'a return of {what}') for r in returns]))}
    for name, bounds in (('success_rate', (0, 1)), ('normalized_score', ())):
        value = found.get(name)
        scores[name] = None if value is None else _number(value, f'{name} of {what}', *bounds)
    return scores


def _policy(found: Any, member: Member, episodes: int) -> Policy:
    what = f'member {member.number}'
    require(isinstance(found, dict), f'{what} is no member')
    require(found.get('seed') == member.seed, f"{what} has seed {found.get('seed')}, the config's is {member.seed}")
    theirs, ours = found.get('hyperparameters'), member.hyperparameters
    same = isinstance(theirs, dict) and all(theirs.get(name, value) == value for name, value in ours.items())
    require(same, f"{what} has other hyperparameters than the config's")
    status = found.get('status')
    require(status in ('completed', 'diverged'), f'{what} has status {status!r:.40}')
    fine_tuned, regret = 'regret' in found, found.get('regret')
    return Policy(
        member,
        status == 'diverged',
        int(_number(found.get('gradient_steps'), f'gradient_steps of {what}', 0)),
        _scores(found.get('evaluation'), episodes, f'the evaluation of {what}'),
        _scores(found.get('offline'), episodes, f'the offline evaluation of {what}') if fine_tuned else None,
        None if regret is None else _number(regret, f'regret of {what}', 0, 1),
    )


def _named(found: Any, kind: type, what: str) -> dict[str, Any]:
    fits = isinstance(found, dict) and all(isinstance(value, kind) for value in found.values() if value is not None)
    require(fits, f'its {what} make no sense')
    texts = {name: printable(value) if isinstance(value, str) else value for name, value in found.items()}
    return {printable(name): value for name, value in texts.items() if value is not None}


def read_results(workdir: Path, config: ConfigDict) -> Results:
    """A run's results.json; raises InputError if there is none that fits the config."""
    path = workdir / 'results.json'
    found, everyone = read_json(path), members(config).members
    try:
        theirs = found.get('dataset_id')
        require(theirs == config.dataset_id, f"its dataset is {theirs!r:.80}, the config's {config.dataset_id}")
        listed = found.get('members')
        require(isinstance(listed, list), 'it has no list of members')
        count = len(listed or ())
        require(count == len(everyone), f'it has {count} members, the config {len(everyone)}')
        episodes = config.evaluation.episodes
        policies = [_policy(m, member, episodes) for m, member in zip(listed or (), everyone, strict=True)]
        there = [{s for s in SCORES if p.scores[s] is not None} for p in policies]
        evaluated = [scores for scores in there if scores]
        require(all(scores == evaluated[0] for scores in evaluated), 'some of its members lack scores that others have')
        sha256, environment = found.get('dataset_sha256'), found.get('environment_id')
        require(isinstance(sha256, str), 'it has no dataset_sha256')
        require(environment is None or isinstance(environment, str), 'its environment_id makes no sense')
        spec = found.get('environment')
        require(spec is None or isinstance(spec, dict), 'its environment makes no sense')
        seconds = _named(found.get('wall_clock_s'), int | float, 'wall_clock_s')  # type: ignore[arg-type]
        seconds = {name: _number(value, f'wall_clock_s of {name}', 0) for name, value in seconds.items()}
        versions = _named(found.get('versions', {}), str, 'versions')
        reference = recorded_reference(found)
    except (InputError, ValueError) as error:
        raise InputError(f'{path} makes no sense: {error}') from error
    measured_by = None if reference is None else printable(str(reference))
    return Results(
        policies,
        printable(str(sha256)),
        found.get('dataset_held') is True,
        environment and printable(environment),
        spec,
        measured_by,
        seconds,
        versions,
    )


def _last_step(rows: list[dict[str, str]]) -> int:
    """The gradient steps of the last row of metrics.csv."""
    return int(rows[-1]['gradient_steps']) if rows else 0


def _progress(config: ConfigDict, rows: list[dict[str, str]]) -> str:
    if not rows:
        return 'unfinished: no metrics yet'
    phase = printable(rows[-1].get('phase', ''))
    of = f' of {config.offline.steps}' if phase == 'offline' else ''
    return f'unfinished: {phase} {_last_step(rows)}{of}'


def _require_agreement(workdir: Path, rows: list[dict[str, str]], results: Results) -> None:
    """Raises InputError if metrics.csv has other scores of the same policies than results.json."""
    last = {(row['member'], int(row['gradient_steps'])): row for row in rows if row.get('evaluation/return')}
    for policy in results.policies:
        row = last.get((str(policy.member.number), policy.gradient_steps), {})
        for score, ours in policy.scores.items():
            theirs = row.get(f'evaluation/{score}')
            if ours is None or not theirs or policy.diverged:
                continue
            try:
                agree = math.isclose(ours, float(theirs), rel_tol=1e-5, abs_tol=1e-5)
            except ValueError:
                continue  # the learning curves tell of it
            if not agree:
                raise InputError(
                    f'{workdir / "results.json"} and metrics.csv do not belong together: '
                    f'the {score} of member {policy.member.number} is {ours:.6g} and {theirs:.20}'
                )


def read(workdir: Path, name: str) -> tuple[Run, list[str]]:
    """A run, and lines on what it lacks without spoiling its scores; raises InputError if it cannot be used."""
    config = read_config(workdir)
    problems: list[str] = []
    rows: list[dict[str, str]] = []

    def unfinished() -> tuple[Run, list[str]]:
        state = _progress(config, rows)
        return Run(name, workdir, config, rows, None, state), [*problems, f'{name} is in no table of scores: {state}']

    try:
        rows = read_rows(workdir)
        steps = [row.get('gradient_steps', '') if 'member' in row else '' for row in rows]
        if not all(each.isdecimal() and len(each) < 19 for each in steps):
            raise InputError(f'{workdir / "metrics.csv"} is damaged: it lacks gradient_steps or members')
    except InputError as error:
        rows = []
        problems.append(f'no learning curves of {name}: {error}')
    if not os.path.lexists(workdir / 'results.json'):
        return unfinished()
    results = read_results(workdir, config)
    done = {p.gradient_steps for p in results.policies if not p.diverged}
    if len(done) > 1:
        raise InputError(f'{workdir / "results.json"} makes no sense: its members made {sorted(done)} updates')
    ended = max(done, default=0)
    if done and (_last_step(rows) > ended or (not config.online.steps and ended < config.offline.steps)):
        return unfinished()  # an older version made the run longer, and left the results of before
    if done and not config.online.steps and ended > config.offline.steps:
        raise InputError(f"{workdir / 'results.json'} is of {ended} updates, the config's are {config.offline.steps}")
    _require_agreement(workdir, rows, results)
    ends = {row['member']: int(row['gradient_steps']) for row in rows}
    if rows and any(ends.get(str(p.member.number), 0) < p.gradient_steps for p in results.policies if not p.diverged):
        problems.append(f'no learning curves of {name}: {workdir / "metrics.csv"} ends before the run did')
        rows = []
    if not rows and not problems:
        problems.append(f'no learning curves of {name}: {workdir / "metrics.csv"} is missing')
    diverged = sum(p.diverged for p in results.policies)
    state = 'finished' + f', {diverged} of {len(results.policies)} diverged' * bool(diverged)
    return Run(name, workdir, config, rows, results, state), problems
