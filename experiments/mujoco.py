"""Gym-MuJoCo locomotion with the authors' settings: `--config=experiments/mujoco.py:hopper-medium`.

The data are made on the spot at first use; `hopper-medium,d4rl` takes D4RL's instead. Minari has the medium sets; the
others are D4RL's HDF5 files, imported under the ids named here: see `python -m spot_jax.datasets import-d4rl --help`.
"""

from ml_collections import ConfigDict

from spot_jax.methods.spot import PLUS
from spot_jax.run.config import preset_config, read_words

COMMON = {
    'task': 'locomotion',
    'normalize_observations': True,
    'actor.dropout': 0.1,
}

WEIGHTS = {
    'halfcheetah': {'medium': 0.05, 'medium-replay': 0.05, 'medium-expert': 1.0},
    'hopper': {'medium': 0.1, 'medium-replay': 0.1, 'medium-expert': 0.2},
    'walker2d': {'medium': 0.2, 'medium-replay': 0.2, 'medium-expert': 0.5},
}

# Where the authors' weight, tuned on D4RL's data, lets the values run away on ours.
GENERATED_WEIGHTS = {'hopper-medium-expert': 1.0}

DATASETS = {
    'generated': {kind: f'spot_jax/{{}}/{kind}-v0' for kind in ('medium', 'medium-replay', 'medium-expert')},
    'd4rl': {
        'medium': 'mujoco/{}/medium-v0',
        'medium-replay': 'd4rl/{}/medium-replay-v2',
        'medium-expert': 'd4rl/{}/medium-expert-v2',
    },
}

PRESETS = {
    f'{robot}-{kind}': {'regularizer.weight': weight}
    for robot, weights in WEIGHTS.items()
    for kind, weight in weights.items()
}

OPTIONS = {
    'd4rl': "D4RL's data: medium from Minari, downloaded; the others imported",
    'plus': 'SPOT+: critics with layer norm, three hidden layers, minibatches of 1024',
}


def get_config(name: str = 'hopper-medium') -> ConfigDict:
    """The config of a preset."""
    preset, options, method = read_words(name, 'hopper-medium', OPTIONS, ('plus',))
    robot, _, kind = preset.partition('-')
    source = 'd4rl' if 'd4rl' in options else 'generated'
    common = COMMON | (PLUS if 'plus' in options else {}) | {'dataset_id': DATASETS[source].get(kind, '').format(robot)}
    config = preset_config(PRESETS, preset, common, method, 'locomotion', preset)
    if source == 'generated':
        config.regularizer.weight = GENERATED_WEIGHTS.get(preset, config.regularizer.weight)
    return config
