"""What a task means: one rule that its dataset and its environment share, so that they cannot disagree."""

import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from spot_jax.system.errors import InputError, first_line

Observation = np.ndarray | Mapping[str, np.ndarray]
GOAL_KEYS = ('achieved_goal', 'observation')  # what a maze's policy sees, of the dicts that goal environments give


class Task(NamedTuple):
    """The rule, on NumPy arrays with any leading axes.

    observation: the environment's observation to the `[..., O]` float32 vector that policies see.
    reward: the environment's rewards to those trained on.
    terminal: (rewards, terminations) to whether the step ends the task; truncation never does.
    is_maze: a goal is to be reached: success is defined, the environment's goal is pinned, rewards are 0 or 1.
    flatten: whether `vectorizer` makes vectors of observations that are none.
    """

    observation: Callable[[Observation], np.ndarray]
    reward: Callable[[np.ndarray], np.ndarray]
    terminal: Callable[[np.ndarray, np.ndarray], np.ndarray]
    is_maze: bool
    flatten: bool = False


def _array(raw: Observation) -> np.ndarray:
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
    rewards = np.asarray(rewards)
    other = rewards[(rewards != 0) & (rewards != 1)]
    if other.size:
        raise InputError(
            f'a reward of {other[0]:g}, but mazes (config.task antmaze, pointmaze) have 1 at the goal and 0 elsewhere; '
            'config.task=locomotion takes any rewards as they are'
        )
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


def task_of(config: Mapping[str, Any]) -> Task:
    """The task of a run's config; older ones do not say whether to flatten."""
    task = TASKS[config['task']]
    return task._replace(flatten=bool(config.get('flatten_observations', False)) and not task.is_maze)


def is_vector(space: Space | None) -> bool:
    """Whether a space has arrays of numbers with one axis."""
    return isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0 and space.dtype.kind in 'fiub'


def describe(space: Space) -> str:
    """A space in a few words, on one line."""
    if isinstance(space, spaces.Box):
        kind = 'images: ' if space.dtype == np.uint8 and len(space.shape) in (2, 3) else ''
        return f'{kind}a Box of shape {space.shape}, {space.dtype}'
    if isinstance(space, spaces.Dict):
        named = (
            f'{key}' if layout(part) else f'{key} ({describe(part)})' for key, part in sorted(space.spaces.items())
        )
        return f'dicts of {", ".join(named)}'[:200]
    if isinstance(space, spaces.Tuple):
        return f'tuples of {len(space.spaces)}'
    return ' '.join(str(space).split())[:80]


def layout(space: Space, name: str = '') -> list[tuple[str, tuple[int, ...]]] | None:
    """The arrays of numbers that a space is made of, names and shapes in the order of `flatten`; None if it has others.

    Dicts are taken in the alphabetical order of their keys, tuples in their own.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        named = sorted(space.spaces.items()) if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        parts = [layout(part, f'{name}.{key}'.strip('.')) for key, part in named]
        return None if None in parts or not parts else [leaf for part in parts for leaf in part or []]
    is_array = isinstance(space, spaces.Box | spaces.MultiBinary) and space.dtype.kind in 'fiub'
    return [(name, tuple(space.shape))] if is_array else None


def flatten(raw: Any, space: Space) -> np.ndarray:
    """Observations of a space, with any leading axes, as vectors `[..., O]`, joined in the order of `layout`.

    Arrays go in row by row. Raises InputError if they are not of the space.
    """
    if not isinstance(space, Space):
        raise InputError(f'{type(space).__name__} is no space: give the observation_space of the environment')
    try:
        return vector(raw, space)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'observations are none of {describe(space)}: {first_line(error)}') from error


def vector(raw: Any, space: Space) -> np.ndarray:
    """As `flatten`, but raises KeyError, TypeError or ValueError."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([vector(raw[key], part) for key, part in sorted(space.spaces.items())], axis=-1)
    if isinstance(space, spaces.Tuple):
        pairs = zip(raw, space.spaces, strict=True)
        return np.concatenate([vector(value, part) for value, part in pairs], axis=-1)
    array, shape = np.asarray(raw, np.float32), space.shape or ()
    leading = array.shape[: array.ndim - len(shape)]
    if array.shape != (*leading, *shape):
        raise ValueError(f'an array of shape {array.shape} for {shape}')
    return array.reshape(*leading, math.prod(shape))


