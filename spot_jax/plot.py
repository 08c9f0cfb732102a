"""`python -m spot_jax.plot DIR... [--metric=training/q]`: pictures of runs, also of those that are still training.

`learning_curves.png` has a metric against gradient steps, `rollouts.png` episodes of a trained policy in its maze, over
where its data have been;
with `--density`, `densities.png` has log-densities of actions under the data's policy.
"""

import argparse
import functools
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from spot_jax.acting import environments, evaluation
from spot_jax.acting.tasks import Task, recorded_reference, task_of
from spot_jax.data.load import Selection
from spot_jax.data.positions import visited
from spot_jax.pictures.curves import Curve, choose_metric, draw_curves, learning_curves, setting_labels
from spot_jax.pictures.densities import draw_densities
from spot_jax.pictures.mazes import Rollouts, draw_rollouts, share_outside
from spot_jax.pictures.style import png
from spot_jax.population.members import Member
from spot_jax.run import policy
from spot_jax.run.build import selection_of
from spot_jax.run.config import members
from spot_jax.run.playing import environment_of
from spot_jax.run.support import densities
from spot_jax.run.workdir import read_config
from spot_jax.run.workdir import read_run as read_trained
from spot_jax.storage.folder import read_json, read_rows
from spot_jax.storage.outputs import require_free, write_all
from spot_jax.system.arguments import MAX_EPISODES, Parser, place, whole
from spot_jax.system.errors import InputError

EVALUATION_SEED = 20_000  # of the first episode, as `python -m spot_jax.evaluate` has it


class RunFolder(NamedTuple):
    """What a run has written so far."""

    workdir: Path
    name: str
    dataset_id: str
    task: Task
    reference: str  # what its normalised scores are measured by; '' if that is not known yet
    selection: Selection  # of the dataset's episodes, those that it learned from
    transitions: int | None  # of them, if that is known: it has ended
    members: list[Member]
    rows: list[dict[str, str]]  # of metrics.csv: column to cell


def _recorded(workdir: Path) -> tuple[str, int | None]:
    """Of a run that has ended, the reference returns in words, '' if there are none, and its number of transitions."""
    try:
        results = read_json(workdir / 'results.json')
        return str(recorded_reference(results) or ''), results.get('dataset_transitions')  # older runs do not say
    except (InputError, ValueError):  # it is not there, or damaged
        return '', None


def read_run(workdir: Path, name: str) -> RunFolder:
    """A run's config and metrics so far; raises InputError if there are none or they make no sense."""
    config, rows = read_config(workdir), read_rows(workdir)
    if not rows:
        raise InputError(f'{workdir} has no metrics yet: let it go on training')
    reference, transitions = _recorded(workdir)
    facts = config.dataset_id, task_of(config), reference, selection_of(config), transitions, members(config).members
    return RunFolder(workdir, name, *facts, rows)


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


def _label(run: RunFolder, member: int) -> str:
    setting = setting_labels([m.hyperparameters for m in run.members])[member]
    return textwrap.fill(', '.join(filter(None, [run.name, setting, f'seed {run.members[member].seed}'])), 42)


def _visited(dataset_id: str, transitions: int | None, selection: Selection) -> np.ndarray | None:
    """As `visited`, but says why there are none and goes on."""
    try:
        return visited(dataset_id, transitions, selection)
    except InputError as error:
        print(f'rollouts.png does not show where the data have been: {error}', file=sys.stderr)
        return None


def roll_out(
    run: RunFolder,
    member: int,
    num_episodes: int,
    trusted: bool = False,
    positions: Callable[[str, int | None, Selection], np.ndarray | None] = _visited,
) -> Rollouts:
    """Plays episodes of a maze's policy; raises InputError if the policy or the environment is not there.

    `positions` says where a dataset has been.
    """
    config, state = read_trained(run.workdir)
    act, options = policy.players(config, state, [member]), config['evaluation']
    spec, _ = environment_of(run.workdir, run.dataset_id, run.task)
    envs: list[_Tracked] = []
    make_maze = environments.maker(spec, run.task, trusted, options['max_episode_steps'])

    def make_env() -> gym.Env:
        envs.append(_Tracked(make_maze()))
        return envs[-1]

    evaluator = evaluation.Evaluator(
        make_env, 1, num_episodes, EVALUATION_SEED, is_maze=True, timeout=options['timeout']
    )
    episodes = evaluator(act)
    assert episodes is not None
    assert episodes.successes is not None
    evaluator.close()
    [played] = evaluation.played_by(envs, 1, num_episodes)
    reached = episodes.successes[0] > 0
    found = Rollouts(
        f'{_label(run, member)}\n{reached.sum()} of {num_episodes} episodes reach the goal',
        envs[0].unwrapped.maze,
        [np.array(env.paths[i]) for env, i in played],
        reached,
        np.array([env.goals[i] for env, i in played]),
        visited=positions(run.dataset_id, run.transitions, run.selection),
    )
    if found.visited is None:
        return found
    return found._replace(title=f'{found.title}\n{share_outside(found):.0%} of steps outside the data')


