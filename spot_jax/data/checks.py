"""What is checked of a dataset's arrays, and how actions are scaled."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space

from spot_jax.acting.tasks import describe, is_vector
from spot_jax.system.errors import InputError

ACTION_TOLERANCE = 1e-5  # of a bound's magnitude


def check_finite(where: str, **arrays: np.ndarray) -> None:
    """Raises InputError if an array [T, ...] contains NaN or infinity, or becomes so as float32."""
    for name, values in arrays.items():
        with np.errstate(over='ignore'):
            bad = ~np.isfinite(np.asarray(values, np.float32))
        if bad.any():
            step = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0]
            what = 'NaN or infinity (or numbers that float32 cannot hold, over 3.4e38)'
            raise InputError(f'{where}: {name} contain {what}, first at step {step}')


class Excess(NamedTuple):
    """How far actions are outside their bounds, at the worst."""

    amount: float
    dimension: int


def excess(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> Excess | None:
    """How far actions [T, A] are outside the bounds `low` and `high` [A]; None if by no more than rounding."""
    beyond = np.maximum(low - actions, actions - high).max(axis=0, initial=-np.inf)
    tolerance = ACTION_TOLERANCE * np.maximum(np.abs(low), np.abs(high))
    if not (beyond > tolerance).any():
        return None
    dimension = int(np.argmax(beyond - tolerance))
    return Excess(float(beyond[dimension]), dimension)


def outside(worst: Excess, low: np.ndarray, high: np.ndarray) -> str:
    """What an excess means, in words."""
    i = worst.dimension
    return f'actions outside the bounds {low[i]:g} to {high[i]:g}, by up to {worst.amount:.2g} (in dimension {i})'


def check_bounds(where: str, actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Raises InputError if actions [T, A] are outside the bounds `low` and `high` [A], by more than rounding."""
    worst = excess(actions, low, high)
    if worst is not None:
        raise InputError(f'{where}: {outside(worst, low, high)}')


def unit_actions(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions [..., A] scaled from their bounds to [-1, 1]; 0 where the bounds leave no choice."""
    fixed = low == high
    unit = np.clip(2 * (actions - low) / np.where(fixed, 1, high - low) - 1, -1, 1)
    return np.where(fixed, 0, unit)


def action_bounds(dataset_id: str, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """The bounds [A] of an action space, float32; raises InputError if they are none."""
    if not is_vector(space) or space.dtype.kind != 'f':
        supported = 'vectors of continuous numbers (a Box of floats with one axis)'
        raise InputError(f'{dataset_id}: actions are {describe(space)}; supported are {supported}')
    with np.errstate(over='ignore'):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        if not np.isfinite(high - low).all():
            raise InputError(
                f'{dataset_id}: actions need finite bounds, by which they are scaled, not {low.min():g} to '
                f'{high.max():g}: record the dataset with a bounded action space'
            )
    if (low > high).any():
        raise InputError(f'{dataset_id}: the lower bounds of the actions are above the upper ones')
    return low, high


def numbers(where: str, name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Values as an array of numbers of a shape, which may also be a column; raises InputError if they are not so."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.empty(0, object)
    if array.dtype.kind not in 'fiub':
        raise InputError(f'{where}: {name} are no numbers')
    if len(shape) == 1 and array.shape == (*shape, 1):
        array = array[:, 0]
    if array.shape != shape:
        raise InputError(f'{where}: {name} have the shape {array.shape}, expected {shape}')
    return array


def flags(where: str, name: str, values: Any, length: int) -> np.ndarray:
    array = numbers(where, name, values, (length,))
    if ((array != 0) & (array != 1)).any():
        raise InputError(f'{where}: {name} must be 0 or 1')
    return array.astype(bool)
