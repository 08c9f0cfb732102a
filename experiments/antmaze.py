"""AntMaze with the authors' settings: `--config=experiments/antmaze.py:large-diverse` (default: umaze).

The data are made on the spot at first use. Options follow the preset: `large-diverse,d4rl,finetune`.
"""

from ml_collections import ConfigDict

from spot_jax.methods.spot import MAZE_PLUS
from spot_jax.run.config import preset_config, read_words

COMMON = {
    'task': 'antmaze',
    'actor.lr': 1e-4,
    'actor.output_init': 1e-3,
    'critic.output_init': 3e-3,
    'evaluation.interval': 50_000,
    'evaluation.episodes': 100,
}

WEIGHTS = {
    'umaze': 0.25,
    'umaze-diverse': 0.25,
    'medium-play': 0.05,
    'medium-diverse': 0.025,
    'large-play': 0.025,
    'large-diverse': 0.025,
}

PRESETS = {name: {'regularizer.weight': weight} for name, weight in WEIGHTS.items()}

OPTIONS = {
    'd4rl': "Minari's D4RL/antmaze sets, downloaded",
    'plus': 'SPOT+: critics with layer norm, three hidden layers, minibatches of 1024, discount 0.995',
    'finetune': 'goes on online for 1 000 000 environment steps',
}


def get_config(name: str = 'umaze') -> ConfigDict:
    """The config of a preset, with the options that follow it."""
    preset, options, method = read_words(name, 'umaze', OPTIONS, ('plus',))
    dataset_id = f'D4RL/antmaze/{preset}-v1' if 'd4rl' in options else f'spot_jax/antmaze/{preset}-v2'
    online: dict[str, float] = {'online.steps': 1_000_000} if 'finetune' in options else {}
    if 'finetune' in options and preset.startswith('large') and method == 'spot':
        online['online.discount'] = 0.995
    plus = MAZE_PLUS if 'plus' in options else {}
    common = COMMON | plus | {'dataset_id': dataset_id} | online
    return preset_config(PRESETS, preset, common, method, 'maze', f'antmaze-{preset}')
