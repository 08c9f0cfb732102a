"""PointMaze on data made on the spot: `--config=experiments/pointmaze.py:medium` (default: umaze).

Presets: umaze, medium, large. The dataset is generated on first use. The authors have no settings for it: these are
ours, with networks small enough for a population to train in minutes on two CPU cores.
"""

from typing import Any

from ml_collections import ConfigDict

from spot_jax.config import preset_config

COMMON = {
    'task': 'pointmaze',
    'cvae.hidden_dims': (256, 256),
    'cvae.steps': 10_000,
    'regularizer.weight': 0.25,
    'evaluation.episodes': 50,
    'checkpoint.interval': 10_000,
}

PRESETS: dict[str, dict[str, Any]] = {
    'umaze': {'offline.steps': 10_000, 'evaluation.interval': 2000},
    # Values of distant states take long to settle: targets that move faster shorten that (0.005: not done after 26k).
    # A small λ, as the authors' for AntMaze's larger mazes: at 0.25 success comes and goes.
    'medium': {'offline.steps': 20_000, 'tau': 0.02, 'regularizer.weight': 0.05},
    'large': {'offline.steps': 50_000, 'tau': 0.02, 'regularizer.weight': 0.05, 'discount': 0.995},  # untried
}


def get_config(name: str = 'umaze') -> ConfigDict:
    """The config of a preset."""
    name = name or 'umaze'
    return preset_config(PRESETS, name, COMMON | {'dataset_id': f'spot_jax/pointmaze/{name}-v0'})
