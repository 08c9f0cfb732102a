"""Environments to evaluate in: a dataset's own, under the same task rule, with a maze's goal pinned.

gymnasium-robotics' mazes jitter the goal at every reset. A policy that does not observe it cannot follow, so the goal
is put on its cell's centre; the start keeps its jitter, else all episodes would be the same.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from spot_jax.acting import specs
from spot_jax.acting.specs import import_mazes
from spot_jax.acting.tasks import Task, describe, layout, vectorizer
from spot_jax.system.errors import InputError, first_line

GOAL_RADIUS = 0.45  # metres, as gymnasium-robotics' code has it
ANT_FRAME_SKIP, ANT_TIME_STEP = 5, 0.1  # simulation steps per environment step, and its seconds, of D4RL's ant


class Maze(NamedTuple):
    """A maze task on one of gymnasium-robotics' maps."""

    map_name: str
    start: tuple[int, int]  # row and column of the cell
    goal: tuple[int, int]
    time_limit: int  # steps


POINT_MAZES = {
    'UMaze': Maze('U_MAZE', (1, 1), (3, 1), 300),
    'Medium': Maze('MEDIUM_MAZE', (1, 1), (6, 6), 600),
    'Large': Maze('LARGE_MAZE', (1, 1), (7, 10), 800),
}

# Start, goal and time limit as D4RL has them.
ANT_MAZES = {
    'UMaze': Maze('U_MAZE', (1, 1), (3, 1), 700),
    'Medium': Maze('MEDIUM_MAZE', (1, 1), (6, 6), 1000),
    'Large': Maze('LARGE_MAZE', (1, 1), (7, 9), 1000),
}


class PinnedGoal(gym.Wrapper):
    """Pins a maze's goal to its cell's centre at each reset; the reward and `info['success']` follow."""

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Resets the maze; see gymnasium."""
        observation, info = self.env.reset(**kwargs)
        maze = self.unwrapped
        maze.goal = maze.maze.cell_rowcol_to_xy(maze.maze.cell_xy_to_rowcol(maze.goal))
        maze.update_target_site_pos()
        distance = np.linalg.norm(observation['achieved_goal'] - maze.goal)
        return observation | {'desired_goal': maze.goal.copy()}, info | {'success': bool(distance <= GOAL_RADIUS)}


class TaskObservation(gym.ObservationWrapper):
    """Observations as the task's flat float32 vectors, actions in the environment's own bounds and dtype."""

    def __init__(self, env: gym.Env, task: Task):
        super().__init__(env)
        self.layout = layout(env.observation_space)  # in the order of the vectors that `tasks.flatten` makes
        self._vector = vectorizer(task, env.observation_space, env.spec.id if env.spec else 'the environment')
        with np.errstate(over='ignore'):  # of bounds beyond float32
            size = self._vector(env.observation_space.sample()).shape
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, size, np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """The environment's observation as `[O]`."""
        with np.errstate(over='ignore'):  # what is infinite in float32 is refused where answers are checked
            return self._vector(observation)

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes a step; see gymnasium. An action that rounding put beyond a bound is put on it: some refuse it."""
        space = self.action_space
        if isinstance(space, gym.spaces.Box):
            action = np.clip(action, space.low, space.high).astype(space.dtype)
        return super().step(action)


@contextlib.contextmanager
def _no_leftover_xml() -> Iterator[None]:
    """Removes the maze's XML file that gymnasium-robotics leaves in the temporary folder at each `make`."""
    import_mazes()
    from gymnasium_robotics.envs.maze import maze_v4

    made: list[str] = []
    original = maze_v4.Maze.make_maze.__func__

    def make_maze(cls: Any, *args: Any, **kwargs: Any) -> Any:
        maze, path = original(cls, *args, **kwargs)
        made.append(path)
        return maze, path

    maze_v4.Maze.make_maze = classmethod(make_maze)
    try:
        yield
    finally:
        maze_v4.Maze.make_maze = classmethod(original)
        for path in made:
            Path(path).unlink(missing_ok=True)


