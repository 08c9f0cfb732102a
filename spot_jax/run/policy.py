"""Trained policies as plain functions of observations, normalisation and action bounds included.

policy = spot_jax.load_policy('runs/umaze')
actions = policy(observations)
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from ml_collections import ConfigDict

from spot_jax.acting import evaluation
from spot_jax.acting.scaling import Scaling
from spot_jax.acting.tasks import Task, task_of
from spot_jax.core.method import Algorithm
from spot_jax.core.types import Array, Params
from spot_jax.population import program
from spot_jax.population.members import Population
from spot_jax.run.build import parts_of
from spot_jax.run.config import members
from spot_jax.run.workdir import read_run
from spot_jax.storage.folder import place_of
from spot_jax.system.errors import InputError, first_line


def snapshot(params: Params) -> Params:
    """A copy of parameters on the CPU, to act with: elsewhere acting would queue behind the training's scans."""
    try:
        device = jax.local_devices(backend='cpu')[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        device = jax.local_devices()[0]
    return jax.device_put(jax.tree.map(np.array, params), device)


class Actors:
    """Policies that act side by side, each in K environments, without noise; they remember their episodes."""

    def __init__(self, algorithm: Algorithm, task: Task):
        self._memory, self._task = algorithm.memory(), task

        def act(policies: Params, memory: Any, observations: Array, rewards: Array, starts: Array) -> Any:
            begin = lambda fresh, kept: jnp.where(starts.reshape(starts.shape + (1,) * (kept.ndim - 2)), fresh, kept)
            memory = jax.tree.map(begin, self._memory, memory)
            over_environments = jax.vmap(algorithm.act, (None, 0, 0, 0))
            return jax.vmap(over_environments)(policies, memory, observations, rewards)

        self._act = jax.jit(act)

    def play(self, policies: Params, scaling: Scaling) -> evaluation.Act:
        """`(observations [M, K, O], rewards [M, K], starts [M, K]) -> actions [M, K, A]` of policies [M].

        Rewards are the environments', of the steps before; `starts` tells where an episode begins. Policies see what
        the task makes of them.
        """
        memory: Any = None

        def act(observations: np.ndarray, rewards: np.ndarray, starts: np.ndarray) -> np.ndarray:
            nonlocal memory
            if memory is None:
                repeat = lambda x: jnp.broadcast_to(x, (*starts.shape, *jnp.shape(x)))
                memory = jax.tree.map(repeat, self._memory)
            if jax.tree.leaves(memory):  # else nothing looks at them, and the task need not know such
                rewards = np.where(starts, 0.0, self._task.reward(rewards))
            rewards = rewards.astype(np.float32)
            actions, memory = self._act(policies, memory, scaling.normalized(observations), rewards, starts)
            return scaling.bounded(np.asarray(actions))

        return act


def trained(config: ConfigDict, state: Mapping[str, Any]) -> tuple[Population, Algorithm, Any]:
    """A run's members, how they learn, and the learners [C, P, ...] of its checkpoint."""
    everyone, algorithm = members(config), parts_of(config, state).algorithm
    init = partial(program.init_policies, num_settings=everyone.shape[1], algorithm=algorithm)
    fresh = jax.eval_shape(init, everyone.seeds()).learner
    return everyone, algorithm, serialization.from_state_dict(fresh, state['learner'])


def untrained(config: ConfigDict, state: Mapping[str, Any]) -> dict[str, Any]:
    """A run's checkpoint with its learners as they began."""
    everyone, algorithm = members(config), parts_of(config, state).algorithm
    fresh = program.init_policies(everyone.seeds(), everyone.shape[1], algorithm)
    return {**state, 'learner': serialization.to_state_dict(fresh.learner)}


def whole_member(member: Any, count: int) -> int:
    """A member's number, of whatever type of whole numbers; raises InputError if there is none of it."""
    try:
        number = operator.index(member)
    except TypeError:
        number = -1
    if isinstance(member, bool) or not 0 <= number < count:
        raise InputError(f'no member {member!r}: the run has members 0 to {count - 1}')
    return number


def players(config: Mapping[str, Any], state: Mapping[str, Any], chosen: Sequence[int]) -> evaluation.Act:
    """The policies of some members side by side, from a run's config and checkpoint; see `Actors.play`.

    Raises InputError if there is no such member.
    """
    chosen = [whole_member(member, state['alive'].size) for member in chosen]
    everyone, algorithm, learner = trained(ConfigDict(config), state)
    policies = program.policies_of(algorithm, learner, state['density_params'], everyone.hyperparameters())
    some = jax.tree.map(lambda x: np.asarray(x)[np.array(chosen)], policies)
    return Actors(algorithm, task_of(config)).play(some, Scaling(**state['scaling']))


def vectors(observations: Any, task: Task, size: int) -> np.ndarray:
    """Observations as the policy's vectors [..., O], O = `size`; of mazes also the dicts that these give.

    Raises InputError if they are none.
    """
    of_dicts = 'or the dicts that the maze gives' if task.is_maze else 'which spot_jax.flatten makes of dicts'
    of_vectors = task.observation if task.is_maze and isinstance(observations, Mapping) else lambda raw: raw
    return finite('observations', lambda: of_vectors(observations), size, f', {of_dicts}')


def finite(name: str, read: Callable[[], Any], size: int, more: str = '') -> np.ndarray:
    """What `read` returns, as float32 [..., `size`]; raises InputError, with `more` in it, unless these are numbers."""
    expected = f'expected finite numbers [..., {size}]{more}'
    try:
        with np.errstate(over='ignore'):  # what float32 cannot hold is refused below
            found = np.asarray(read(), np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'{name} cannot be read ({first_line(error)}): {expected}') from error
    if found.shape[-1:] != (size,):
        raise InputError(f'{name} of shape {found.shape}: {expected}')
    if not np.isfinite(found).all():
        raise InputError(f'{name} contain NaN or infinity: {expected}')
    return found


def load(workdir: str | Path, member: int = 0) -> Callable[..., np.ndarray]:
    """A run's policy: raw observations `[..., O]` to the environment's actions `[..., A]`.

    In mazes, observations are the dicts that these give, or vectors of position and proprioception. Of a run with
    `flatten_observations`, they are vectors that `spot_jax.flatten` makes: dicts in the alphabetical order of their
    keys, tuples in their own, arrays row by row. A policy that remembers its episodes takes, too, the environment's
    rewards of the steps before and whether an episode starts, `[...]` each; by default, each call starts one.
    Raises InputError if there is no such run or member.
    """
    config, state = read_run(place_of(workdir))
    act, task = players(config, state, [member]), task_of(config)
    size, action_dim = len(state['scaling']['mean']), len(state['scaling']['action_low'])

    def policy(observations: Any, rewards: Any = 0.0, starts: Any = True) -> np.ndarray:
        observations = vectors(observations, task, size)
        axes = observations.shape[:-1]
        try:
            kinds = (rewards, np.float32), (starts, bool)
            side_by_side = [np.broadcast_to(np.asarray(x, kind), axes).reshape(1, -1) for x, kind in kinds]
        except (TypeError, ValueError) as error:
            raise InputError(f'rewards and starts: expected numbers and truth values of shape {axes}') from error
        return act(observations.reshape(1, -1, size), *side_by_side)[0].reshape(*axes, action_dim)

    return policy