def read_runs(workdirs: Sequence[Path], member: int) -> list[RunFolder]:
    """Runs, each of them once; raises InputError as `read_run` does, and if one has no such member."""
    workdirs = list({os.path.realpath(workdir): workdir for workdir in workdirs}.values())
    names = [Path(os.path.realpath(workdir)).name for workdir in workdirs]  # `resolve` raises at links in a circle
    if len(set(names)) < len(names):
        names = [str(workdir) for workdir in workdirs]
    runs = [read_run(*pair) for pair in zip(workdirs, names, strict=True)]
    for run in runs:
        if not 0 <= member < len(run.members):
            raise InputError(f'--member={member}: {run.workdir} has members 0 to {len(run.members) - 1}')
    return runs


def plot_densities(workdirs: Sequence[Path], output: Path | None, overwrite: bool, member: int) -> None:
    """Draws how likely the data's policy is to take runs' actions; raises InputError, with nothing written."""
    output = output or workdirs[0] / 'plots'
    runs = read_runs(workdirs, member)
    require_free([output / 'densities.png'], overwrite, '--output')
    found = [densities(run.workdir, _label(run, member), member) for run in runs]
    print(*write_all(output, {'densities.png': png(draw_densities(found))}))


def plot(
    workdirs: Sequence[Path],
    output: Path | None,
    metric: str | None,
    overwrite: bool,
    member: int,
    num_episodes: int,
    trusted: bool = False,
) -> None:
    """Draws the pictures of runs and prints their paths; raises InputError, with nothing written, if that fails."""
    output = output or workdirs[0] / 'plots'
    runs = read_runs(workdirs, member)
    metric = choose_metric([run.rows for run in runs], metric)
    require_free([output / 'learning_curves.png', output / 'rollouts.png'], overwrite, '--output')
    curves: list[Curve] = []
    for run in runs:
        try:
            curves += learning_curves(run.rows, metric, run.name if len(runs) > 1 else '')
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'{run.workdir / "metrics.csv"} is damaged: {error}') from error
    panels, positions = [], functools.cache(_visited)  # runs beside each other often share their data
    for run in runs:
        if run.task.is_maze:
            try:
                panels.append(roll_out(run, member, num_episodes, trusted, positions))
            except InputError as error:
                print(f'{run.name} is not in rollouts.png: {error}', file=sys.stderr)
    title = ', '.join(dict.fromkeys(run.dataset_id for run in runs))
    if metric == 'evaluation/normalized_score':
        title = '\n'.join([title, *dict.fromkeys(filter(None, (run.reference for run in runs)))])
    pictures = {'learning_curves.png': png(draw_curves(curves, metric, title))}
    if panels:
        pictures['rollouts.png'] = png(draw_rollouts(panels))
    for path in write_all(output, pictures):
        print(path)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog='python -m spot_jax.plot', description=__doc__)
    parser.add_argument('workdirs', metavar='DIR', nargs='+', type=place, help='folders of runs')
    parser.add_argument('--output', type=place, help="folder of the pictures; default: the first DIR's plots")
    parser.add_argument('--metric', help='column of metrics.csv; default: success rate, normalized score or return')
    parser.add_argument('--overwrite', action='store_true', help='replace pictures that are there')
    parser.add_argument('--member', type=whole(0), default=0, help='whose episodes are drawn; default: %(default)s')
    parser.add_argument(
        '--episodes', type=whole(1, MAX_EPISODES), default=20, help='how many of them; default: %(default)s'
    )
    parser.add_argument('--trust-environment', action='store_true', help='make what the dataset names, whatever it is')
    parser.add_argument(
        '--density', action='store_true', help="draw instead how likely the data's policy is to take its actions"
    )

    def command(a: argparse.Namespace) -> None:
        if a.density and a.metric:
            parser.error('--density draws no metric: leave out one of them')
        if a.density:
            plot_densities(a.workdirs, a.output, a.overwrite, a.member)
        else:
            plot(a.workdirs, a.output, a.metric, a.overwrite, a.member, a.episodes, a.trust_environment)

    return parser.run(argv, command)


if __name__ == '__main__':
    sys.exit(main())
