"""Trained policies as plain functions of observations, normalisation and action bounds included.

policy = spot_jax.policy.load('runs/umaze')
actions = policy(observations)
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from spot_jax import checkpoint
from spot_jax.errors import InputError
from spot_jax.networks import Actor
from spot_jax.types import Params


class Scaling(NamedTuple):
    """How raw observations become the network's, and its actions the environment's."""

    mean: np.ndarray  # [O]
    std: np.ndarray  # [O], with the 1e-3 already added
    action_low: np.ndarray  # [A]
    action_high: np.ndarray


def batched_act(actor: Actor) -> Callable[[Params, np.ndarray, Scaling], np.ndarray]:
    """A compiled `(params [M], observations [M, K, O], scaling) -> actions [M, K, A]`, without dropout or noise."""
    forward = jax.jit(jax.vmap(actor.apply))

    def act(params: Params, observations: np.ndarray, scaling: Scaling) -> np.ndarray:
        unit = np.asarray(forward(params, ((observations - scaling.mean) / scaling.std).astype(np.float32)))
        return scaling.action_low + (unit + 1) / 2 * (scaling.action_high - scaling.action_low)

    return act


def read_run(workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's config and newest checkpoint, as nested dicts; raises InputError if there are none."""
    path = workdir / 'config.json'
    if not path.exists():
        raise InputError(f'{workdir} is no run: it has no config.json')
    state, _ = checkpoint.restore(workdir / 'checkpoints')
    if state is None or state['phase'] != 'offline':
        raise InputError(f'the run in {workdir} has no trained policy yet: let it go on training')
    return json.loads(path.read_text()), state


def load(workdir: str | Path, member: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """A run's policy: raw observations `[..., O]` (the task's flat vectors) to the environment's actions `[..., A]`.

    Raises InputError if there is no such run or member.
    """
    config, state = read_run(Path(workdir))
    params = state['learner']['actor']['params']
    shape = state['alive'].shape
    if not 0 <= member < np.prod(shape):
        raise InputError(f'no member {member}: the run has members 0 to {np.prod(shape) - 1}')
    index = np.unravel_index(member, shape)
    scaling = Scaling(**state['scaling'])
    hidden = tuple(config['actor']['hidden_dims'])
    act = batched_act(Actor(len(scaling.action_low), hidden, None, config['actor']['dropout']))
    chosen = jax.tree.map(lambda x: np.asarray(x)[index][None], params)

    def policy(observations: np.ndarray) -> np.ndarray:
        observations = np.asarray(observations, np.float32)
        flat = observations.reshape(1, -1, observations.shape[-1])
        return act(chosen, flat, scaling)[0].reshape(*observations.shape[:-1], -1)

    return policy
