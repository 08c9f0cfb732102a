"""Gym-MuJoCo locomotion with the authors' settings: `--config=experiments/mujoco.py:hopper-medium`.

The data are made on the spot at first use. `hopper-medium,d4rl` takes D4RL's instead, its HDF5 files imported under the
ids named here: see `python -m spot_jax.datasets import-d4rl --help`. `hopper-medium,minari` downloads Minari's own set.
"""

from ml_collections import ConfigDict

from spot_jax.methods.spot import PLUS
from spot_jax.run.config import preset_config, read_words
from spot_jax.system.errors import InputError

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

DATASETS = {'generated': 'spot_jax/{}/{}-v0', 'd4rl': 'd4rl/{}/{}-v2', 'minari': 'mujoco/{}/{}-v0'}

PRESETS = {
    f'{robot}-{kind}': {'regularizer.weight': weight}
    for robot, weights in WEIGHTS.items()
    for kind, weight in weights.items()
}

OPTIONS = {
    'd4rl': "D4RL's sets (v2), imported from its files",
    'minari': "Minari's own set of that name, of other policies than D4RL's; it has medium ones alone",
    'plus': 'SPOT+: critics with layer norm, three hidden layers, minibatches of 1024',
}


def get_config(name: str = 'hopper-medium') -> ConfigDict:
    """The config of a preset."""
    preset, options, method = read_words(name, 'hopper-medium', OPTIONS, ('plus',))
    robot, _, kind = preset.partition('-')
    sources = options & {*DATASETS}
    if len(sources) > 1:
        raise InputError(f'{name!r}: one of d4rl and minari, not both')
    source = next(iter(sources), 'generated')
    common = COMMON | (PLUS if 'plus' in options else {}) | {'dataset_id': DATASETS[source].format(robot, kind)}
    config = preset_config(PRESETS, preset, common, method, 'locomotion', preset)
    if source == 'generated':
        config.regularizer.weight = GENERATED_WEIGHTS.get(preset, config.regularizer.weight)
    return config
