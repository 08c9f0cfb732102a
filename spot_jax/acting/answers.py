"""What an environment answers, checked: one that misbehaves is told of in words, and nothing bad gets any further."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

_LARGEST = float(np.finfo(np.float32).max)  # rewards and observations are trained on in float32


class BadAnswerError(Exception):
    """An environment answered something that makes no sense."""


class Step(NamedTuple):
    """What one step of one environment came to."""

    observation: np.ndarray  # [O]
    reward: float
    terminated: bool
    truncated: bool
    success: bool  # its info['success']


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 4:
        return f'an array of shape {value.shape}'
    try:
        text = ' '.join((str if isinstance(value, np.generic) else repr)(value).split())
    except Exception:  # an environment's own object can raise anything
        text = f'a {type(value).__name__}'
    return text if len(text) <= 60 else f'{text[:57]}...'


def _scalar(value: Any, kinds: str) -> Any:
    """A number or an array of one, as Python's; None if it is neither, or not of NumPy's `kinds`."""
    array = np.asarray(value)
    return array.item() if array.size == 1 and array.dtype.kind in kinds else None


def _observation(env: gym.Env, value: Any) -> np.ndarray:
    array, shape = np.asarray(value), env.observation_space.shape
    if array.dtype.kind not in 'fiub' or array.shape != shape:
        raise BadAnswerError(f'its observation is {_shown(value)}; expected numbers of shape {shape}')
    if not (np.abs(array) <= _LARGEST).all():
        raise BadAnswerError('its observation contains NaN or infinity')
    return array


def _reward(value: Any) -> float:
    number = value if type(value) is float else _scalar(value, 'fiub')
    if number is None or not abs(number) <= _LARGEST:  # NaN is not, either
        raise BadAnswerError(f'its reward is {_shown(value)}; expected one finite number')
    return float(number)


def _flag(name: str, value: Any) -> bool:
    flag = value if type(value) is bool else _scalar(value, 'biuf')
    if flag is None or flag not in (0, 1):
        raise BadAnswerError(f'its {name} is {_shown(value)}; expected True or False')
    return bool(flag)


def of_reset(env: gym.Env, answer: Any) -> np.ndarray:
    """The observation [O] of what `reset` returned; raises BadAnswerError."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise BadAnswerError(f'its reset returned {_shown(answer)}; expected (observation, info)')
    return _observation(env, answer[0])


def of_step(env: gym.Env, answer: Any) -> Step:
    """What `step` returned; raises BadAnswerError."""
    if not isinstance(answer, tuple) or len(answer) != 5:
        expected = '(observation, reward, terminated, truncated, info)'
        raise BadAnswerError(f'its step returned {_shown(answer)}; expected {expected}')
    observation, reward, terminated, truncated, info = answer
    if not isinstance(info, Mapping):
        raise BadAnswerError(f'its info is {_shown(info)}; expected a dict')
    success = info.get('success')
    return Step(
        _observation(env, observation),
        _reward(reward),
        _flag('terminated', terminated),
        _flag('truncated', truncated),
        success is not None and _flag("info['success']", success),
    )
