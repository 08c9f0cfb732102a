"""Drives the ant through a maze: a planner's waypoints, samples of a goal-reaching policy, noise on both."""

import functools
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np

from spot_jax.acting.environments import ANT_MAZES, GOAL_RADIUS
from spot_jax.behavior.ant import bearing, goal_features, torques
from spot_jax.behavior.planner import Cell, towards
from spot_jax.behavior.policy import Policy

ACTION_NOISE = 0.2  # standard deviation, of actions in [-1, 1]
WAYPOINT_NOISE = 0.5  # metres to each side, in x and in y


class Walk(NamedTuple):
    """What the ant did, T steps."""

    qpos: np.ndarray  # [T + 1, 15]
    qvel: np.ndarray  # [T + 1, 14]
    actions: np.ndarray  # [T, 8] float32

    def near(self, goal: np.ndarray) -> np.ndarray:
        """Whether each step [T] ends at a goal [2]."""
        return np.linalg.norm(self.qpos[1:, :2] - goal, axis=1) <= GOAL_RADIUS


@functools.cache
def ant_maze(name: str) -> gym.Env:
    """The evaluation's environment of a maze of `ANT_MAZES`, without its time limit."""
    return gym.make(f'spot_jax/AntMaze-{name}-v1', max_episode_steps=-1, disable_env_checker=True)


def cell_of(maze: Any, position: np.ndarray) -> Cell:
    """The cell that a position [2] lies in."""
    row, column = maze.cell_xy_to_rowcol(position)
    return int(row), int(column)


def walk(env: gym.Env, policy: Policy, goal: np.ndarray, limit: int, rng: np.random.Generator) -> Walk:
    """Walks to a goal [2] from wherever the ant is, and stays about it, for `limit` steps.

    The waypoint is the centre of the next cell, with new noise at every step, until the ant is where the noise may put
    it; next to the goal's cell, it is the goal. Actions are samples of the policy, with noise.
    """
    maze, ant = env.unwrapped.maze, env.unwrapped.ant_env
    goal_cell = cell_of(maze, goal)
    following = towards(maze.maze_map, goal_cell)
    centres = {cell: maze.cell_rowcol_to_xy(np.array(cell)) for cell in following.values()}
    qpos, qvel = [ant.data.qpos.copy()], [ant.data.qvel.copy()]
    actions: list[np.ndarray] = []
    here = cell_of(maze, qpos[-1][:2])
    for _ in range(limit):
        position, observation = qpos[-1][:2], np.concatenate([qpos[-1][2:], qvel[-1]])
        cell, ahead = cell_of(maze, position), following[here]
        if np.abs(position - centres[ahead]).max() <= WAYPOINT_NOISE:
            here = ahead
        elif cell not in (here, ahead) and cell in following:  # it has strayed
            here = cell
        ahead = following[here]
        noise = rng.uniform(-WAYPOINT_NOISE, WAYPOINT_NOISE, 2)
        waypoint = goal if ahead == goal_cell else centres[ahead] + noise
        features, quarters = goal_features(observation, bearing(position, waypoint))
        action = policy(features, rng.standard_normal(8, np.float32)) + ACTION_NOISE * rng.standard_normal(8)
        actions.append(torques(np.clip(action, -1, 1), quarters).astype(np.float32))
        # As the environment's own `step`, without rewards and sensors that are not needed: twice as fast.
        ant.data.ctrl[:] = actions[-1]
        mujoco.mj_step(ant.model, ant.data, ant.frame_skip)
        qpos.append(ant.data.qpos.copy())
        qvel.append(ant.data.qvel.copy())
    return Walk(np.array(qpos), np.array(qvel), np.array(actions))


def trips(policy: Policy, name: str, seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Trips from the start to the goal of a maze of `ANT_MAZES`, one for each seed.

    Returns whether they reach the goal within the time limit, and the steps until then or the limit, `[E]` each.
    """
    env, limit = ant_maze(name), ANT_MAZES[name].time_limit
    goal = env.unwrapped.maze.cell_rowcol_to_xy(np.array(ANT_MAZES[name].goal))
    reached, steps = [], []
    for seed in seeds:
        env.reset(seed=seed)
        near = walk(env, policy, goal, limit, np.random.default_rng(seed)).near(goal)
        reached.append(near.any())
        steps.append(1 + near.argmax() if near.any() else limit)
    return np.array(reached), np.array(steps)