def vectorizer(task: Task, space: Space, owner: str) -> Callable[[Any], np.ndarray]:
    """What makes `[..., O]` float32 vectors of the observations of a space, with any leading axes, under the task.

    Raises InputError, with the `owner` of the space in it, if the task does not take such.
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    has_goal = all(is_vector(parts.get(key)) for key in GOAL_KEYS)
    if is_vector(space) or (task.is_maze and has_goal):
        return task.observation
    if task.is_maze:
        raise InputError(
            f'{owner}: observations are {describe(space)}; maze tasks take vectors (a Box with one axis), or dicts '
            f'with vectors {" and ".join(GOAL_KEYS)}'
        )
    leaves = layout(space)
    if leaves is None or not sum(math.prod(shape) for _, shape in leaves):
        raise InputError(
            f'{owner}: observations are {describe(space)}; supported are vectors of numbers (a Box with one axis), and '
            'with --config.flatten_observations=True also dicts, tuples and arrays of numbers'
        )
    if task.flatten:
        return partial(vector, space=space)
    hint = '; mazes whose rewards are 0 and 1 take config.task antmaze or pointmaze' if has_goal else ''
    order = ', '.join(name for name, _ in leaves if name)
    raise InputError(
        f'{owner}: observations are {describe(space)}; --config.flatten_observations=True makes vectors of them'
        + (f', in the order {order}' if order else '')
        + hint
    )


class Reference(NamedTuple):
    """Returns that a normalised score is measured by."""

    random: float  # scores 0
    expert: float  # scores 100
    source: str

    def __str__(self) -> str:
        return f'by the returns {self.random:g} and {self.expert:g} of {self.source}'


# D4RL's reference returns (random, expert); AntMaze's score is its success rate. Others have none of ours.
REFERENCE_RETURNS: dict[str, tuple[float, float]] = {
    'Hopper': (-20.272305, 3234.3),
    'HalfCheetah': (-280.178953, 12135.0),
    'Walker2d': (1.629008, 4592.3),
    'AntMaze': (0.0, 1.0),
}


def family(environment_id: str) -> str:
    """What an environment's versions and layouts share: 'AntMaze' of 'AntMaze_UMaze-v4', 'Hopper' of 'Hopper-v5'."""
    return environment_id.split('/')[-1].split('-')[0].split('_')[0]


def reference(environment_id: str | None, metadata: Mapping[str, Any], is_maze: bool) -> Reference | None:
    """D4RL's reference returns of an environment, else those in a dataset's `metadata` as Minari names them, else None.

    A maze's own are not used: the evaluation ends an episode at the goal, theirs go on. Wrong ones are told of and left
    out.
    """
    if environment_id is None:
        return None
    if family(environment_id) in REFERENCE_RETURNS:
        return Reference(*REFERENCE_RETURNS[family(environment_id)], 'D4RL')
    values = [metadata.get('ref_min_score'), metadata.get('ref_max_score')]
    if is_maze or values == [None, None]:
        return None
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(numbers) < 2 or numbers[0] >= numbers[1]:
        text = f'ref_min_score={values[0]!r:.40}, ref_max_score={values[1]!r:.40}'
        print(f"warning: there is no normalized score: the dataset's metadata have {text}", file=sys.stderr)
        return None
    return Reference(float(numbers[0]), float(numbers[1]), "the dataset's metadata")


def recorded_reference(results: Mapping[str, Any]) -> Reference | None:
    """What a run's results.json says that its scores are measured by; raises ValueError if that makes no sense."""
    found = results.get('reference_returns')
    if found is None:
        return None
    try:
        recorded = Reference(float(found['random']), float(found['expert']), str(found['source']))
    except (TypeError, LookupError, ValueError, OverflowError) as error:
        raise ValueError(f'its reference_returns make no sense: {found!r:.80}') from error
    if not -math.inf < recorded.random < recorded.expert < math.inf:
        raise ValueError(f'its reference_returns make no sense: {found!r:.80}')
    return recorded


def normalized_score(found: Reference | None, returns: Any, successes: Any | None) -> float | None:
    """D4RL's score, 100·(return − random)/(expert − random), or None where there are no reference returns."""
    if found is None:
        return None
    value = np.mean(returns if successes is None else successes)
    return float(100 * (value - found.random) / (found.expert - found.random))
