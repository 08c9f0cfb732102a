"""What a task means: one rule that its dataset and its environment share, so that they cannot disagree."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from spot_jax.errors import InputError

Observation = np.ndarray | Mapping[str, np.ndarray]


class Task(NamedTuple):
    """The rule, on NumPy arrays with any leading axes.

    observation: the environment's observation to the `[..., O]` float32 vector that policies see.
    reward: the environment's rewards to those trained on.
    terminal: (rewards, terminations) to whether the step ends the task; truncation never does.
    is_maze: a goal is to be reached: success is defined, the environment's goal is pinned.
    """

    observation: Callable[[Observation], np.ndarray]
    reward: Callable[[np.ndarray], np.ndarray]
    terminal: Callable[[np.ndarray, np.ndarray], np.ndarray]
    is_maze: bool


def _array(raw: Observation) -> np.ndarray:
    if isinstance(raw, Mapping):
        raise InputError(
            'the observations are dicts, but the task takes arrays: choose config.task antmaze or pointmaze'
        )
    return np.asarray(raw, np.float32)


def _ant(raw: Observation) -> np.ndarray:
    """Position and the ant's proprioception, without the goal; arrays (D4RL's files) are so already."""
    if isinstance(raw, Mapping):
        return np.concatenate([raw['achieved_goal'], raw['observation']], axis=-1).astype(np.float32)
    return _array(raw)


def _point(raw: Observation) -> np.ndarray:
    """Position and velocity, without the goal."""
    return np.asarray(raw['observation'], np.float32) if isinstance(raw, Mapping) else _array(raw)


def goal_reached(rewards: np.ndarray) -> np.ndarray:
    """Whether a maze's sparse reward marks the goal."""
    return np.asarray(rewards) > 0.5


def _maze_reward(rewards: np.ndarray) -> np.ndarray:
    return np.where(goal_reached(rewards), 0, -1).astype(np.float32)


def _maze_terminal(rewards: np.ndarray, terminations: np.ndarray) -> np.ndarray:
    return goal_reached(rewards) | np.asarray(terminations, bool)


def _own_reward(rewards: np.ndarray) -> np.ndarray:
    return np.asarray(rewards, np.float32)


def _own_terminal(rewards: np.ndarray, terminations: np.ndarray) -> np.ndarray:
    del rewards
    return np.asarray(terminations, bool)


TASKS = {  # functions with names: they are sent to the processes of `env_pool`
    'locomotion': Task(
        _array,
        _own_reward,
        _own_terminal,
        is_maze=False,
    ),
    'antmaze': Task(_ant, _maze_reward, _maze_terminal, is_maze=True),
    'pointmaze': Task(_point, _maze_reward, _maze_terminal, is_maze=True),
}

# D4RL's reference returns (random, expert); AntMaze's score is its success rate. Others have none.
REFERENCE_RETURNS: dict[str, tuple[float, float]] = {
    'Hopper': (-20.272305, 3234.3),
    'HalfCheetah': (-280.178953, 12135.0),
    'Walker2d': (1.629008, 4592.3),
    'AntMaze': (0.0, 1.0),
}


def family(environment_id: str) -> str:
    """What an environment's versions and layouts share: 'AntMaze' of 'AntMaze_UMaze-v4', 'Hopper' of 'Hopper-v5'."""
    return environment_id.split('/')[-1].split('-')[0].split('_')[0]


def normalized_score(environment_id: str, returns: Any, successes: Any | None) -> float | None:
    """D4RL's score, 100·(return − random)/(expert − random), or None where there are no reference returns."""
    name = family(environment_id)
    if name not in REFERENCE_RETURNS:
        return None
    low, high = REFERENCE_RETURNS[name]
    value = np.mean(returns if successes is None else successes)
    return float(100 * (value - low) / (high - low))
