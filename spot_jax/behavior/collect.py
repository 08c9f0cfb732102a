"""Parallel environments, stepped in turn; their steps become replay rows of n steps each.

An episode in flight is its seed and its actions so far: a resumed run plays them again and goes on with the same bytes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from spot_jax.behavior.policy import bounded
from spot_jax.system.errors import InputError, first_line

Act = Callable[[np.ndarray], np.ndarray]  # observations [K, O] to actions [K, A] in [-1, 1]


def make_environment(name: str) -> gym.Env:
    """The environment; raises InputError if it cannot be made or is not of the needed kind."""
    try:
        env = gym.make(name, disable_env_checker=True)
    except Exception as error:  # the environments' constructors raise many kinds
        reason = first_line(error)
        raise InputError(f'cannot make the environment {name}: {reason}') from error
    for kind, space in (('observations', env.observation_space), ('actions', env.action_space)):
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise InputError(f'{name}: {kind} must be a Box of one axis, not {space}')
    return env


class Episode(NamedTuple):
    """What has happened in an episode so far."""

    observations: list[np.ndarray]  # T + 1 of [O] float32
    actions: list[np.ndarray]  # T of [A] float32, in [-1, 1]
    rewards: list[float]  # T


def saved(episode: Episode, terminated: bool) -> dict[str, Any]:
    """A finished episode as a checkpoint has it."""
    return {name: np.array(values) for name, values in episode._asdict().items()} | {'terminated': terminated}


def restored(tree: dict[str, Any]) -> tuple[Episode, bool]:
    """What `saved` was given."""
    return Episode(*(list(tree[name]) for name in Episode._fields)), bool(tree['terminated'])


OnEpisode = Callable[[Episode, bool], None]  # a finished episode, and whether it terminated


def n_step_row(episode: Episode, start: int, discount: float, terminated: bool) -> np.ndarray:
    """The packed row [D] from step `start` to the episode's last one.

    Its reward is Σ γ^i r_i over its n steps, its mask γ^(n−1), or 0 after a terminal: then r + γ·mask·V(s') is the
    n-step return.
    """
    rewards = episode.rewards[start:]
    total = sum(discount**i * reward for i, reward in enumerate(rewards))
    mask = 0.0 if terminated else discount ** (len(rewards) - 1)
    parts: list[Any] = [episode.observations[start], episode.actions[start], [total, mask], episode.observations[-1]]
    return np.concatenate(parts).astype(np.float32)


class Collector:
    """K environments of one kind, with a seed of its own for every episode."""

    def __init__(
        self,
        make_env: Callable[[], gym.Env],
        num_envs: int,
        seed: int,
        n_step: int,
        discount: float,
        in_flight: Sequence[dict[str, Any]] = (),
        on_episode: OnEpisode | None = None,
    ):
        """Starts episodes, or those of `in_flight` again. `on_episode` gets each finished one and if it terminated."""
        self._envs = [make_env() for _ in range(num_envs)]
        space = self._envs[0].action_space
        self._low, self._high = space.low.astype(np.float32), space.high.astype(np.float32)
        self._seed, self._n_step, self._discount, self._on_episode = seed, n_step, discount, on_episode
        self._numbers = [int(saved['number']) for saved in in_flight] or [0] * num_envs
        self.episodes = [self._reset(k) for k in range(num_envs)]
        for k, saved in enumerate(in_flight):
            for action in saved['actions']:
                self._step(k, action)  # none of them ended it

    def _reset(self, k: int) -> Episode:
        seed = np.random.SeedSequence([self._seed, k, self._numbers[k]]).generate_state(1)[0]
        observation, _ = self._envs[k].reset(seed=int(seed))
        return Episode([np.asarray(observation, np.float32)], [], [])

    def _step(self, k: int, action: np.ndarray) -> tuple[bool, bool]:
        observation, reward, terminated, truncated, _ = self._envs[k].step(bounded(action, self._low, self._high))
        episode = self.episodes[k]
        episode.observations.append(np.asarray(observation, np.float32))
        episode.actions.append(action)
        episode.rewards.append(float(reward))
        return terminated, truncated

    def collect(self, act: Act, rounds: int) -> tuple[list[np.ndarray], list[float]]:
        """Takes `rounds` steps in every environment; returns the rows that are complete and the returns of episodes.

        A time-out is bootstrapped from the state that it was reached in; only a terminal is not.
        """
        rows, returns = [], []
        for _ in range(rounds):
            actions = act(np.stack([episode.observations[-1] for episode in self.episodes]))
            for k, action in enumerate(actions):
                terminated, truncated = self._step(k, action)
                episode = self.episodes[k]
                length = len(episode.actions)
                ended = terminated or truncated
                last_start = length if ended else length - self._n_step + 1
                for start in range(max(0, length - self._n_step), last_start):
                    rows.append(n_step_row(episode, start, self._discount, terminated))
                if ended:
                    returns.append(sum(episode.rewards))
                    if self._on_episode is not None:
                        self._on_episode(episode, terminated)
                    self._numbers[k] += 1
                    self.episodes[k] = self._reset(k)
        return rows, returns

    def in_flight(self) -> list[dict[str, Any]]:
        """The episodes as a checkpoint has them."""
        size = len(self._low)
        return [
            {'number': number, 'actions': np.array(episode.actions, np.float32).reshape(-1, size)}
            for number, episode in zip(self._numbers, self.episodes, strict=True)
        ]

    def close(self) -> None:
        """Closes the environments."""
        for env in self._envs:
            env.close()