def maze_map(maze: Maze) -> list[list[Any]]:
    """gymnasium-robotics' map of a maze, with its start 'r' and goal 'g' put in."""
    import_mazes()
    from gymnasium_robotics.envs.maze import maps

    cells = [list(row) for row in getattr(maps, maze.map_name)]
    cells[maze.start[0]][maze.start[1]], cells[maze.goal[0]][maze.goal[1]] = 'r', 'g'
    return cells


_SPARSE: dict[str, Any] = {'reward_type': 'sparse', 'continuing_task': False}


def point_maze(name: str, **kwargs: Any) -> gym.Env:
    """Entry point of `spot_jax/PointMaze-*-v0`: fixed start cell and goal, terminates on success."""
    with _no_leftover_xml():
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

        return PinnedGoal(PointMazeEnv(maze_map=maze_map(POINT_MAZES[name]), **_SPARSE, **kwargs))


def as_d4rl(model: Any) -> None:
    """Makes a MuJoCo model of gymnasium's ant D4RL's: a fifth of the torque (30 N m), steps of 0.1 s, softer contacts.

    The bodies are the same. Gymnasium's ant can stop dead, its legs held against their limits; policies that were
    learned from its walks do so for good (`experiments/results/antmaze_v1`).
    """
    model.opt.timestep = ANT_TIME_STEP / ANT_FRAME_SKIP
    model.actuator_gear[:, 0] = 30
    model.geom_solimp[:, :3] = 0.8, 0.8, 0.01


def ant_maze(name: str, d4rl: bool = False, **kwargs: Any) -> gym.Env:
    """Entry point of `spot_jax/AntMaze-*`: as `point_maze`, with the ant's 27 values of proprioception.

    With `d4rl` (-v1) the ant is `as_d4rl`'s, else (-v0, of sets of older recipes) gymnasium's.
    """
    with _no_leftover_xml():
        from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv

        kwargs = {'include_cfrc_ext_in_observation': False} | kwargs
        env = AntMazeEnv(maze_map=maze_map(ANT_MAZES[name]), **_SPARSE, **kwargs)
        if d4rl:
            as_d4rl(env.model)
            env.metadata = env.metadata | {'render_fps': round(1 / ANT_TIME_STEP)}
        return PinnedGoal(env)


def _register(environment: str, entry_point: str, maze: Maze, **kwargs: Any) -> None:
    entry_point = f'spot_jax.acting.environments:{entry_point}'
    gym.register(f'spot_jax/{environment}', entry_point, max_episode_steps=maze.time_limit, kwargs=kwargs)


for _name, _maze in POINT_MAZES.items():
    _register(f'PointMaze-{_name}-v0', 'point_maze', _maze, name=_name)
for _name, _maze in ANT_MAZES.items():
    _register(f'AntMaze-{_name}-v0', 'ant_maze', _maze, name=_name)
    _register(f'AntMaze-{_name}-v1', 'ant_maze', _maze, name=_name, d4rl=True)


def maker(
    spec: EnvSpec,
    task: Task,
    trusted: bool = False,
    max_episode_steps: int = specs.MAX_EPISODE_STEPS,
    render: bool = False,
) -> Callable[[], gym.Env]:
    """What makes the environment of a spec that a dataset records, here or in another process; see `make`.

    With `render`, its `render` gives pictures. Names one without a time limit: its episodes are cut after
    `max_episode_steps`. Raises InputError if the dataset is not to name it (`specs.approved`).
    """
    spec = specs.approved(spec, trusted)
    if spec.max_episode_steps is None:
        print(
            f'{spec.id} has no time limit: its episodes are cut after {max_episode_steps} steps '
            '(config.evaluation.max_episode_steps)',
            file=sys.stderr,
        )
    options = {'render_mode': 'rgb_array'} if render else {}
    return partial(
        _make, spec, task, trusted, {'max_episode_steps': spec.max_episode_steps or max_episode_steps, **options}
    )


