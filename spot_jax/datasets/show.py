"""What is in the datasets, in words and in pictures."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from matplotlib.figure import Figure

from spot_jax.acting.env_pool import TIMEOUT, bounded
from spot_jax.acting.environments import GOAL_RADIUS, maker
from spot_jax.acting.tasks import TASKS, goal_reached
from spot_jax.data.load import evaluation_spec, open_minari
from spot_jax.data.positions import path_of, some_episodes
from spot_jax.datasets.gait import describe_gait, gait
from spot_jax.datasets.listing import printable
from spot_jax.pictures.mazes import Rollouts, draw_rollouts
from spot_jax.pictures.style import COLORS, plain, png
from spot_jax.recipes import provide
from spot_jax.storage.outputs import require_free, write_all
from spot_jax.system.errors import InputError, first_line

MAX_PATHS = 300  # drawn of a maze's dataset


def _unit(actions: Any, space: Box) -> np.ndarray:
    """Those dimensions [T, D] of actions [T, ...] that have two bounds, scaled to [-1, 1]."""
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    bounded = np.isfinite(low) & np.isfinite(high) & (low < high)
    middle, half = (low / 2 + high / 2)[bounded], (high / 2 - low / 2)[bounded]
    return (np.asarray(actions, np.float64).reshape(len(actions), low.size)[:, bounded] - middle) / half


def _statistics(data: Any) -> list[str]:
    """A dataset's episodes in words; none if there are none."""
    rows, gaits, moments, space = [], [], [], data.spec.action_space
    for episode in data.iterate_episodes():
        rewards = np.asarray(episode.rewards)
        if rewards.dtype.kind not in 'fiub' or rewards.ndim != 1:
            raise InputError(f'{data.spec.dataset_id}, episode {episode.id}: rewards must be a number for each step')
        rows.append((np.sum(rewards), len(rewards), np.max(rewards, initial=-np.inf)))
        gaits.append(gait(episode))
        if isinstance(space, Box):
            unit = _unit(episode.actions, space)
            moments.append(np.sum([unit, unit**2, np.abs(unit) >= 0.99], axis=1))
    if not rows:
        return []
    returns, lengths, highest = np.array(rows, np.float64).T
    quantiles = ', '.join(f'{q:.2f}' for q in np.quantile(returns, [0, 0.25, 0.5, 0.75, 1]))
    lines = [f'returns: mean {returns.mean():.2f}; least, quartiles and highest {quantiles}']
    if set(np.unique(returns % 1)) == {0.0}:
        lines.append(f'episodes that reach a reward of 1: {100 * goal_reached(highest).mean():.1f}%')
    lines.append(f'lengths: mean {lengths.mean():.1f}, from {lengths.min():.0f} to {lengths.max():.0f}')
    if lengths.sum() != data.total_steps:
        lines.append(f'damaged: its episodes have {lengths.sum():.0f} steps, its metadata say {data.total_steps}')
    if moments and moments[0].size and lengths.any():
        mean, square, share = np.sum(moments, axis=0) / lengths.sum()
        lines.append(f'actions at their bounds (99%): {100 * share.mean():.1f}%')
        lines.append(f'variance of the actions, scaled to [-1, 1]: {np.mean(square - mean**2):.3f}')
    return lines + describe_gait(gaits)


def describe(data: Any) -> str:
    """A Minari dataset in words, of any observations and actions."""
    metadata, environment = data.storage.metadata, evaluation_spec(data)
    with np.errstate(all='ignore'):  # what is not finite is shown so
        statistics = _statistics(data)
    lines = [
        f'{data.spec.dataset_id}: {data.total_steps} transitions in {data.total_episodes} episodes',
        *statistics,
        f'observations: {data.spec.observation_space}',
        f'actions: {data.spec.action_space}',
        f'environment: {environment.id if environment else "none (it cannot be evaluated)"}',
        f'made by: {", ".join(sorted(map(str, metadata.get("author", []))))}: {metadata.get("algorithm_name", "")}',
        metadata.get('description', ''),
    ]
    return '\n'.join(map(printable, lines))


