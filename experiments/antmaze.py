"""AntMaze with the authors' settings: `--config=experiments/antmaze.py:large-diverse` (default: umaze).

Presets: umaze, umaze-diverse, medium-play, medium-diverse, large-play, large-diverse, on data made on the spot at first
use. `large-diverse,d4rl` takes Minari's D4RL/antmaze sets instead.
"""

from ml_collections import ConfigDict

from spot_jax.config import preset_and_source, preset_config

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

DATASETS = {'generated': 'spot_jax/antmaze/{}-v0', 'd4rl': 'D4RL/antmaze/{}-v1'}

PRESETS = {name: {'regularizer.weight': weight} for name, weight in WEIGHTS.items()}


def get_config(name: str = 'umaze') -> ConfigDict:
    """The config of a preset."""
    preset, source = preset_and_source(name, 'umaze')
    return preset_config(PRESETS, preset, COMMON | {'dataset_id': DATASETS[source].format(preset)})
