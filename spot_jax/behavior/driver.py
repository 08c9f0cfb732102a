"""Drives the ant through a maze: a planner's waypoints, a goal-reaching policy, action noise."""

import functools
from typing import NamedTuple

import gymnasium as gym
import mujoco
import numpy as np

from spot_jax.acting.environments import ANT_MAZES, GOAL_RADIUS
from spot_jax.behavior.ant import FRAME_SKIP, UPRIGHT, bearing, goal_features, torques, up
from spot_jax.behavior.planner import Cell, plan
from spot_jax.behavior.policy import Policy

ACTION_NOISE = 0.2  # standard deviation, of actions in [-1, 1]
WAYPOINT_RADIUS = 0.7  # metres
FLIPPED_STEPS = 20  # upside down, then a walk is over: the ant does not get up


class Walk(NamedTuple):
    """What the ant did, T steps."""

    qpos: np.ndarray  # [T + 1, 15]
    qvel: np.ndarray  # [T + 1, 14]
    actions: np.ndarray  # [T, 8] float32
    reached: bool  # its own goal


@functools.cache
def ant_maze(name: str) -> gym.Env:
    """The evaluation's environment of a maze of `ANT_MAZES`, without its time limit."""
    return gym.make(f'spot_jax/AntMaze-{name}-v0', max_episode_steps=-1, disable_env_checker=True)


def walk(env: gym.Env, policy: Policy, path: list[Cell], limit: int, rng: np.random.Generator) -> Walk:
    """Walks along a path of cells, from wherever the ant is, for at most `limit` steps."""
    maze, ant = env.unwrapped.maze, env.unwrapped.ant_env
    waypoints = [maze.cell_rowcol_to_xy(np.array(cell)) for cell in path]
    qpos, qvel = [ant.data.qpos.copy()], [ant.data.qvel.copy()]
    actions: list[np.ndarray] = []
    target, flipped, reached = 0, 0, False
    while len(actions) < limit and flipped < FLIPPED_STEPS and not reached:
        position, observation = qpos[-1][:2], np.concatenate([qpos[-1][2:], qvel[-1]])
        if target < len(path) - 1 and np.hypot(*(waypoints[target] - position)) < WAYPOINT_RADIUS:
            target += 1
        features, quarters = goal_features(observation, bearing(position, waypoints[target]))
        action = policy(features) + ACTION_NOISE * rng.normal(size=8)
        actions.append(torques(np.clip(action, -1, 1), quarters).astype(np.float32))
        # As the environment's own `step`, without rewards and sensors that are not needed: twice as fast.
        ant.data.ctrl[:] = actions[-1]
        mujoco.mj_step(ant.model, ant.data, FRAME_SKIP)
        qpos.append(ant.data.qpos.copy())
        qvel.append(ant.data.qvel.copy())
        flipped = flipped + 1 if up(qpos[-1][2:]) < UPRIGHT else 0
        reached = bool(np.hypot(*(waypoints[-1] - qpos[-1][:2])) <= GOAL_RADIUS)
    return Walk(np.array(qpos), np.array(qvel), np.array(actions), reached)


def trips(policy: Policy, name: str, seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Trips from the start to the goal of a maze of `ANT_MAZES`, one for each seed.

    Returns whether they reach the goal within the time limit, and their steps, `[E]` each.
    """
    env, maze = ant_maze(name), ANT_MAZES[name]
    path = plan(env.unwrapped.maze.maze_map, maze.start, maze.goal)
    walks = []
    for seed in seeds:
        env.reset(seed=seed)
        walks.append(walk(env, policy, path, maze.time_limit, np.random.default_rng(seed)))
    return np.array([w.reached for w in walks]), np.array([len(w.actions) for w in walks])