def _maze_of(data: Any) -> Any:
    """The maze of a dataset's environment; None if it has none."""
    spec = evaluation_spec(data)
    if spec is None or 'Maze' not in spec.id:
        return None
    make_env = maker(spec, TASKS['antmaze' if 'Ant' in spec.id else 'pointmaze'])

    def found() -> Any:
        with contextlib.closing(make_env()) as env:
            env.reset(seed=0)
            return (env.unwrapped.maze, env.unwrapped.goal.copy()) if hasattr(env.unwrapped, 'maze') else None

    return bounded(found, TIMEOUT)


def reaches_goal(episode: Any) -> bool:
    """Whether a maze's episode does: by its rewards, if they mark the goal; where they are dense, by its positions."""
    found = episode.observations
    if np.isin(episode.rewards, (0, 1)).all() or not isinstance(found, Mapping) or 'desired_goal' not in found:
        return bool(goal_reached(np.max(episode.rewards, initial=0)))
    distances = np.linalg.norm(found['achieved_goal'] - found['desired_goal'], axis=-1)
    return bool((distances[1:] <= GOAL_RADIUS).any())


def maze_panel(data: Any) -> Rollouts | None:
    """A maze dataset's episodes, at most `MAX_PATHS` of them, evenly over it; None if it is of no maze."""
    found = _maze_of(data)
    if found is None:
        return None
    maze, goal = found
    episodes = list(some_episodes(data, MAX_PATHS))
    paths = [path for path in (path_of(e.observations) for e in episodes) if path is not None]
    if len(paths) < len(episodes):
        return None
    own = [e.infos['goal'][0] for e in episodes if isinstance(e.infos, Mapping) and 'goal' in e.infos]
    reached = np.array([reaches_goal(e) for e in episodes])
    return Rollouts(
        f'{data.spec.dataset_id}\n{reached.sum()} of {len(episodes)} episodes reach the goal',
        maze,
        paths,
        reached,
        np.array([goal]),
        np.unique(own, axis=0) if own else None,
    )


def draw_returns(returns: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of the episodes' returns, a panel for each dataset."""
    figure = Figure(figsize=(7, 0.6 + 1.6 * len(returns)), layout='constrained')
    for i, (name, values) in enumerate(returns.items()):
        axes = figure.add_subplot(len(returns), 1, i + 1)
        plain(axes)
        axes.hist(values, bins=50, color=COLORS[0])
        axes.set_title(f'{name}: mean {values.mean():.1f}', fontsize=10)
        axes.set_ylabel('episodes')
    axes.set_xlabel('return')
    return figure


def picture(datasets: Sequence[Any]) -> bytes:
    """A PNG file of datasets, the paths in mazes or the returns; raises InputError if they are of both kinds."""
    for data in datasets:
        if data.total_episodes == 0:
            raise InputError(f'--plot: {data.spec.dataset_id} is empty')
    panels = [panel for panel in map(maze_panel, datasets) if panel is not None]
    if panels and len(panels) < len(datasets):
        raise InputError('--plot: mazes and other tasks go in pictures of their own')
    if panels:
        return png(draw_rollouts(panels))
    returns = {d.spec.dataset_id: np.array([np.sum(e.rewards) for e in d.iterate_episodes()]) for d in datasets}
    return png(draw_returns(returns))


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """Whatever damaged episodes raise in the block becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Minari, h5py and NumPy raise many kinds
        reason = first_line(error)
        raise InputError(f'{what} cannot be read: {printable(reason)}') from error


def show(dataset_ids: Sequence[str], plot: Path | None = None, overwrite: bool = False) -> None:
    """Prints what datasets hold, and draws it in a file. Raises InputError if one cannot be read or written."""
    if plot is not None:
        require_free([plot], overwrite, '--plot')
    for dataset_id in dataset_ids:
        provide(dataset_id)
    datasets = [open_minari(dataset_id) for dataset_id in dataset_ids]
    texts = []
    for dataset_id, data in zip(dataset_ids, datasets, strict=True):
        with _reading(dataset_id):
            texts.append(describe(data))
    print('\n\n'.join(texts))
    if plot is None:
        return
    with _reading(f'--plot: {", ".join(dataset_ids)}'):
        drawn = picture(datasets)
    print(*write_all(plot.parent, {plot.name: drawn}))
