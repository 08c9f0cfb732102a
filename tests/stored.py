"""What the run in `tests/data/older_run` learned from: exact numbers, the same to the bit on every machine."""

import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer
from tiny import tiny

from spot_jax.acting import environments

ID = 'stored/point-v0'


def make_dataset():
    """Four episodes of 16 steps in PointMaze UMaze's first corridor: all values are multiples of 1/64."""
    episodes = []
    for k in range(4):
        t = np.arange(17)
        positions = np.stack([(t * (k + 1) % 64 - 32) / 64 - 1, (t * 3 % 32 - 16) / 64 + 1], axis=1)
        velocities = np.stack([(t * 5 % 16 - 8) / 16, (t * 7 % 16 - 8) / 16], axis=1)
        episodes.append(
            EpisodeBuffer(
                observations=np.concatenate([positions, velocities], axis=1),
                actions=np.stack([t[:-1] * 3 % 32 / 16 - 1, t[:-1] * 5 % 32 / 16 - 1], axis=1).astype(np.float32),
                rewards=np.float64(t[:-1] == 15) * (k == 0),
                terminations=(t[:-1] == 15) & (k == 0),
                truncations=(t[:-1] == 15) & (k > 0),
            )
        )
    env = environments.gym.make('spot_jax/PointMaze-UMaze-v0', max_episode_steps=20)
    spaces = {'observation_space': Box(-np.inf, np.inf, (4,)), 'action_space': env.action_space}
    minari.create_dataset_from_buffers(ID, episodes, eval_env=env.spec, **spaces)
    env.close()


def config(**changes):
    """The stored run's config, with `changes` of dotted names."""
    sizes = {'cvae.hidden_dims': (6,), 'actor.hidden_dims': (6,), 'critic.hidden_dims': (6,)}
    lengths = {'cvae.steps': 8, 'offline.steps': 8, 'online.steps': 8}
    intervals = {'log_interval': 4, 'evaluation.interval': 8, 'evaluation.episodes': 1, 'checkpoint.interval': 4}
    return tiny(**{'dataset_id': ID, 'batch_size': 4, **sizes, **lengths, **intervals, **changes})
