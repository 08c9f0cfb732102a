"""Locomotion datasets made on the spot, by D4RL's protocol on gymnasium's v5 environments.

*medium* and *expert* are samples of the shipped policies, *random* is uniform actions, *medium-expert* is the first
halves of both sets, and *medium-replay* is everything that the medium policy saw while training: it is trained again.
"""

import functools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from spot_jax import behavior
from spot_jax.acting.tasks import REFERENCE_RETURNS, family
from spot_jax.behavior.policy import bounded
from spot_jax.behavior.settings import SETTINGS
from spot_jax.data.hdf5 import write_episodes
from spot_jax.data.store import Recipe, Request, metadata, new_dataset, resumable
from spot_jax.recipes import parallel

ROBOTS = ('hopper', 'halfcheetah', 'walker2d')
SOURCES = ('random', 'medium', 'expert')
TRANSITIONS = 1_000_000

# What each kind is made of, in equal parts.
KINDS = {
    'random': ('random',),
    'medium': ('medium',),
    'expert': ('expert',),
    'medium-expert': ('medium', 'expert'),
}


@functools.cache
def _environment(robot: str) -> gym.Env:
    return gym.make(SETTINGS[robot].environment, disable_env_checker=True)


@functools.cache
def _policy(name: str) -> behavior.Policy:
    return behavior.load(name)


def _stored(
    observations: list[np.ndarray], actions: list[np.ndarray], rewards: list[float], terminated: bool
) -> dict[str, Any]:
    """An episode of T steps (T + 1 observations) as Minari has it; what did not terminate was truncated."""
    last = np.arange(len(actions)) == len(actions) - 1
    return {
        'observations': np.array(observations, np.float32),
        'actions': np.array(actions, np.float32),
        'rewards': np.array(rewards),
        'terminations': last & terminated,
        'truncations': last & (not terminated),
    }


def play(robot: str, source: str, seed: int, number: int) -> dict[str, Any]:
    """Episode `number` of a source: it depends on these arguments alone."""
    env = _environment(robot)
    policy = None if source == 'random' else _policy(f'{robot}-{source}')
    rng = np.random.default_rng([seed, SOURCES.index(source), number])
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    low, high = env.action_space.low, env.action_space.high
    observations, actions, rewards = [observation], [], []
    ended = terminated = False
    while not ended:
        if policy is None:
            action = rng.uniform(low, high).astype(np.float32)
        else:
            action = policy(observation, rng.standard_normal(len(low), np.float32))
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        ended = terminated or truncated
    return _stored(observations, actions, rewards, terminated)


def _sampled(robot: str, kind: str, request: Request, parts: Path) -> Iterator[Any]:
    """Episodes of a kind's sources, one after another, an equal share of the transitions each."""
    sources, total = KINDS[kind], request.transitions or TRANSITIONS
    for i, source in enumerate(sources):
        number = total * (i + 1) // len(sources) - total * i // len(sources)
        if number:
            plays = partial(play, robot, source, request.seed)
            yield from parallel.episodes(plays, number, request.workers, parts / source)


def _replayed(robot: str, request: Request, parts: Path) -> Iterator[Any]:
    """All episodes of a training that stops once it is medium, in the order in which they ended."""
    from minari.data_collector import EpisodeBuffer

    from spot_jax.behavior import training

    seen = training.medium_replay(SETTINGS[robot], request.seed, parts / 'training')
    left = sum(len(episode.actions) for episode, _ in seen)
    left = min(left, request.transitions or left)
    env = _environment(robot)
    low, high = env.action_space.low, env.action_space.high
    for episode, terminated in seen:
        if left == 0 or not episode.actions:
            continue
        actions = [bounded(action, low, high) for action in episode.actions]
        stored = parallel.cut(_stored(episode.observations, actions, episode.rewards, terminated), left)
        left -= len(stored['actions'])
        yield EpisodeBuffer(**stored)


def generate(robot: str, kind: str, request: Request) -> None:
    """Makes one robot's dataset of one kind."""
    from minari.dataset.minari_storage import MinariStorage

    for source in KINDS.get(kind, ()):
        if source != 'random':
            _policy(f'{robot}-{source}')  # says so at once if it is not shipped
    env = _environment(robot)
    spaces = {
        'observation_space': gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32),
        'action_space': env.action_space,
    }
    with new_dataset(request.dataset_id, request.overwrite) as folder, resumable(request) as parts:
        storage = MinariStorage.new(folder / 'data', env_spec=env.spec, **spaces)
        replayed = kind == 'medium-replay'
        write_episodes(storage, _replayed(robot, request, parts) if replayed else _sampled(robot, kind, request, parts))
        storage.update_metadata(_metadata(robot, kind, request, storage.total_steps, env))


def _metadata(robot: str, kind: str, request: Request, transitions: int, env: gym.Env) -> dict[str, Any]:
    low, high = REFERENCE_RETURNS[family(env.spec.id)]
    algorithm = {
        'random': 'uniform actions',
        'medium-replay': "SAC's experience until it was medium (python -m spot_jax.behavior train)",
    }.get(kind, 'samples of SAC policies: ' + ', '.join(f'{robot}-{source}' for source in KINDS.get(kind, ())))
    description = (
        f'Generated by spot_jax by the protocol of D4RL ({transitions} transitions, seed {request.seed}); '
        'not D4RL data. '
        f"The environment is gymnasium's {env.spec.id}; the reference scores are D4RL's, of its v2 environments."
    )
    labels = metadata(request.dataset_id, env.spec, algorithm, 'spot_jax/recipes/locomotion.py', description)
    return labels | {'ref_min_score': low, 'ref_max_score': high}


RECIPES = {
    f'spot_jax/{robot}/{kind}-v0': Recipe(
        None if kind == 'medium-replay' else TRANSITIONS, partial(generate, robot, kind)
    )
    for robot in ROBOTS
    for kind in ('random', 'medium', 'medium-replay', 'expert', 'medium-expert')
}
