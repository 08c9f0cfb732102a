"""`python -m spot_jax.plot DIR... [--metric=training/q]`: pictures of runs, also of those that are still training.

`learning_curves.png` has a metric against gradient steps, `rollouts.png` episodes of a trained policy in its maze.
"""

import argparse
import csv
import io
import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from ml_collections import ConfigDict

from spot_jax import environments, evaluation, policy
from spot_jax.checkpoint import write_atomically
from spot_jax.config import HYPERPARAMETERS, Member, members
from spot_jax.datasets.load import evaluation_spec, open_minari
from spot_jax.errors import InputError, exit_status
from spot_jax.pictures import COLORS, Rollouts, draw_rollouts, legend, plain, png
from spot_jax.tasks import TASKS, Task

DEFAULT_METRICS = ['evaluation/success_rate', 'evaluation/normalized_score', 'evaluation/return']
EVALUATION_SEED = 20_000  # of the first episode, as `python -m spot_jax.evaluate` has it
LINE_STYLES = ['-', '--', ':', '-.']  # the next one each time the colours are used up


class RunFolder(NamedTuple):
    """What a run has written so far."""

    workdir: Path
    name: str
    dataset_id: str
    task: Task
    members: list[Member]
    rows: list[dict[str, str]]  # of metrics.csv: column to cell


class Curve(NamedTuple):
    """A metric of the seeds of one setting."""

    label: str
    steps: np.ndarray  # [N] gradient steps
    mean: np.ndarray  # [N], over the seeds that have not stopped before
    low: np.ndarray  # [N]
    high: np.ndarray  # [N]
    num_seeds: int
    stopped: np.ndarray  # [D, 2]: last step and value of each seed that diverged


def read_run(workdir: Path, name: str) -> RunFolder:
    """A run's config and metrics so far; raises InputError if there are none or they make no sense."""
    path = workdir / 'config.json'
    if not path.exists():
        raise InputError(f'{workdir} is no run: it has no config.json')
    try:
        config = json.loads(path.read_text())
        facts = config['dataset_id'], TASKS[config['task']], members(ConfigDict(config)).members
        path = workdir / 'metrics.csv'
        text = path.read_text() if path.exists() else ''
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f'cannot read {path}: {" ".join(str(error).split())}') from error
    whole_lines = text[: text.rfind('\n') + 1]  # a run that is training may be writing the last one just now
    rows = list(csv.DictReader(io.StringIO(whole_lines)))
    if not rows:
        raise InputError(f'{workdir} has no metrics yet: let it go on training')
    return RunFolder(workdir, name, *facts, rows)


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
    varied = [name for name in HYPERPARAMETERS if len({s[name] for s in settings}) > 1]
    return [', '.join(f'{name}={s[name]:.12g}' for name in varied) for s in settings]


def learning_curves(rows: Sequence[Mapping[str, str]], metric: str, name: str = '') -> list[Curve]:
    """One curve per setting of a run's hyperparameters, from the rows of its metrics.csv; `name` begins the labels.

    A seed whose last value comes before the run's last has diverged. Steps that a seed going on has no value at are
    passed over, else the curve would jump to the others'.
    Raises KeyError, TypeError or ValueError if a cell makes no sense or none has a value.
    """
    labels = setting_labels([{n: float(row[n]) for n in HYPERPARAMETERS} for row in rows])
    groups: dict[str, dict[str, dict[int, float]]] = {}  # label, seed, step
    for label, row in zip(labels, rows, strict=True):
        if row[metric]:
            values = groups.setdefault(label, {}).setdefault(row['seed'], {})
            values.setdefault(int(row['gradient_steps']), float(row[metric]))
    end = max(max(values) for seeds in groups.values() for values in seeds.values())
    curves = []
    for label, seeds in groups.items():
        columns = {}
        for step in sorted(set().union(*seeds.values())):
            going_on = [values for values in seeds.values() if max(values) >= step]
            if all(step in values for values in going_on):
                columns[step] = [values[step] for values in going_on]
        mean, low, high = (np.array([f(column) for column in columns.values()]) for f in (np.mean, np.min, np.max))
        last = [(max(values), values[max(values)]) for values in seeds.values()]
        stopped = np.array([point for point in last if point[0] < end]).reshape(-1, 2)
        full_label = ', '.join(filter(None, [name, label]))
        curves.append(Curve(full_label, np.array(list(columns)), mean, low, high, len(seeds), stopped))
    return curves


