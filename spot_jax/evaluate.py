"""`python -m spot_jax.evaluate DIR --episodes=100 [--member=K]`: evaluates a finished run's policies again.

With `--video=FILE.mp4`, or `.gif`, it films them, side by side.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from spot_jax.acting import environments, evaluation, rendering
from spot_jax.acting.tasks import task_of
from spot_jax.pictures import films
from spot_jax.pictures.curves import setting_labels
from spot_jax.run import policy
from spot_jax.run.config import members
from spot_jax.run.playing import environment_of
from spot_jax.run.workdir import read_run
from spot_jax.storage.checkpoint import write_atomically
from spot_jax.storage.outputs import require_free
from spot_jax.system.arguments import MAX_EPISODES, MAX_SEED, Parser, place, several, whole
from spot_jax.system.errors import InputError


def _check_video(video: Path, overwrite: bool) -> None:
    """Raises InputError if a film could not be written, before any is made."""
    films.check_encoder(video)
    require_free([video], overwrite, '--video')


def _film(
    config: ConfigDict, chosen: Sequence[int], episodes: evaluation.Episodes, camera: rendering.Camera
) -> list[films.Panel]:
    """What the camera saw of the chosen members, with their names and what their episodes came to."""
    everyone = members(config).members
    settings = setting_labels([m.hyperparameters for m in everyone])
    panels = []
    for i, (k, clips) in enumerate(zip(chosen, camera.clips(len(chosen), episodes.returns.shape[1]), strict=True)):
        label = ', '.join(filter(None, [f'member {k}', f'seed {everyone[k].seed}', settings[k]]))
        outcomes = []
        for e, length in enumerate(episodes.lengths[i].astype(int)):
            if episodes.successes is None:
                outcomes.append(f'return {episodes.returns[i, e]:.1f} in {length} steps')
            elif episodes.successes[i, e]:
                outcomes.append(f'reaches the goal in {length} steps')
            else:
                outcomes.append(f'does not reach the goal in {length} steps')
        panels.append(films.Panel(label, clips, outcomes))
    return panels


def evaluate(
    workdir: Path,
    num_episodes: int,
    chosen: Sequence[int] | None,
    seed: int,
    trusted: bool = False,
    video: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Prints a line per chosen member (None: all), and films them if `video` names a file.

    `trusted`: the environment is made as the dataset records it. That is not taken from the run, which may be anyone's.
    Raises InputError if the run, a member or the environment is not there, or if a film cannot be made.
    """
    if video is not None:
        _check_video(video, overwrite)
    config, state = read_run(workdir)
    task = task_of(config)
    spec, reference = environment_of(workdir, config['dataset_id'], task)
    chosen = [*dict.fromkeys(range(state['alive'].size) if chosen is None else chosen)]
    act = policy.players(config, state, chosen)
    if video is not None:
        if len(chosen) > films.MAX_PANELS:
            raise InputError(f'a film shows at most {films.MAX_PANELS} members: choose some by --member=0,1')
        rendering.choose_backend()
    options = config['evaluation']
    make_env = environments.maker(spec, task, trusted, options['max_episode_steps'], render=video is not None)
    camera = rendering.Camera(make_env)
    if video is not None:
        make_env = camera.make_env
    evaluator = evaluation.Evaluator(
        make_env, len(chosen), num_episodes, seed, task.is_maze, timeout=options['timeout']
    )
    episodes = evaluator(act)
    evaluator.close()
    for i, k in enumerate(chosen):
        result = evaluation.summary(episodes, i, reference)
        scores = {name: result[name] for name in ('success_rate', 'normalized_score') if result[name] is not None}
        rest = ''.join(f', {name} {value:.2f}' for name, value in scores.items())
        rest += f' ({reference})' if reference and 'normalized_score' in scores else ''
        print(f'member {k}: return {np.mean(result["returns"]):.2f}, length {np.mean(result["lengths"]):.1f}{rest}')
    if video is not None:
        assert episodes is not None  # nothing asked to stop
        film = films.encode(_film(ConfigDict(config), chosen, episodes, camera), video.suffix)
        video.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(video, film)
        print(video)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog='python -m spot_jax.evaluate', description=__doc__)
    parser.add_argument('workdir', type=place)
    parser.add_argument('--episodes', type=whole(1, MAX_EPISODES), help='default: 100, with --video 1')
    parser.add_argument('--member', type=several(whole(0)), help='one or several, as 0,1; default: all')
    parser.add_argument(
        '--seed', type=whole(0, MAX_SEED), default=20_000, help='of the first episode; the others count on'
    )
    parser.add_argument('--trust-environment', action='store_true', help='make what the dataset names, whatever it is')
    parser.add_argument('--video', type=place, help='film the episodes: a .mp4 or a .gif')
    parser.add_argument('--overwrite', action='store_true', help='replace a film that is there')

    def command(a: argparse.Namespace) -> None:
        num_episodes = a.episodes or (100 if a.video is None else 1)
        evaluate(a.workdir, num_episodes, a.member, a.seed, a.trust_environment, a.video, a.overwrite)

    return parser.run(argv, command)


if __name__ == '__main__':
    sys.exit(main())
