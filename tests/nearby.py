"""A maze whose episodes tell policies apart, and a config file for it: `--config=tests/nearby.py`.

The tiny runs' policies never reach PointMaze's goal: their episodes would all be alike. Here an episode ends, with a
reward of 1, as soon as the point is 0.2 metres from where it started: how soon depends on all its actions.
"""

import json
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np

from experiments import pointmaze
from spot_jax.acting.environments import point_maze

ID = 'toy/Nearby-v0'


class Nearby(gym.Wrapper):
    """PointMaze UMaze with another end."""

    metadata: ClassVar = {'render_modes': ['rgb_array']}  # gymnasium 1.2 wants the class's; a wrapper's is a property

    def __init__(self, continuing_task=False, **kwargs):
        del continuing_task  # which every maze that is not the package's own is made with
        super().__init__(point_maze('UMaze', **kwargs))

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        self._start = observation['achieved_goal']
        return observation, info | {'success': False}

    def step(self, action):
        observation, _, _, truncated, info = super().step(action)
        away = bool(np.linalg.norm(observation['achieved_goal'] - self._start) > 0.2)
        return observation, float(away), away, truncated, info | {'success': away}


gym.register(ID, 'nearby:Nearby', max_episode_steps=60)


def evaluate_there(dataset_folder: Path) -> None:
    """Has a dataset record this maze as where to evaluate."""
    path = dataset_folder / 'data' / 'metadata.json'
    metadata = json.loads(path.read_text())
    metadata['eval_env_spec'] = gym.registry[ID].to_json()
    path.write_text(json.dumps(metadata))


def get_config():
    """PointMaze's config."""
    return pointmaze.get_config()
