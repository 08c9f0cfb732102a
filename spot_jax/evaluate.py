"""`python -m spot_jax.evaluate DIR --episodes=100 [--member=K]`: evaluates a finished run's policies again."""

import sys
from pathlib import Path

import numpy as np

from spot_jax.acting import env_pool, environments, evaluation, specs
from spot_jax.acting.tasks import task_of
from spot_jax.data.load import evaluation_spec, open_minari, reference_of
from spot_jax.recipes import provide
from spot_jax.run import policy
from spot_jax.run.workdir import read_run
from spot_jax.system.arguments import MAX_EPISODES, MAX_SEED, Parser, whole
from spot_jax.system.errors import InputError


def evaluate(workdir: Path, num_episodes: int, member: int | None, seed: int, trusted: bool = False) -> None:
    """Prints a line per member; raises InputError if the run, the member or the environment is not there.

    `trusted`: the environment is made as the dataset records it. That is not taken from the run, which may be anyone's.
    """
    config, state = read_run(workdir)
    provide(config['dataset_id'])
    task, data = task_of(config), open_minari(config['dataset_id'])
    spec, reference = evaluation_spec(data), reference_of(data, task)
    if spec is None:
        raise InputError(f'{config["dataset_id"]} names no environment to evaluate in')
    chosen = range(state['alive'].size) if member is None else [member]
    act = policy.players(config, state, chosen)
    options = config['evaluation']  # an older run's lack some
    make_env = environments.maker(spec, task, trusted, options.get('max_episode_steps', specs.MAX_EPISODE_STEPS))
    timeout = options.get('timeout', env_pool.TIMEOUT)
    evaluator = evaluation.Evaluator(make_env, len(chosen), num_episodes, seed, task.is_maze, timeout=timeout)
    episodes = evaluator(act)
    evaluator.close()
    for i, k in enumerate(chosen):
        result = evaluation.summary(episodes, i, reference)
        scores = {name: result[name] for name in ('success_rate', 'normalized_score') if result[name] is not None}
        rest = ''.join(f', {name} {value:.2f}' for name, value in scores.items())
        rest += f' ({reference})' if reference and 'normalized_score' in scores else ''
        print(f'member {k}: return {np.mean(result["returns"]):.2f}, length {np.mean(result["lengths"]):.1f}{rest}')


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog='python -m spot_jax.evaluate', description=__doc__)
    parser.add_argument('workdir', type=Path)
    parser.add_argument('--episodes', type=whole(1, MAX_EPISODES), default=100)
    parser.add_argument('--member', type=whole(0), help='default: all')
    parser.add_argument(
        '--seed', type=whole(0, MAX_SEED), default=20_000, help='of the first episode; the others count on'
    )
    parser.add_argument('--trust-environment', action='store_true', help='make what the dataset names, whatever it is')
    return parser.run(argv, lambda a: evaluate(a.workdir, a.episodes, a.member, a.seed, a.trust_environment))


if __name__ == '__main__':
    sys.exit(main())