def make(spec: EnvSpec, task: Task, **options: Any) -> gym.Env:
    """The environment of a spec: flat observations, raw rewards; a maze's goal is pinned and ends the episode.

    `options` are those of `maker`. Raises InputError if it cannot be made here, or is not to be made.
    """
    return maker(spec, task, **options)()


def _make(spec: EnvSpec, task: Task, trusted: bool, options: dict[str, Any]) -> gym.Env:
    try:
        if not task.is_maze:
            return TaskObservation(specs.make(spec, trusted, **options), task)
        with _no_leftover_xml():
            stock = not str(spec.entry_point).startswith('spot_jax.')
            kwargs = {'continuing_task': False} if stock else {}
            env = specs.make(spec, trusted, **options, **kwargs)
        return TaskObservation(PinnedGoal(env) if stock else env, task)
    except InputError:
        raise
    except Exception as error:  # the environments' constructors raise many kinds
        reason = first_line(error)
        raise InputError(f"cannot make the dataset's environment {spec.id}: {reason}") from error


def check(
    env: gym.Env,
    transitions: np.ndarray,
    action_low: np.ndarray,
    action_high: np.ndarray,
    data_layout: list[tuple[str, tuple[int, ...]]] | None = None,
) -> None:
    """Raises InputError if the environment disagrees with packed `transitions` [N, 2 * O + A + 2].

    Compared are the sizes, the parts of flattened observations (`tasks.layout`), the action bounds
    and, for mazes, whether the data's positions lie in free cells.
    """
    size, name, space = env.observation_space.shape[0], env.spec.id, env.action_space
    data_size = (transitions.shape[1] - len(action_low) - 2) // 2
    if size != data_size:
        raise InputError(f'{name} gives observations of {size} values, the dataset has {data_size}')
    if data_layout is not None and env.layout != data_layout:
        parts = [', '.join(f'{part} {shape}' for part, shape in x) for x in (env.layout, data_layout)]
        raise InputError(f"{name}'s observations are {parts[0]}; the dataset's {parts[1]}")
    if not isinstance(space, gym.spaces.Box) or space.shape != action_low.shape:
        kinds = f'they are {describe(space)}, not vectors of {len(action_low)}'
        raise InputError(f"{name}'s actions and action bounds differ from the dataset's: {kinds}")
    for theirs, ours in ((space.low, action_low), (space.high, action_high)):
        differing = np.flatnonzero(~np.isclose(theirs, ours, rtol=1e-6, atol=1e-9))  # of float32 and of float64
        if differing.size:
            i = differing[0]
            bounds = f'{theirs[i]:g} for action {i} instead of {ours[i]:g}'
            raise InputError(f"{name}'s action bounds differ from the dataset's: {bounds}")
    if not hasattr(env.unwrapped, 'maze'):
        return
    maze = env.unwrapped.maze
    positions = transitions[:: max(1, len(transitions) // 10_000), :2]
    column = np.floor((positions[:, 0] + maze.x_map_center) / maze.maze_size_scaling).astype(int)
    row = np.floor((maze.y_map_center - positions[:, 1]) / maze.maze_size_scaling).astype(int)
    walls = np.array([[cell == 1 for cell in cells] for cells in maze.maze_map])
    inside = (row >= 0) & (row < walls.shape[0]) & (column >= 0) & (column < walls.shape[1])
    blocked = np.where(inside, walls[np.clip(row, 0, len(walls) - 1), np.clip(column, 0, len(walls[0]) - 1)], True)
    if blocked.mean() > 0.02:
        share = f'{100 * blocked.mean():.0f}%'
        raise InputError(
            f"{share} of the data's positions lie in walls of {name}: the maze differs from the data's, or config.task "
            "(antmaze, pointmaze) from the maze's kind"
        )
