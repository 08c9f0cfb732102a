"""Evaluation: all members' episodes side by side, one batched act call per step, fixed seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from spot_jax.acting.env_pool import TIMEOUT, EnvPool, MakeEnv, StoppedError, WorkerRestartedError
from spot_jax.acting.tasks import Reference, normalized_score

SLOTS = 10  # environments per member; each plays its share of the episodes one after another

Env = TypeVar('Env')

# (observations [M, K, O], rewards of the steps before [M, K], whether an episode begins [M, K]) -> actions [M, K, A]
Act = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


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

    def __init__(
        self,
        make_env: MakeEnv,
        num_members: int,
        num_episodes: int,
        seed: int,
        is_maze: bool,
        num_workers: int = 0,
        timeout: float = TIMEOUT,
    ):
        """Episode e of every policy will start from `reset(seed=seed + e)`; `timeout` is that of `EnvPool`."""
        self._shape, self._seed, self._is_maze = (num_members, num_episodes), seed, is_maze
        self._slots = min(SLOTS, num_episodes)
        self._pool = EnvPool(make_env, num_members * self._slots, num_workers, timeout)

    def __call__(self, act: Act, should_stop: Callable[[], bool] = lambda: False) -> Episodes | None:
        """Plays all episodes; None if `should_stop` said so on the way, also while an environment was waited for.

        `act` gives actions in the environment's bounds. Raises InputError if an environment fails and then, before all
        episodes have been played, again.
        """
        self._pool.stopping = should_stop
        while True:
            try:
                episodes = self._play(act, should_stop)
            except WorkerRestartedError:
                continue  # from the first episode on: the seeds are the same
            except StoppedError:
                return None
            self._pool.succeeded()
            return episodes

    def _play(self, act: Act, should_stop: Callable[[], bool]) -> Episodes | None:
        pool, (num_members, num_episodes), slots = self._pool, self._shape, self._slots
        returns, lengths, successes = (np.zeros(self._shape) for _ in range(3))
        member, episode = np.divmod(np.arange(num_members * slots), slots)  # which of them each environment plays
        observations = pool.reset(np.arange(len(member)), self._seed + episode)
        rewards, starts = np.zeros(len(member)), np.ones(len(member), bool)
        while (playing := np.flatnonzero(episode < num_episodes)).size:
            if should_stop():
                return None
            side_by_side = (x.reshape(num_members, slots, *x.shape[1:]) for x in (observations, rewards, starts))
            actions = act(*side_by_side).reshape(len(member), -1)
            pool.send(playing, actions[playing])
            steps = pool.receive()
            observations[playing], rewards[playing], starts[:] = steps.observations, steps.rewards, False
            at = member[playing], episode[playing]
            returns[at] += steps.rewards
            lengths[at] += 1
            successes[at] = np.maximum(successes[at], steps.successes)
            ended = playing[steps.terminated | steps.truncated]
            episode[ended] += slots
            again = ended[episode[ended] < num_episodes]
            if again.size:
                observations[again] = pool.reset(again, self._seed + episode[again])
                rewards[again], starts[again] = 0.0, True
        return Episodes(returns, lengths, successes if self._is_maze else None)

    def close(self) -> None:
        """Closes the environments."""
        self._pool.close()


def played_by(envs: Sequence[Env], num_members: int, num_episodes: int) -> list[list[tuple[Env, int]]]:
    """Who played each member's episodes, [M][E], and as which of its own, of all `envs` made for an `Evaluator`.

    They are in the order in which they were made, without workers. Where one failed, all were made again.
    """
    slots = min(SLOTS, num_episodes)
    newest = envs[-num_members * slots :]
    return [[(newest[m * slots + e % slots], e // slots) for e in range(num_episodes)] for m in range(num_members)]


def summary(episodes: Episodes | None, member: int, reference: Reference | None) -> dict[str, Any]:
    """One member's results as `results.json` has them; None where a value does not exist."""
    if episodes is None:
        return {'returns': None, 'lengths': None, 'success_rate': None, 'normalized_score': None}
    returns = episodes.returns[member]
    successes = None if episodes.successes is None else episodes.successes[member]
    return {
        'returns': [float(r) for r in returns],
        'lengths': [int(n) for n in episodes.lengths[member]],
        'success_rate': None if successes is None else float(successes.mean()),
        'normalized_score': normalized_score(reference, returns, successes),
    }
