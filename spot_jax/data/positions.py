"""Where a maze's dataset has been."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from spot_jax.data.load import open_minari
from spot_jax.data.store import root
from spot_jax.system.errors import InputError, first_line

MAX_EPISODES = 2000  # whose positions are looked at


def path_of(observations: Any) -> np.ndarray | None:
    """The positions [T + 1, 2] in an episode's observations; None if they have none."""
    if isinstance(observations, Mapping):
        observations = observations.get('achieved_goal')
    path = np.asarray(observations) if isinstance(observations, np.ndarray) else np.empty(0)
    return path[:, :2] if path.ndim == 2 and path.shape[1] >= 2 else None


def some_episodes(data: Any, most: int) -> Iterator[Any]:
    """At most so many episodes of a Minari dataset, evenly over it."""
    indices = np.unique(np.linspace(0, data.total_episodes - 1, most).astype(int))
    return data.iterate_episodes(data.episode_indices[indices])


def visited(dataset_id: str, transitions: int | None = None) -> np.ndarray:
    """Positions [N, 2] of a maze's dataset, of at most `MAX_EPISODES`.

    Raises InputError if it is not here, cannot be read, has none, or is not of so many transitions.
    """
    if not (root() / dataset_id / 'data').exists():
        raise InputError(f'{dataset_id} is not in {root()}')
    data = open_minari(dataset_id)
    if transitions not in (None, data.total_steps):
        words = f'{data.total_steps} transitions, not {transitions}'
        raise InputError(f'{dataset_id} is other data than it learned from: {words}')
    try:
        paths = [path_of(episode.observations) for episode in some_episodes(data, MAX_EPISODES)]
    except Exception as error:  # damaged files make Minari and h5py raise many kinds
        raise InputError(f'{dataset_id} cannot be read: {first_line(error)}') from error
    found = [path for path in paths if path is not None and np.isfinite(path).all()]
    if not found:
        raise InputError(f'{dataset_id} has no positions')
    return np.concatenate(found)
