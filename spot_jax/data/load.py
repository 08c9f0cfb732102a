"""A Minari dataset as one packed array of transitions, under a task's rule."""

import contextlib
import hashlib
import json
import math
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium.envs.registration import EnvSpec

from spot_jax.acting.tasks import Reference, Task, describe, layout, reference, vectorizer
from spot_jax.data.checks import action_bounds, check_finite, excess, flags, numbers, outside, unit_actions
from spot_jax.data.download import download
from spot_jax.data.hdf5 import check_own
from spot_jax.data.store import check_id, make_once, root
from spot_jax.storage.checkpoint import read_file
from spot_jax.system.errors import InputError, first_line
from spot_jax.system.memory import Part, host_memory, require_room


class Dataset(NamedTuple):
    """Transitions and where they came from."""

    transitions: np.ndarray  # [N, 2 * O + A + 2] float32, columns as `types.unpack` has them, actions in [-1, 1]
    observation_dim: int
    action_dim: int
    action_low: np.ndarray  # [A], of the environment's action Box
    action_high: np.ndarray
    dataset_id: str
    sha256: str  # of the packed rows
    environment: EnvSpec | None  # where to evaluate, as the dataset records it
    reference: Reference | None  # what a normalised score is measured by there
    layout: list[tuple[str, tuple[int, ...]]] | None  # of the observations, if they were flattened; see `tasks.layout`
    lengths: np.ndarray  # [E], transitions of each episode, in order


def open_minari(dataset_id: str) -> Any:
    """The Minari dataset of an id: local, else downloaded. Raises InputError if neither works."""
    import minari

    check_id(dataset_id)
    top = root()
    is_new = not top.exists()
    path = top / dataset_id
    try:
        if not (path / 'data').exists():
            make_once(dataset_id, download)
        raw = json.loads(read_file(path / 'data' / 'metadata.json'))
        if not (raw.get('observation_space') and raw.get('action_space')):
            # Minari would make the environment that the metadata name, to ask it
            raise ValueError('its metadata.json lacks observation_space or action_space')
        check_own(path / 'data')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return minari.load_dataset(dataset_id)
    except InputError:
        raise
    except Exception as error:  # Minari, its hosts' clients and h5py raise many kinds
        hint = '`python -m spot_jax.datasets list` shows what is here and what can be generated'
        if is_new:
            hint = f'the folder of the datasets, {top}, did not exist (MINARI_DATASETS_PATH names it)'
            with contextlib.suppress(OSError):
                top.rmdir()  # Minari has made it
        if dataset_id.startswith('d4rl/'):
            hint = "make it of D4RL's file: `python -m spot_jax.datasets import-d4rl FILE.hdf5 --id=" + dataset_id + '`'
        raise InputError(f'cannot open the dataset {dataset_id!r} ({first_line(error)}); {hint}') from error


def evaluation_spec(data: Any) -> EnvSpec | None:
    """Where a Minari dataset says to evaluate: its evaluation environment, else the one it was collected in, if any.

    As it is recorded: `environments.maker` decides whether that is made.
    """
    return data._eval_env_spec or data.env_spec  # Minari has left out fields of gymnasium before 1.0


def reference_of(data: Any, task: Task) -> Reference | None:
    """The returns that measure a normalised score where a Minari dataset says to evaluate; see `tasks.reference`."""
    spec = evaluation_spec(data)
    return reference(spec.id if spec else None, data.storage.metadata, task.is_maze)


class Selection(NamedTuple):
    """Which episodes are learned from: those that meet both conditions. Returns are sums of the file's rewards."""

    min_return: float | None = None
    best_percent: float | None = None  # so many of all episodes, rounded up, those of the highest returns

    def keep(self, dataset_id: str, returns: np.ndarray) -> np.ndarray:
        """Which of the episodes of these returns [E] are taken, [E] bool; raises InputError if none is."""
        chosen = np.ones(len(returns), bool)
        if self.best_percent is not None:
            count = max(1, math.ceil(round(len(returns) * self.best_percent / 100, 6)))
            chosen[np.argsort(-returns, kind='stable')[count:]] = False
        if self.min_return is not None:
            chosen &= returns >= self.min_return
        if not chosen.any():
            wanted = f'config.episodes.min_return={self.min_return:g}'
            raise InputError(f'{dataset_id}: no episode has {wanted}; the best one has {returns.max():g}')
        return chosen


EVERYTHING = Selection()


