"""PointMaze datasets made on the spot, by D4RL's protocol, in real MuJoCo.

A planner's waypoints over the maze's cells and a noisy PD controller take the point from random cells to random goals.
It stays at its goal for a while, as in Minari's continuing tasks: without that, all motion is onward, and cloning alone
finds the way. Rewards are those of the evaluation's fixed goal.
"""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from spot_jax.acting.environments import GOAL_RADIUS, POINT_MAZES
from spot_jax.behavior.planner import Cell, free_cells, plan
from spot_jax.data.hdf5 import write_episodes
from spot_jax.data.store import Recipe, Request, metadata, new_dataset

MAZES = {'umaze': ('UMaze', 100_000), 'medium': ('Medium', 200_000), 'large': ('Large', 400_000)}

POSITION_GAIN, VELOCITY_GAIN = 10.0, 1.0
ACTION_NOISE = 0.5  # standard deviation, of actions in [-1, 1]
WAYPOINT_RADIUS = 0.3  # metres
DWELL = 25  # steps that an episode spends at its goal before it is truncated


def _episode(env: gym.Env, cells: list[Cell], limit: int, rng: np.random.Generator) -> dict[str, Any]:
    """One episode of at most `limit` steps, as Minari's buffers have it."""
    maze_env = env.unwrapped
    maze = maze_env.maze
    start, goal = (cells[i] for i in rng.choice(len(cells), 2, replace=False))
    raw, _ = env.reset(seed=int(rng.integers(2**31)), options={'reset_cell': np.array(start)})
    waypoints = [maze.cell_rowcol_to_xy(np.array(cell)) for cell in plan(maze.maze_map, start, goal)]
    observations = [raw['observation']]
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    target, dwelt = 0, 0
    while len(actions) < limit and dwelt < DWELL:
        position, velocity = observations[-1][:2], observations[-1][2:]
        if target < len(waypoints) - 1 and np.linalg.norm(position - waypoints[target]) < WAYPOINT_RADIUS:
            target += 1
        at_goal = target == len(waypoints) - 1 and np.linalg.norm(position - waypoints[-1]) < WAYPOINT_RADIUS
        dwelt += int(at_goal)
        action = POSITION_GAIN * (waypoints[target] - position) - VELOCITY_GAIN * velocity
        action = np.clip(action, -1, 1) + ACTION_NOISE * rng.normal(size=2)
        actions.append(np.clip(action, -1, 1).astype(np.float32))
        observations.append(env.step(actions[-1])[0]['observation'])
        rewards.append(float(np.linalg.norm(observations[-1][:2] - maze_env.goal) <= GOAL_RADIUS))
    stacked = np.array(observations)
    truncations = np.zeros(len(actions), bool)
    truncations[-1:] = True
    return {
        'observations': {
            'observation': stacked,
            'achieved_goal': stacked[:, :2].copy(),
            'desired_goal': np.tile(maze_env.goal, (len(stacked), 1)),
        },
        'actions': np.array(actions),
        'rewards': np.array(rewards),
        'terminations': np.zeros(len(actions), bool),
        'truncations': truncations,
        'infos': {'goal': np.tile(waypoints[-1], (len(stacked), 1))},  # where the controller was going
    }


def _episodes(env: gym.Env, limit: int, transitions: int, seed: int) -> Iterator[Any]:
    """Episodes that add up to exactly `transitions` steps; the last one is cut to fit."""
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(seed)
    cells = free_cells(env.unwrapped.maze.maze_map)
    count = 0
    with tqdm(total=transitions, unit=' transitions', disable=not sys.stderr.isatty()) as bar:
        while count < transitions:
            episode = _episode(env, cells, min(limit, transitions - count), rng)
            if len(episode['actions']):
                yield EpisodeBuffer(**episode)
                count += len(episode['actions'])
                bar.update(len(episode['actions']))


def generate(name: str, request: Request) -> None:
    """Makes the dataset of one of `POINT_MAZES`, in one process."""
    from minari.dataset.minari_storage import MinariStorage

    dataset_id, transitions, seed = request.dataset_id, request.transitions, request.seed
    assert transitions is not None  # its recipes have a number
    with new_dataset(dataset_id, request.overwrite) as folder:
        env = gym.make(f'spot_jax/PointMaze-{name}-v0')
        unlimited = gym.make(f'spot_jax/PointMaze-{name}-v0', max_episode_steps=-1, disable_env_checker=True)
        spaces = {'observation_space': env.observation_space, 'action_space': env.action_space}
        storage = MinariStorage.new(folder / 'data', env_spec=env.spec, **spaces)
        storage.update_metadata(_metadata(dataset_id, transitions, seed, env))
        write_episodes(storage, _episodes(unlimited, POINT_MAZES[name].time_limit, transitions, seed))


def _metadata(dataset_id: str, transitions: int, seed: int, env: gym.Env) -> dict[str, Any]:
    return metadata(
        dataset_id,
        env.spec,
        algorithm=f'breadth-first waypoints and a PD controller, action noise {ACTION_NOISE}',
        code='spot_jax/recipes/pointmaze.py',
        description=(
            f'Generated by spot_jax by the protocol of D4RL ({transitions} transitions, seed {seed}); not D4RL data. '
            f'Random starts and goals, {DWELL} steps at each goal; rewards are for the fixed goal of the evaluation.'
        ),
    )


RECIPES = {
    f'spot_jax/pointmaze/{key}-v0': Recipe(transitions, partial(generate, name))
    for key, (name, transitions) in MAZES.items()
}
