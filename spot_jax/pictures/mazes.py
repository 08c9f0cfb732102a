"""Mazes with the paths of episodes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Rectangle

from spot_jax.acting.environments import GOAL_RADIUS
from spot_jax.pictures.style import COLORS, legend, literal

REACHED, FAILED, GOAL, WALL = COLORS[0], COLORS[1], COLORS[2], '#c8c8c8'
DATA = LinearSegmentedColormap.from_list('data', ['#f6eccb', '#e8d089'])  # where they are few, where they are many
BINS = 20  # of positions, along a cell


class Rollouts(NamedTuple):
    """Episodes in one maze, of a policy or of a dataset, positions in metres."""

    title: str
    maze: Any
    paths: list[np.ndarray]  # [T + 1, 2] each
    reached: np.ndarray  # [E]
    goals: np.ndarray  # [E, 2], of the evaluation
    own_goals: np.ndarray | None = None  # [E, 2], where a dataset's episodes were going
    visited: np.ndarray | None = None  # [N, 2], where the data have been that a policy learned from


def wall_corners(maze: Any) -> np.ndarray:
    """The lower left corners of a gymnasium-robotics maze's wall cells, `[W, 2]` in metres."""
    rows, columns = np.array([[cell == 1 for cell in row] for row in maze.maze_map]).nonzero()
    size = maze.maze_size_scaling
    return np.stack([columns * size - maze.x_map_center, maze.y_map_center - (rows + 1) * size], axis=-1)


def _bins(maze: Any) -> list[np.ndarray]:
    """The edges of the bins of positions, in x and in y."""
    return [np.arange(-c, c + 0.01, maze.maze_size_scaling / BINS) for c in (maze.x_map_center, maze.y_map_center)]


def share_outside(rollouts: Rollouts) -> float:
    """Which share of the paths' positions lies in bins where the data have not been."""
    assert rollouts.visited is not None
    (x, y), (data_x, data_y), bins = np.concatenate(rollouts.paths).T, rollouts.visited.T, _bins(rollouts.maze)
    steps, data = np.histogram2d(x, y, bins)[0], np.histogram2d(data_x, data_y, bins)[0]
    return float(steps[data == 0].sum() / steps.sum())


def draw_rollouts(panels: Sequence[Rollouts]) -> Figure:
    """The picture of episodes in mazes, a panel each."""
    rows = math.ceil(len(panels) / 3)
    columns = math.ceil(len(panels) / rows)
    has_own_goals = any(panel.own_goals is not None for panel in panels)
    width = max(6.0 if has_own_goals else 4.5, 3.5 * columns)  # the legend needs so much
    tallest = max(panel.maze.map_length / panel.maze.map_width for panel in panels)
    title_lines = max(panel.title.count('\n') + 1 for panel in panels)
    legend_rows = 2 if columns == 1 or (has_own_goals and columns == 2) else 1
    height = 0.4 + 0.2 * legend_rows + rows * (0.6 + 0.22 * title_lines + tallest * (width / columns - 0.45))
    figure = Figure(figsize=(width, height), layout='constrained')
    for i, panel in enumerate(panels):
        axes, maze, size = figure.add_subplot(rows, columns, i + 1), panel.maze, panel.maze.maze_size_scaling
        walls = [Rectangle(corner, size, size) for corner in wall_corners(maze)]
        # Without antialiasing: else neighbouring squares show a seam.
        axes.add_collection(PatchCollection(walls, facecolor=WALL, linewidth=0, antialiased=False))
        if panel.visited is not None:
            x, y = panel.visited.T
            axes.hist2d(x, y, _bins(maze), cmin=1, norm='log', cmap=DATA, zorder=0)
        for goal in np.unique(panel.goals, axis=0):
            style = {'facecolor': GOAL + '40', 'edgecolor': GOAL, 'linewidth': 1.5, 'zorder': 3}
            axes.add_patch(Circle(goal, GOAL_RADIUS, **style))
        colors = [REACHED if ok else FAILED for ok in panel.reached]
        # The more paths, the fainter each one.
        alpha = float(np.clip(20 / len(panel.paths), 0.2, 0.7))
        axes.add_collection(LineCollection(panel.paths, colors=colors, linewidths=0.8, alpha=alpha))
        starts = np.array([path[0] for path in panel.paths])
        axes.scatter(starts[:, 0], starts[:, 1], s=10, c='black', linewidths=0, zorder=3)
        if panel.own_goals is not None:
            axes.scatter(
                panel.own_goals[:, 0], panel.own_goals[:, 1], s=12, c=GOAL, marker='x', linewidths=0.8, zorder=2.5
            )
        axes.set_xlim(-maze.x_map_center, maze.x_map_center)
        axes.set_ylim(-maze.y_map_center, maze.y_map_center)
        axes.set_aspect('equal')
        axes.set_xlabel('x (m)')
        axes.set_ylabel('y (m)' if i % columns == 0 else '')
        axes.set_title(literal(panel.title), fontsize=10)
    handles: list[Any] = [
        Line2D([], [], color='black', marker='o', markersize=4, linestyle='none', label='start'),
        Line2D([], [], color=GOAL, marker='o', markersize=9, fillstyle='none', linestyle='none', label='goal'),
        Line2D([], [], color=REACHED, label='reaches it'),
        Line2D([], [], color=FAILED, label='does not'),
    ]
    if has_own_goals:
        handles[1].set_label("the evaluation's goal")
        handles[2:2] = [Line2D([], [], color=GOAL, marker='x', linestyle='none', label="an episode's own goal")]
    if any(panel.visited is not None for panel in panels):
        handles.append(Patch(color=DATA(1.0), label='the data'))
    legend(figure, handles, math.ceil(len(handles) / legend_rows))
    return figure
