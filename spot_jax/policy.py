"""Trained policies as plain functions of observations, normalisation and action bounds included.

policy = spot_jax.policy.load('runs/umaze')
actions = policy(observations)
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spot_jax.errors import InputError
from spot_jax.networks import Actor
from spot_jax.scaling import Scaling
from spot_jax.types import Params
from spot_jax.workdir import read_run


def snapshot(params: Params) -> Params:
    """A copy of parameters on the CPU, to act with: elsewhere acting would queue behind the training's scans."""
    try:
        device = jax.local_devices(backend='cpu')[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        device = jax.local_devices()[0]
    return jax.device_put(jax.tree.map(np.array, params), device)


def batched_act(actor: Actor) -> Callable[[Params, np.ndarray, Scaling], np.ndarray]:
    """A compiled `(params [M], observations [M, K, O], scaling) -> actions [M, K, A]`, without dropout or noise."""
    forward = jax.jit(jax.vmap(actor.apply))

    def act(params: Params, observations: np.ndarray, scaling: Scaling) -> np.ndarray:
        return scaling.bounded(np.asarray(forward(params, scaling.normalized(observations))))

    return act


def policy_of(config: Mapping[str, Any], state: Mapping[str, Any], member: int) -> Callable[[np.ndarray], np.ndarray]:
    """The policy of one member, from a run's config and checkpoint; see `load`."""
    shape = state['alive'].shape
    if not 0 <= member < state['alive'].size:
        raise InputError(f'no member {member}: the run has members 0 to {state["alive"].size - 1}')
    index = np.unravel_index(member, shape)
    params = jax.tree.map(lambda x: np.asarray(x)[index][None], state['learner']['actor']['params'])
    scaling = Scaling(**state['scaling'])
    act = batched_act(Actor(len(scaling.action_low), tuple(config['actor']['hidden_dims'])))

    def policy(observations: np.ndarray) -> np.ndarray:
        try:
            observations = np.asarray(observations, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError('observations must be vectors: spot_jax.tasks.flatten makes them of dicts') from error
        if observations.shape[-1:] != scaling.mean.shape:
            raise InputError(f'observations of shape {observations.shape}: the policy takes [..., {len(scaling.mean)}]')
        flat = observations.reshape(1, -1, observations.shape[-1])
        return act(params, flat, scaling)[0].reshape(*observations.shape[:-1], -1)

    return policy


def load(workdir: str | Path, member: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """A run's policy: raw observations `[..., O]` (the task's flat vectors) to the environment's actions `[..., A]`.

    Of a run with `flatten_observations`, the vectors are those that `tasks.flatten` makes: dicts in the alphabetical
    order of their keys, tuples in their own, arrays row by row.
    Raises InputError if there is no such run or member.
    """
    return policy_of(*read_run(Path(workdir)), member)