class _Tracked(gym.Wrapper):
    """Keeps the positions and the goal of each episode: the observations of mazes start with x and y."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.paths: list[list[np.ndarray]] = []
        self.goals: list[np.ndarray] = []

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self.paths.append([observation[:2].copy()])
        self.goals.append(self.unwrapped.goal.copy())
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self.paths[-1].append(result[0][:2].copy())
        return result


def roll_out(run: RunFolder, member: int, num_episodes: int) -> Rollouts:
    """Plays episodes of a maze's policy; raises InputError if the policy or the environment is not there."""
    act = policy.load(run.workdir, member)
    spec = evaluation_spec(open_minari(run.dataset_id))
    if spec is None:
        raise InputError(f'{run.dataset_id} names no environment')
    envs: list[_Tracked] = []

    def make_env() -> gym.Env:
        envs.append(_Tracked(environments.make(spec, run.task)))
        return envs[-1]

    evaluator = evaluation.Evaluator(make_env, 1, num_episodes, EVALUATION_SEED, is_maze=True)
    episodes = evaluator(act)
    assert episodes is not None
    assert episodes.successes is not None
    evaluator.close()
    played = [(envs[e % len(envs)], e // len(envs)) for e in range(num_episodes)]  # the order of evaluation.Evaluator
    reached = episodes.successes[0] > 0
    setting = setting_labels([m.hyperparameters for m in run.members])[member]
    label = ', '.join(filter(None, [run.name, setting, f'seed {run.members[member].seed}']))
    return Rollouts(
        f'{textwrap.fill(label, 42)}\n{reached.sum()} of {num_episodes} episodes reach the goal',
        envs[0].unwrapped.maze,
        [np.array(env.paths[i]) for env, i in played],
        reached,
        np.array([env.goals[i] for env, i in played]),
    )


def draw_curves(curves: Sequence[Curve], metric: str, title: str) -> Figure:
    """The picture of learning curves."""
    figure = Figure(layout='constrained')
    axes = figure.add_subplot()
    plain(axes)
    counts = sorted({curve.num_seeds for curve in curves})
    number = ' to '.join(str(n) for n in {counts[0]: 0, counts[-1]: 0})
    caption = 'one seed' if counts == [1] else f'mean and range of {number} seeds'
    handles: list[Any] = []
    for i, curve in enumerate(curves):
        style: dict[str, Any] = {
            'color': COLORS[i % len(COLORS)],
            'linestyle': LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)],
            'marker': 'o' if len(curve.steps) <= 25 else '',
            'markersize': 3,
        }
        axes.fill_between(curve.steps, curve.low, curve.high, color=style['color'], alpha=0.18, linewidth=0)
        handles += axes.plot(curve.steps, curve.mean, label=curve.label or caption, **style)
        axes.plot(*curve.stopped.T, 'x', color=style['color'], markersize=7, markeredgewidth=2)
    if any(len(curve.stopped) for curve in curves):
        options: dict[str, Any] = {'color': '#555555', 'markersize': 7, 'markeredgewidth': 2, 'linestyle': 'none'}
        handles.append(Line2D([], [], marker='x', label='a seed diverged', **options))
    columns = max(1, 100 // (max(len(handle.get_label()) for handle in handles) + 6))
    figure.set_size_inches(7, 3.7 + 0.2 * math.ceil(len(handles) / columns))
    legend(figure, handles, columns, caption if curves[0].label else '')
    axes.set_title(textwrap.fill(title, 80), fontsize=11)
    axes.set_xlabel('gradient steps')
    axes.set_ylabel(metric.removeprefix('evaluation/').replace('_', ' '))
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    if metric == 'evaluation/success_rate':
        axes.set_ylim(-0.03, 1.03)
    return figure


def plot(
    workdirs: Sequence[Path], output: Path | None, metric: str | None, overwrite: bool, member: int, num_episodes: int
) -> None:
    """Draws the pictures of runs and prints their paths; raises InputError, with nothing written, if that fails."""
    workdirs = list({workdir.resolve(): workdir for workdir in workdirs}.values())
    output = output or workdirs[0] / 'plots'
    for path in (output / 'learning_curves.png', output / 'rollouts.png'):
        if path.exists() and not overwrite:
            raise InputError(f'{path} exists: give --overwrite, or another --output')
    if num_episodes < 1:
        raise InputError(f'--episodes={num_episodes}: must be at least 1')
    names = [workdir.resolve().name for workdir in workdirs]
    if len(set(names)) < len(names):
        names = [str(workdir) for workdir in workdirs]
    runs = [read_run(*pair) for pair in zip(workdirs, names, strict=True)]
    for run in runs:
        if not 0 <= member < len(run.members):
            raise InputError(f'--member={member}: {run.workdir} has members 0 to {len(run.members) - 1}')
    metric = choose_metric([run.rows for run in runs], metric)
    curves: list[Curve] = []
    for run in runs:
        try:
            curves += learning_curves(run.rows, metric, run.name if len(runs) > 1 else '')
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'{run.workdir / "metrics.csv"} is damaged: {error}') from error
    panels = []
    for run in runs:
        if run.task.is_maze:
            try:
                panels.append(roll_out(run, member, num_episodes))
            except InputError as error:
                print(f'{run.name} is not in rollouts.png: {error}', file=sys.stderr)
    title = ', '.join(dict.fromkeys(run.dataset_id for run in runs))
    pictures = {'learning_curves.png': png(draw_curves(curves, metric, title))}
    if panels:
        pictures['rollouts.png'] = png(draw_rollouts(panels))
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, data in pictures.items():
            write_atomically(output / name, data)
            print(output / name)
    except OSError as error:
        raise InputError(f'cannot write in {output}: {error.strerror}') from error


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m spot_jax.plot', description=__doc__)
    parser.add_argument('workdirs', metavar='DIR', nargs='+', type=Path, help='folders of runs')
    parser.add_argument('--output', type=Path, help="folder of the pictures; default: the first DIR's plots")
    parser.add_argument('--metric', help='column of metrics.csv; default: success rate, normalized score or return')
    parser.add_argument('--overwrite', action='store_true', help='replace pictures that are there')
    parser.add_argument('--member', type=int, default=0, help='whose episodes are drawn; default: %(default)s')
    parser.add_argument('--episodes', type=int, default=20, help='how many of them; default: %(default)s')
    args = parser.parse_args(argv)
    return exit_status(
        lambda: plot(args.workdirs, args.output, args.metric, args.overwrite, args.member, args.episodes)
    )


if __name__ == '__main__':
    sys.exit(main())
