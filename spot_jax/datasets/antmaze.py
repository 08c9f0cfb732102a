"""AntMaze datasets made on the spot, by D4RL's protocol, in real MuJoCo.

A planner's waypoints over the maze's cells and a noisy goal-reaching policy take the ant to a goal, where the episode
ends. Rewards are those of the evaluation's fixed goal.
"""

import functools
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np

from spot_jax.behavior import Policy, load
from spot_jax.behavior.ant import FRAME_SKIP, UPRIGHT, bearing, goal_features, torques, up
from spot_jax.datasets import parallel
from spot_jax.datasets.planner import Cell, free_cells, plan
from spot_jax.datasets.store import new_dataset
from spot_jax.environments import ANT_MAZES, GOAL_RADIUS
from spot_jax.errors import InputError

TRANSITIONS = 1_000_000
ACTION_NOISE = 0.2  # standard deviation, of actions in [-1, 1]
WAYPOINT_RADIUS = 0.7  # metres
FLIPPED_STEPS = 20  # upside down, then the episode is truncated: the ant does not get up


class Recipe(NamedTuple):
    """Where a dataset's episodes start and where they go."""

    maze: str
    starts: tuple[Cell, ...]  # empty: any free cell
    goals: tuple[Cell, ...]


MEDIUM_PLAY = Recipe('Medium', ((1, 1), (1, 5), (4, 6), (6, 1)), ((2, 6), (5, 1), (6, 5)))
LARGE_PLAY = Recipe(
    'Large', ((1, 1), (1, 10), (5, 6), (7, 1)), ((1, 6), (3, 5), (3, 10), (5, 2), (7, 4), (7, 6), (7, 10))
)

# The hand-picked goals are D4RL's, save for the evaluation's own: paths to the last one of each pass over that.
RECIPES = {
    'spot_jax/antmaze/umaze-v0': Recipe('UMaze', (ANT_MAZES['UMaze'].start,), (ANT_MAZES['UMaze'].goal,)),
    'spot_jax/antmaze/umaze-diverse-v0': Recipe('UMaze', (), ()),
    'spot_jax/antmaze/medium-play-v0': MEDIUM_PLAY,
    'spot_jax/antmaze/medium-diverse-v0': Recipe('Medium', (), ()),
    'spot_jax/antmaze/large-play-v0': LARGE_PLAY,
    'spot_jax/antmaze/large-diverse-v0': Recipe('Large', (), ()),
}


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


def play(recipe: Recipe, seed: int, number: int) -> parallel.Episode:
    """Episode `number` of a dataset: the same for the same arguments."""
    rng = np.random.default_rng((seed, number))
    env, limit = ant_maze(recipe.maze), ANT_MAZES[recipe.maze].time_limit
    cells = free_cells(env.unwrapped.maze.maze_map)
    start, goal = (0, 0), (0, 0)
    while start == goal:
        start, goal = (tuple(rng.choice(choices or cells)) for choices in (recipe.starts, recipe.goals))
    env.reset(seed=int(rng.integers(2**31)), options={'reset_cell': np.array(start)})
    path = plan(env.unwrapped.maze.maze_map, start, goal)
    qpos, qvel, actions, _ = walk(env, load('ant'), path, limit, rng)
    position, fixed_goal = qpos[:, :2], env.unwrapped.goal
    goal_position = env.unwrapped.maze.cell_rowcol_to_xy(np.array(goal))
    return {
        'observations': {
            'observation': np.concatenate([qpos[:, 2:], qvel], axis=1),
            'achieved_goal': position.copy(),
            'desired_goal': np.tile(fixed_goal, (len(qpos), 1)),
        },
        'actions': actions,
        'rewards': (np.linalg.norm(position[1:] - fixed_goal, axis=1) <= GOAL_RADIUS).astype(float),
        'terminations': np.zeros(len(actions), bool),
        'truncations': np.arange(len(actions)) == len(actions) - 1,
        'infos': {'qpos': qpos, 'qvel': qvel, 'goal': np.tile(goal_position, (len(qpos), 1))},
    }


def generate(
    dataset_id: str, transitions: int | None = None, seed: int = 0, overwrite: bool = False, workers: int = 1
) -> None:
    """Makes a recipe's dataset; the same seed gives the same data, whatever the number of `workers` (processes).

    It appears whole or not at all. Raises InputError if the id is no recipe's, or is taken and not to be overwritten.
    """
    from minari.dataset.minari_storage import MinariStorage

    if dataset_id not in RECIPES:
        raise InputError(f'no recipe for {dataset_id!r}: choose one of {", ".join(RECIPES)}')
    recipe = RECIPES[dataset_id]
    transitions = TRANSITIONS if transitions is None else transitions
    for option, value in (('transitions', transitions), ('workers', workers)):
        if value < 1:
            raise InputError(f'--{option}={value}: must be at least 1')
    load('ant')
    with new_dataset(dataset_id, overwrite) as folder:
        env = gym.make(f'spot_jax/AntMaze-{recipe.maze}-v0')
        spaces = {'observation_space': env.observation_space, 'action_space': env.action_space}
        storage = MinariStorage.new(folder / 'data', env_spec=env.spec, **spaces)
        storage.update_metadata(_metadata(dataset_id, recipe, transitions, seed, env))
        storage.update_episodes(parallel.episodes(functools.partial(play, recipe, seed), transitions, workers))


def _metadata(dataset_id: str, recipe: Recipe, transitions: int, seed: int, env: gym.Env) -> dict[str, Any]:
    import minari

    starts, goals = ('hand-picked' if cells else 'random' for cells in (recipe.starts, recipe.goals))
    return {
        'dataset_id': dataset_id,
        'minari_version': minari.__version__,
        'eval_env_spec': env.spec.to_json(),
        'algorithm_name': f'breadth-first waypoints and a goal-reaching ant, action noise {ACTION_NOISE}',
        'author': {'spot_jax'},
        'author_email': set(),
        'code_permalink': 'spot_jax/datasets/antmaze.py',
        'description': (
            f'Generated by spot_jax by the protocol of D4RL ({transitions} transitions, seed {seed}); not D4RL data. '
            f'Starts: {starts}, goals: {goals}. An episode ends at its own goal, after {FLIPPED_STEPS} steps upside '
            f'down or at the time limit; rewards are for the fixed goal of the evaluation.'
        ),
    }
