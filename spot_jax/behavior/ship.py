"""Trained policies into the package: the weights, and a card that says where they are from and what they do."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np

from spot_jax.acting import environments
from spot_jax.behavior.driver import ACTION_NOISE, trips
from spot_jax.behavior.policy import WEIGHTS, Policy, read
from spot_jax.behavior.settings import SETTINGS
from spot_jax.storage.outputs import require_free, write_all
from spot_jax.system.errors import InputError, first_line

SEED = 20_000  # of the first episode: no training or evaluation during training uses it
EPISODES = 100


def returns(policy: Policy, environment: str, seeds: range) -> np.ndarray:
    """Returns `[E]` of episodes in which the policy acts as it samples, one for each seed."""
    env = gym.make(environment, disable_env_checker=True)
    totals = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        observation, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            noise = rng.standard_normal(len(policy.action_low), np.float32)
            observation, reward, terminated, truncated, _ = env.step(policy(observation, noise))
            total, ended = total + float(reward), terminated or truncated
        totals.append(total)
    env.close()
    return np.array(totals)


def maze_success(policy: Policy, seeds: range) -> dict[str, dict[str, float]]:
    """What trips from start to goal of each AntMaze come to, with the datasets' action noise."""
    results = {}
    for name in environments.ANT_MAZES:
        reached, lengths = trips(policy, name, seeds)
        results[name] = {
            'success_rate': round(float(reached.mean()), 4),
            'steps_of_successes': round(float(lengths[reached].mean()), 1) if reached.any() else float('nan'),
        }
    return results


class Training(NamedTuple):
    """Where a policy is from."""

    robot: str  # of `SETTINGS`
    seed: int
    steps: int  # environment steps until then


def training_of(workdir: Path, kind: str) -> Training:
    """What a training's folder says of its policy `kind`; raises InputError if it is none."""
    try:
        config = json.loads((workdir / 'config.json').read_text())
        steps = int((workdir / f'{kind}.step').read_text())
        robots = {settings.environment: robot for robot, settings in SETTINGS.items()}
        if config['environment'] not in robots:
            raise ValueError(f'{config["environment"]!r} is the environment of no robot')
        return Training(robots[config['environment']], int(config['seed']), steps)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'{workdir} is no training of a behaviour policy: {first_line(error)}') from error


def card(policy: Policy, training: Training) -> dict[str, Any]:
    """What is to be known of a policy; plays `EPISODES` episodes of each sort."""
    environment = SETTINGS[training.robot].environment
    seeds = range(SEED, SEED + EPISODES)
    totals = returns(policy, environment, seeds)
    facts = {
        'environment': environment,
        'versions': {'gymnasium': gym.__version__, 'mujoco': mujoco.__version__},
        'algorithm': 'SAC, see spot_jax/behavior/settings.py',
        'environment_steps': training.steps,
        'seed': training.seed,
        'episodes': EPISODES,
        'first_seed': SEED,
        'return_mean': round(float(totals.mean()), 2),
        'return_std': round(float(totals.std()), 2),
    }
    if 'AntWaypoint' in environment:
        facts |= {'maze_action_noise': ACTION_NOISE, 'mazes': maze_success(policy, seeds)}
    return facts


def ship(name: str, workdir: Path, kind: str, overwrite: bool = False, folder: Path = WEIGHTS) -> None:
    """Puts a training's policy `kind` ('expert' or 'medium') into the package as `name`, with its card.

    Raises InputError if there is none, if the name is no plain one or another robot's, or if it is taken.
    """
    if not re.fullmatch(r'[a-z0-9-]+', name):
        raise InputError(f'{name!r}: a name has small letters, digits and hyphens only')
    policy, training = read(workdir / f'{kind}.npz'), training_of(workdir, kind)
    robot = training.robot
    if not f'{name}-'.startswith(f'{robot}-'):
        raise InputError(f'{name}: the policy in {workdir} is of {robot}: its name begins with that')
    require_free([folder / f'{name}.npz', folder / f'{name}.json'], overwrite, 'name')
    facts = card(policy, training)
    facts['command'] = (
        f'python -m spot_jax.behavior train {robot} --workdir=runs/{robot} --seed={training.seed} '
        f'--steps={training.steps} && '
        f'python -m spot_jax.behavior ship {name} --workdir=runs/{robot} --kind={kind}'
    )
    text = json.dumps(facts, indent=2) + '\n'
    write_all(folder, {f'{name}.npz': policy.to_bytes(), f'{name}.json': text.encode()})
    print(text, end='')
