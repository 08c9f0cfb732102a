"""Suites, every task with every method and four seeds: `--config=experiments/suite.py:pointmaze` (default: smoke).

Each run has a folder of its own below the suite's, which `python -m spot_jax.report` reads. `--config.FIELD=VALUE` is
set for all runs; `--distributed`, or `--config.part=K,N`, takes the K-th of N parts of them: hosts share a suite.
"""

from spot_jax.methods import METHODS
from spot_jax.system.errors import InputError

MAZES = ['umaze', 'umaze-diverse', 'medium-play', 'medium-diverse', 'large-play', 'large-diverse']
ROBOTS = ['halfcheetah', 'hopper', 'walker2d']
TASKS = {
    'pointmaze': ['umaze', 'medium', 'large'],
    'antmaze': MAZES,
    'mujoco': [f'{robot}-{kind}' for kind in ('medium-expert', 'medium', 'medium-replay') for robot in ROBOTS],
}
# Three quick runs, to see that all is well.
SMOKE = ['offline.steps=400', 'evaluation.interval=200', 'evaluation.episodes=5', 'seeds=0,1']
PRESETS = ['smoke', *TASKS]


def get_suite(name: str = 'smoke') -> dict[str, list[str]]:
    """The runs of a suite: the folder of each, and the arguments of the command that makes it."""
    if name not in PRESETS:
        raise InputError(f'no suite {name!r}: choose one of {", ".join(PRESETS)}')
    if name == 'smoke':
        short = [f'--config.{each}' for each in SMOKE]
        own = {'spot': ['--config.cvae.steps=200'], 'bc': [], 'td3_bc': []}
        return {f'umaze/{m}': [f'--config=experiments/pointmaze.py:umaze,{m}', *short, *own[m]] for m in own}
    return {
        f'{task}/{method}': [f'--config=experiments/{name}.py:{task},{method}', '--config.seeds=0,1,2,3']
        for task in TASKS[name]
        for method in METHODS
    }
