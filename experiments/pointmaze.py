"""PointMaze on data made on the spot: `--config=experiments/pointmaze.py:medium` (default: umaze).

The dataset is generated on first use. The authors have no settings for it: these are
ours, with networks small enough for a population to train in minutes on two CPU cores.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from spot_jax.methods import METHODS, hyperparameters
from spot_jax.methods.spot import MAZE_PLUS
from spot_jax.run.config import preset_config, read_words

COMMON = {
    'task': 'pointmaze',
    'cvae.hidden_dims': (256, 256),
    'cvae.steps': 10_000,
    # Values of distant states take long to settle: targets that move faster shorten that.
    'tau': 0.02,
    'evaluation.episodes': 50,
    'checkpoint.interval': 10_000,
}


def of_all_methods(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by the paths that each method has for them, if it has such hyperparameters."""
    paths = [(hyperparameters(method), name) for method in METHODS for name in settings]
    return {found[name]: settings[name] for found, name in paths if name in found}


# The way through Large is long: with the discount and the rates of the others its values have not settled when training
# ends.
LARGE_CRITICS = of_all_methods({'discount': 0.995, 'tau': 0.05, 'critic_lr': 1e-3, 'value_lr': 1e-3})

PRESETS: dict[str, dict[str, Any]] = {
    'umaze': {
        # At a weight of 0.25, success comes and goes.
        'regularizer.weight': 0.1,
        # With PointMaze's wider bound BEAR has no success here in the end.
        'bear.mmd_threshold': 0.05,
        'offline.steps': 10_000,
        'evaluation.interval': 2000,
    },
    'medium': {'regularizer.weight': 0.05, 'offline.steps': 20_000},
    # Q's differences between actions are a few thousandths of Q: a larger weight outweighs them.
    'large': {'regularizer.weight': 0.005, 'actor.lr': 1e-4, 'offline.steps': 20_000, **LARGE_CRITICS},
}

OPTIONS = {'plus': 'SPOT+: critics with layer norm, three hidden layers, minibatches of 1024, discount 0.995'}


def get_config(name: str = 'umaze') -> ConfigDict:
    """The config of a preset, with the options that follow it."""
    preset, options, method = read_words(name, 'umaze', OPTIONS, ('plus',))
    plus = MAZE_PLUS if 'plus' in options else {}
    common = COMMON | plus | {'dataset_id': f'spot_jax/pointmaze/{preset}-v0'}
    return preset_config(PRESETS, preset, common, method, 'maze', 'pointmaze')