class _Reader:
    """Reads episodes as a task has them, checked."""

    def __init__(self, data: Any, dataset_id: str, task: Task):
        """Raises InputError if the spaces are of kinds that are not supported."""
        self._dataset_id, self._task, self._space = dataset_id, task, data.observation_space
        self._vectors = vectorizer(task, self._space, dataset_id)
        with np.errstate(over='ignore'):  # of bounds beyond float32
            self.observation_dim: int = self._vectors(self._space.sample()).shape[-1]
        self.low, self.high = action_bounds(dataset_id, data.action_space)

    def episode(self, raw: Any) -> tuple[np.ndarray, ...]:
        """Observations [T + 1, O], actions [T, A], the file's and the task's rewards [T], masks [T]; T may be 0."""
        where = f'{self._dataset_id}, episode {raw.id}'
        length = (np.shape(raw.actions) or (0,))[0]
        actions = numbers(where, 'actions', raw.actions, (length, len(self.low)))
        rewards = numbers(where, 'rewards', raw.rewards, (length,))
        terminations = flags(where, 'terminations', raw.terminations, length)
        observations = self._observations(where, raw.observations)
        if len(observations) != length + 1 and (length or len(observations)):
            raise InputError(f'{where}: {len(observations)} observations for {length} actions; expected one more')
        check_finite(where, observations=observations, actions=actions, rewards=rewards)
        try:
            learned = self._task.reward(rewards)
        except InputError as error:
            raise InputError(f'{where}: {error}') from error
        masks = 1.0 - self._task.terminal(rewards, terminations)
        return observations, actions.astype(np.float32), rewards, learned, masks

    def _observations(self, where: str, raw: Any) -> np.ndarray:
        try:
            with np.errstate(over='ignore'):
                observations = self._vectors(raw)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'{where}: observations are not {describe(self._space)}, as the metadata say') from error
        if observations.ndim != 2 or observations.shape[1] != self.observation_dim:
            expected = f'[steps + 1, {self.observation_dim}]'
            raise InputError(f'{where}: observations have the shape {observations.shape}, expected {expected}')
        return observations


def _episodes(data: Any, dataset_id: str) -> Iterator[Any]:
    """The episodes of a Minari dataset; raises InputError if one cannot be read."""
    number = 0
    try:
        for raw in data.iterate_episodes():
            yield raw
            number += 1
    except Exception as error:  # Minari and the libraries that it reads files with raise many kinds
        reason = 'its files are damaged, or are not of the spaces that its metadata name'
        raise InputError(
            f'{dataset_id} cannot be read after {number} episodes ({first_line(error)}): {reason}'
        ) from error


def _empty_rows(data: Any, dataset_id: str, width: int) -> np.ndarray:
    """An array for all transitions, [N, width] float32."""
    try:
        total = int(data.total_steps)
    except Exception as error:  # of a part of the episodes it is read from the files
        raise InputError(f'{dataset_id} is damaged ({first_line(error)}): make or get it again') from error
    if total <= 0:
        raise InputError(f'{dataset_id} is empty: it has no transitions')
    part = Part(f'the {total} transitions of {dataset_id}', 4 * total * width, "the dataset's size")
    require_room([part], host_memory(), 'this machine')
    return np.empty((total, width), np.float32)


def held_id(dataset: Any) -> str:
    """The id of a dataset that Python holds; raises InputError if it is no Minari dataset."""
    from minari import MinariDataset

    if not isinstance(dataset, MinariDataset):
        raise InputError(
            f'a dataset that Python holds is a minari.MinariDataset, but no {type(dataset).__name__}; '
            "the id of one is the config's dataset_id"
        )
    return dataset.id


def load(source: Any, task: Task, clip_actions: bool = False, selection: Selection = EVERYTHING) -> Dataset:
    """Loads a Minari dataset, of an id or as Python holds it; actions outside their bounds are an error, or clipped.

    Raises InputError if it is missing, damaged, empty, of a kind that is not supported, or makes no sense.
    """
    dataset_id = source if isinstance(source, str) else held_id(source)
    if isinstance(source, str):
        data = open_minari(source)
    else:
        data = source
        check_own(data.storage.data_path)
    reader = _Reader(data, dataset_id, task)
    low, high, size = reader.low, reader.high, reader.observation_dim
    rows = _empty_rows(data, dataset_id, 2 * size + len(low) + 2)
    start, empty, returns, lengths, beyond = 0, 0, [], [], []
    for raw in _episodes(data, dataset_id):
        observations, actions, own_rewards, rewards, masks = reader.episode(raw)
        stop = start + len(actions)
        if start == stop:
            empty += 1
            continue
        if stop <= len(rows):
            worst = excess(actions, low, high)
            beyond += [worst] if worst else []
            unit = unit_actions(actions, low, high)
            columns = [observations[:-1], unit, rewards[:, None], masks[:, None], observations[1:]]
            np.concatenate(columns, axis=1, out=rows[start:stop], casting='same_kind')
        returns.append(own_rewards.sum(dtype=np.float64))
        lengths.append(len(actions))
        start = stop
    if start != len(rows):
        raise InputError(f'{dataset_id} is damaged: its episodes have {start} steps, its metadata say {len(rows)}')
    if beyond and not clip_actions:
        raise InputError(
            f'{dataset_id}: {outside(max(beyond), low, high)}, in {len(beyond)} of {len(lengths)} episodes; '
            '--config.clip_actions=True clips them'
        )
    if beyond:
        print(f'{dataset_id}: {len(beyond)} of {len(lengths)} episodes have {outside(max(beyond), low, high)}: clipped')
    if empty:
        print(f'{dataset_id}: {empty} episodes without steps are left out', file=sys.stderr)
    kept = selection.keep(dataset_id, np.array(returns))
    if selection != EVERYTHING:
        rows = rows[np.repeat(kept, lengths)]
        print(f'{dataset_id}: {kept.sum()} of {len(kept)} episodes are kept, with {len(rows)} transitions')
    return Dataset(
        rows,
        size,
        len(low),
        low,
        high,
        dataset_id,
        hashlib.sha256(rows.data).hexdigest(),
        evaluation_spec(data),
        reference_of(data, task),
        layout(data.observation_space) if task.flatten else None,
        np.array(lengths)[kept],
    )
