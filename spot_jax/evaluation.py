"""Evaluation: all members' episodes side by side, one batched act call per step, fixed seeds."""

from collections.abc import Callable
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


def evaluate(
    act: Callable[[np.ndarray], np.ndarray],
    make_env: Callable[[], gym.Env],
    num_members: int,
    num_episodes: int,
    seed: int,
    is_maze: bool,
    should_stop: Callable[[], bool] = lambda: False,
) -> Episodes | None:
    """Plays episode e of every member from `reset(seed=seed + e)`; None if `should_stop` said so on the way.

    `act` takes observations [M, K, O] and gives actions [M, K, A] in the environment's bounds.
    """
    slots = min(SLOTS, num_episodes)
    envs = [[make_env() for _ in range(slots)] for _ in range(num_members)]
    result = Episodes(*(np.zeros((num_members, num_episodes)) for _ in range(3)))
    episode = np.tile(np.arange(slots), (num_members, 1))  # which episode each slot plays
    observations = np.stack([[env.reset(seed=seed + k)[0] for k, env in enumerate(row)] for row in envs])
    while (episode < num_episodes).any():
        if should_stop():
            return None
        actions = act(observations)
        for m, k in zip(*np.nonzero(episode < num_episodes), strict=True):
            e = episode[m, k]
            observations[m, k], reward, terminated, truncated, info = envs[m][k].step(actions[m, k])
            result.returns[m, e] += float(reward)
            result.lengths[m, e] += 1
            result.successes[m, e] = max(result.successes[m, e], float(info.get('success', False)))
            if terminated or truncated:
                episode[m, k] += slots
                if episode[m, k] < num_episodes:
                    observations[m, k], _ = envs[m][k].reset(seed=seed + int(episode[m, k]))
    for row in envs:
        for env in row:
            env.close()
    return result if is_maze else result._replace(successes=None)


def summary(episodes: Episodes, member: int, environment_id: str) -> dict[str, Any]:
    """One member's results as `results.json` has them; None where a value does not exist."""
    returns = episodes.returns[member]
    successes = None if episodes.successes is None else episodes.successes[member]
    return {
        'returns': [float(r) for r in returns],
        'lengths': [int(n) for n in episodes.lengths[member]],
        'success_rate': None if successes is None else float(successes.mean()),
        'normalized_score': normalized_score(environment_id, returns, successes),
    }
