"""Evaluation: all members' episodes side by side, one batched act call per step, fixed seeds."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from spot_jax.tasks import normalized_score

SLOTS = 10  # environments per member; each plays its share of the episodes one after another


class Episodes(NamedTuple):
    """What E episodes of each of M members came to, `[M, E]` each."""

    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray | None  # None where the task has no goal

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray] | None) -> 'Episodes | None':
        """What `arrays` made a dict of; None if it is empty."""
        return cls(arrays['returns'], arrays['lengths'], arrays.get('successes')) if arrays else None


def arrays(episodes: Episodes | None) -> dict[str, np.ndarray]:
    """Episodes as a checkpoint has them."""
    return {name: value for name, value in episodes._asdict().items() if value is not None} if episodes else {}


class Evaluator:
    """Episodes of M policies in environments that are made once, up to `SLOTS` for each policy."""

    def __init__(self, make_env: Callable[[], gym.Env], num_members: int, num_episodes: int, seed: int, is_maze: bool):
        """Episode e of every policy will start from `reset(seed=seed + e)`."""
        self._envs = [[make_env() for _ in range(min(SLOTS, num_episodes))] for _ in range(num_members)]
        self._shape, self._seed, self._is_maze = (num_members, num_episodes), seed, is_maze

    def __call__(
        self, act: Callable[[np.ndarray], np.ndarray], should_stop: Callable[[], bool] = lambda: False
    ) -> Episodes | None:
        """Plays all episodes; None if `should_stop` said so on the way.

        `act` takes observations [M, K, O] and gives actions [M, K, A] in the environment's bounds.
        """
        envs, (num_members, num_episodes), seed = self._envs, self._shape, self._seed
        slots = len(envs[0])
        returns, lengths, successes = (np.zeros(self._shape) for _ in range(3))
        episode = np.tile(np.arange(slots), (num_members, 1))  # which episode each slot plays
        observations = np.stack([[env.reset(seed=seed + k)[0] for k, env in enumerate(row)] for row in envs])
        while (episode < num_episodes).any():
            if should_stop():
                return None
            actions = act(observations)
            for m, k in zip(*np.nonzero(episode < num_episodes), strict=True):
                e = episode[m, k]
                observations[m, k], reward, terminated, truncated, info = envs[m][k].step(actions[m, k])
                returns[m, e] += float(reward)
                lengths[m, e] += 1
                successes[m, e] = max(successes[m, e], float(info.get('success', False)))
                if terminated or truncated:
                    episode[m, k] += slots
                    if episode[m, k] < num_episodes:
                        observations[m, k], _ = envs[m][k].reset(seed=seed + int(episode[m, k]))
        return Episodes(returns, lengths, successes if self._is_maze else None)

    def close(self) -> None:
        """Closes the environments."""
        for row in self._envs:
            for env in row:
                env.close()


def summary(episodes: Episodes | None, member: int, environment_id: str | None) -> dict[str, Any]:
    """One member's results as `results.json` has them; None where a value does not exist."""
    if episodes is None or environment_id is None:
        return {'returns': None, 'lengths': None, 'success_rate': None, 'normalized_score': None}
    returns = episodes.returns[member]
    successes = None if episodes.successes is None else episodes.successes[member]
    return {
        'returns': [float(r) for r in returns],
        'lengths': [int(n) for n in episodes.lengths[member]],
        'success_rate': None if successes is None else float(successes.mean()),
        'normalized_score': normalized_score(environment_id, returns, successes),
    }
