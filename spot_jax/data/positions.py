"""Where a maze's dataset has been."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from spot_jax.data.load import EVERYTHING, Selection, open_minari
from spot_jax.data.store import root
from spot_jax.system.errors import InputError, first_line

MAX_EPISODES = 2000  # whose positions are looked at


def path_of(observations: Any) -> np.ndarray | None:
    """The positions [T + 1, 2] in an episode's observations; None if they have none."""
    if isinstance(observations, Mapping):
        observations = observations.get('achieved_goal')
    path = np.asarray(observations) if isinstance(observations, np.ndarray) else np.empty(0)
    return path[:, :2] if path.ndim == 2 and path.shape[1] >= 2 else None


def some_episodes(data: Any, most: int, among: np.ndarray | None = None) -> Iterator[Any]:
    """At most so many episodes of a Minari dataset, evenly over it, or over those at the places `among`."""
    among = np.arange(data.total_episodes) if among is None else among
    places = np.unique(np.linspace(0, len(among) - 1, most).astype(int))
    return data.iterate_episodes(data.episode_indices[among[places]])


def _chosen(data: Any, dataset_id: str, selection: Selection) -> tuple[np.ndarray, int]:
    """The places of the episodes that are learned from, and their transitions."""
    if selection == EVERYTHING:
        return np.arange(data.total_episodes), data.total_steps
    returns, lengths = np.array([(np.sum(e.rewards), len(e.rewards)) for e in data.iterate_episodes()]).T
    places = np.flatnonzero(lengths)  # those without steps are no episodes
    places = places[selection.keep(dataset_id, returns[places])]
    return places, int(lengths[places].sum())


def visited(dataset_id: str, transitions: int | None = None, selection: Selection = EVERYTHING) -> np.ndarray:
    """Positions [N, 2] of a maze's dataset, of at most `MAX_EPISODES` of those that are learned from.

    Raises InputError if it is not here, cannot be read, has none, or is not of so many transitions.
    """
    if not (root() / dataset_id / 'data').exists():
        raise InputError(f'{dataset_id} is not in {root()}')
    data = open_minari(dataset_id)
    try:
        places, found = _chosen(data, dataset_id, selection)
        if transitions not in (None, found):
            words = f'{found} transitions, not {transitions}'
            raise InputError(f'{dataset_id} is other data than it learned from: {words}')
        paths = [path_of(episode.observations) for episode in some_episodes(data, MAX_EPISODES, places)]
    except InputError:
        raise
    except Exception as error:  # damaged files make Minari and h5py raise many kinds
        raise InputError(f'{dataset_id} cannot be read: {first_line(error)}') from error
    finite = [path for path in paths if path is not None and np.isfinite(path).all()]
    if not finite:
        raise InputError(f'{dataset_id} has no positions')
    return np.concatenate(finite)
