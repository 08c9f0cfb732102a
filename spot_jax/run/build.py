"""What a run is made of, from its config and its dataset: the method's parts, scaling, the data on the device."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spot_jax.acting.scaling import Scaling
from spot_jax.core.method import Algorithm, Data, Method, Stage
from spot_jax.data.load import Dataset, Selection
from spot_jax.methods import METHODS, options
from spot_jax.system.errors import InputError


class Parts(NamedTuple):
    """What a run trains."""

    method: Method
    algorithm: Algorithm
    stages: tuple[Stage, ...]

    def phases(self) -> tuple[str, ...]:
        """The run's phases in order: a checkpoint's number tells of them, so that without stages one place is free."""
        return (*([stage.name for stage in self.stages] or ['']), 'offline', 'online')


def build(config: ConfigDict, observation_dim: int, action_dim: int) -> Parts:
    """What a run of this config trains on data of these sizes."""
    method, own = METHODS[config.method], options(config)
    if 'schedule_steps' in own:
        steps = None if config.online.steps else own.schedule_steps or config.offline.steps
        own = ConfigDict({**own, 'schedule_steps': steps})
    arguments = own, observation_dim, action_dim
    return Parts(method, method.make(*arguments), method.stages(*arguments))


def parts_of(config: ConfigDict, state: Mapping[str, Any]) -> Parts:
    """What a run with this checkpoint trains."""
    return build(config, len(state['scaling']['mean']), len(state['scaling']['action_low']))


def selection_of(config: ConfigDict) -> Selection:
    """The episodes that are learned from: those of the config, and of these those that its method takes."""
    percent = options(config).get('percent')
    if percent is not None and config.episodes.best_percent is not None:
        raise InputError(f'config.episodes.best_percent: {config.method} chooses by config.{config.method}.percent')
    return Selection(config.episodes.min_return, config.episodes.best_percent or percent)


class Rewards(NamedTuple):
    """What is learned from in place of a task's rewards: scale · (reward + shift)."""

    scale: float = 1.0
    shift: float = 0.0

    def of(self, rewards: np.ndarray) -> np.ndarray:
        """What is learned from, of a task's rewards of any shape."""
        return rewards if self == (1.0, 0.0) else self.scale * (rewards + self.shift)


def rewards_of(options: Any, dataset: Dataset) -> Rewards:
    """What a method's `options` make of the rewards; it is the same for new transitions, online.

    Raises InputError if they are to be divided by a range of returns that is none.
    """
    scale, shift = options.get('reward_scale', 1.0), options.get('reward_shift', 0.0)
    if options.get('normalize_rewards', False):
        rewards = dataset.transitions[:, dataset.observation_dim + dataset.action_dim]
        returns = np.add.reduceat(rewards.astype(np.float64), np.cumsum([0, *dataset.lengths[:-1]]))
        spread = float(returns.max() - returns.min())
        if spread == 0:
            raise InputError(f'{dataset.dataset_id}: all its episodes have one return: set normalize_rewards to false')
        scale *= 1000 / spread
    return Rewards(scale, shift)


def prepare(dataset: Dataset, options: Any) -> tuple[Scaling, Rewards]:
    """Makes of the dataset, in place, what a method's `options` say, and tells how the same is done online.

    Those that a method has of: `normalize_observations`, (s − mean) / (std + 1e-3); `reward_scale`, `reward_shift` and
    `normalize_rewards`, see `Rewards`, the last so that returns span 1000; `action_clip`, a bound of its actions.
    """
    o, a, rows = dataset.observation_dim, dataset.action_dim, dataset.transitions
    mean, std = np.zeros(o, np.float32), np.ones(o, np.float32)
    if options.normalize_observations:
        mean = rows[:, :o].mean(axis=0, dtype=np.float64).astype(np.float32)
        std = (rows[:, :o].std(axis=0, dtype=np.float64) + 1e-3).astype(np.float32)
        for columns in (rows[:, :o], rows[:, -o:]):
            columns -= mean
            columns /= std
    if options.get('action_clip') is not None:
        rows[:, o : o + a] = np.clip(rows[:, o : o + a], -options.action_clip, options.action_clip)
    rewards = rewards_of(options, dataset)
    rows[:, o + a] = rewards.of(rows[:, o + a])
    return Scaling(mean, std, dataset.action_low, dataset.action_high), rewards


def discounted_returns_to_go(rewards: np.ndarray, masks: np.ndarray, last: np.ndarray, discount: float) -> np.ndarray:
    """Discounted rewards from each row [N] on, to the first terminal; one that is cut off repeats its last for ever."""
    returns_to_go, following = rewards.astype(np.float64), 0.0
    for i in reversed(range(len(rewards))):
        if i == last[i]:
            following = returns_to_go[i] / (1 - discount)
        following = returns_to_go[i] = returns_to_go[i] + discount * masks[i] * following
    return returns_to_go


def data_of(dataset: Dataset, discount: float = 1.0) -> Data:
    """The transitions and what is known of their episodes, which end at terminals, too: data may go on after them.

    Of `discount`, see `Method.returns_discount`.
    """
    rows = dataset.transitions
    rewards, masks = rows[:, dataset.observation_dim + dataset.action_dim :][:, :2].T
    lengths = np.diff(np.union1d(np.cumsum(dataset.lengths) - 1, np.flatnonzero(masks == 0)), prepend=-1)
    last = np.repeat(np.cumsum(lengths) - 1, lengths)
    first = last - np.repeat(lengths, lengths) + 1
    if discount < 1:
        returns_to_go = discounted_returns_to_go(rewards, masks, last, discount)
    else:
        sums = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])
        returns_to_go = sums[last + 1] - sums[:-1]
    return Data(
        *map(jnp.asarray, (rows, first.astype(np.int32), last.astype(np.int32), returns_to_go.astype(np.float32)))
    )
