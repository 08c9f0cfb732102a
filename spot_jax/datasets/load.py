"""A Minari dataset as one packed array of transitions, under a task's rule."""

import contextlib
import hashlib
import io
import json
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from spot_jax.datasets.hdf5 import open_own
from spot_jax.datasets.recipes import RECIPES, generate
from spot_jax.errors import InputError
from spot_jax.tasks import Task

ACTION_TOLERANCE = 1e-5


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


def open_minari(dataset_id: str) -> Any:
    """The Minari dataset of an id: local, else made by its recipe, else downloaded. Raises InputError if none works."""
    import minari
    from minari.storage import get_dataset_path

    try:
        path = get_dataset_path(dataset_id)
        if not (path / 'data').exists():
            if dataset_id in RECIPES:
                print(f'{dataset_id} is not here yet: generating it', file=sys.stderr)
                generate(dataset_id)
            else:
                from huggingface_hub.utils import logging

                logging.set_verbosity_error()  # else it tells of each of its retries
                with contextlib.redirect_stdout(io.StringIO()):
                    minari.download_dataset(dataset_id)
        raw = json.loads((path / 'data' / 'metadata.json').read_text())
        if not (raw.get('observation_space') and raw.get('action_space')):
            # Minari would make the environment that the metadata name, to ask it
            raise ValueError('its metadata.json lacks observation_space or action_space')
        file = path / 'data' / 'main_data.hdf5'
        if file.exists():
            open_own(file).close()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return minari.load_dataset(dataset_id)
    except InputError:
        raise
    except Exception as error:  # Minari, its hosts' clients and h5py raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = '`python -m spot_jax.datasets list` shows what is here and what can be generated'
        if dataset_id.startswith('d4rl/'):
            hint = "make it of D4RL's file: `python -m spot_jax.datasets import-d4rl FILE.hdf5 --id=" + dataset_id + '`'
        raise InputError(f'cannot open the dataset {dataset_id!r} ({reason}); {hint}') from error


def evaluation_spec(data: Any) -> EnvSpec | None:
    """Where a Minari dataset says to evaluate: its evaluation environment, else the one it was collected in, if any.

    As it is recorded: `environments.maker` decides whether that is made.
    """
    spec = data.storage.metadata.get('eval_env_spec')
    if not spec:
        return data.spec.env_spec
    for old in ('"apply_api_compatibility": false,', '"autoreset": false, '):  # fields of gymnasium before 1.0
        spec = spec.replace(old, '')
    return EnvSpec.from_json(spec)


def check_finite(where: str, **arrays: np.ndarray) -> None:
    """Raises InputError if an array contains NaN or infinity."""
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise InputError(f'{where}: {name} contain NaN or infinity')


def check_bounds(where: str, actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Raises InputError if actions [T, A] are outside the bounds `low` and `high` [A], by more than rounding."""
    excess = max(np.max(low - actions), np.max(actions - high))
    if excess > ACTION_TOLERANCE:
        raise InputError(f'{where}: actions outside the bounds {low.min():g} to {high.max():g}, by up to {excess:.2g}')


def _episode(raw: Any, task: Task, dataset_id: str) -> tuple[np.ndarray, ...]:
    """One episode's observations [T + 1, O], actions [T, A], rewards [T], masks [T], checked."""
    where = f'{dataset_id}, episode {raw.id}'
    observations = task.observation(raw.observations)
    actions, rewards = np.asarray(raw.actions, np.float32), np.asarray(raw.rewards)
    if len(actions) == 0 or len(observations) != len(actions) + 1:
        raise InputError(f'{where}: {len(observations)} observations for {len(actions)} actions; expected one more')
    check_finite(where, observations=observations, actions=actions, rewards=rewards)
    masks = 1.0 - task.terminal(rewards, raw.terminations)
    return observations, actions, task.reward(rewards), masks


def load(dataset_id: str, task: Task) -> Dataset:
    """Loads a Minari dataset; raises InputError if it is missing, damaged, empty, or makes no sense."""
    data = open_minari(dataset_id)
    space = data.spec.action_space
    if not isinstance(space, Box) or not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise InputError(f'{dataset_id}: actions must be a Box with finite bounds, not {space}')
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    total = int(data.spec.total_steps)
    if total == 0:
        raise InputError(f'{dataset_id} is empty')
    rows, start, size = np.empty((0, 0), np.float32), 0, 0
    try:
        for raw in data.iterate_episodes():
            observations, actions, rewards, masks = _episode(raw, task, dataset_id)
            if start == 0:
                size, a = observations.shape[1], actions.shape[1]
                rows = np.empty((total, 2 * size + a + 2), np.float32)
            if observations.shape[1] != size:
                raise InputError(f'{dataset_id}, episode {raw.id}: observations of {observations.shape[1]}, not {size}')
            check_bounds(f'{dataset_id}, episode {raw.id}', actions, low, high)
            unit = np.clip(2 * (actions - low) / (high - low) - 1, -1, 1)
            columns = [observations[:-1], unit, rewards[:, None], masks[:, None], observations[1:]]
            np.concatenate(columns, axis=1, out=rows[start : start + len(actions)], casting='same_kind')
            start += len(actions)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise InputError(
            f'{dataset_id} is damaged: {str(error).splitlines()[0]}; delete it and get it again'
        ) from error
    if start != total:
        raise InputError(f'{dataset_id} is damaged: its episodes have {start} steps, its metadata say {total}')
    sha256 = hashlib.sha256(rows.data).hexdigest()
    return Dataset(rows, size, len(low), low, high, dataset_id, sha256, evaluation_spec(data))
