"""What is in the datasets, in words and in pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spot_jax.checkpoint import write_atomically
from spot_jax.datasets.load import evaluation_spec, open_minari
from spot_jax.datasets.recipes import RECIPES
from spot_jax.environments import make
from spot_jax.errors import InputError
from spot_jax.pictures import COLORS, Rollouts, draw_rollouts, plain, png
from spot_jax.tasks import TASKS, goal_reached

MAX_PATHS = 300  # drawn of a maze's dataset


def show_all() -> None:
    """Prints the local datasets, then the recipes."""
    import minari

    for dataset_id, metadata in minari.list_local_datasets().items():
        print(f'{dataset_id}: {metadata["total_steps"]} transitions in {metadata["total_episodes"]} episodes')
    print('can be generated:', ', '.join(RECIPES))


def describe(data: Any) -> str:
    """A Minari dataset in words."""
    dataset_id, metadata = data.spec.dataset_id, data.storage.metadata
    space = data.spec.action_space
    episodes = [
        (np.sum(e.rewards), len(e.actions), np.max(e.rewards), np.mean(np.abs(e.actions) >= 0.99 * space.high))
        for e in data.iterate_episodes()
    ]
    returns, lengths, highest, at_bounds = np.array(episodes).T
    quantiles = ', '.join(f'{q:.2f}' for q in np.quantile(returns, [0, 0.25, 0.5, 0.75, 1]))
    lines = [
        f'{dataset_id}: {data.total_steps} transitions in {data.total_episodes} episodes',
        f'returns: mean {returns.mean():.2f}, quartiles {quantiles}',
        f'lengths: mean {lengths.mean():.1f}, from {lengths.min():.0f} to {lengths.max():.0f}',
        f'actions at their bounds (99%): {100 * np.average(at_bounds, weights=lengths):.1f}%',
    ]
    if set(np.unique(returns % 1)) == {0.0}:
        lines.insert(2, f'episodes that reach a reward of 1: {100 * goal_reached(highest).mean():.1f}%')
    environment = evaluation_spec(data)
    return '\n'.join(
        [
            *lines,
            f'observations: {data.spec.observation_space}',
            f'actions: {space}',
            f'environment: {environment.id if environment else "none (it cannot be evaluated)"}',
            f'made by: {", ".join(sorted(metadata.get("author", [])))}: {metadata.get("algorithm_name", "")}',
            metadata.get('description', ''),
        ]
    )


def _maze_of(data: Any) -> Any:
    """The maze of a dataset's environment; None if it has none."""
    spec = evaluation_spec(data)
    if spec is None or 'Maze' not in spec.id:
        return None
    env = make(spec, TASKS['antmaze' if 'Ant' in spec.id else 'pointmaze'])
    env.reset(seed=0)
    found = (env.unwrapped.maze, env.unwrapped.goal.copy()) if hasattr(env.unwrapped, 'maze') else None
    env.close()
    return found


def maze_panel(data: Any) -> Rollouts | None:
    """A maze dataset's episodes, at most `MAX_PATHS` of them, evenly over it; None if it is of no maze."""
    found = _maze_of(data)
    if found is None:
        return None
    maze, goal = found
    indices = np.unique(np.linspace(0, data.total_episodes - 1, MAX_PATHS).astype(int))
    episodes = list(data.iterate_episodes(indices))
    observations = [e.observations for e in episodes]
    paths = [np.asarray(o['achieved_goal'] if isinstance(o, Mapping) else o[:, :2]) for o in observations]
    own = [e.infos['goal'][0] for e in episodes if isinstance(e.infos, Mapping) and 'goal' in e.infos]
    reached = np.array([goal_reached(np.max(e.rewards)) for e in episodes])
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
    panels = [panel for panel in map(maze_panel, datasets) if panel is not None]
    if panels and len(panels) < len(datasets):
        raise InputError('--plot: mazes and other tasks go in pictures of their own')
    if panels:
        return png(draw_rollouts(panels))
    returns = {d.spec.dataset_id: np.array([np.sum(e.rewards) for e in d.iterate_episodes()]) for d in datasets}
    return png(draw_returns(returns))


def show(dataset_ids: Sequence[str], plot: Path | None = None) -> None:
    """Prints what datasets hold, and draws it in a file. Raises InputError if one cannot be opened or written."""
    datasets = [open_minari(dataset_id) for dataset_id in dataset_ids]
    print('\n\n'.join(map(describe, datasets)))
    if plot is not None:
        try:
            write_atomically(plot, picture(datasets))
        except OSError as error:
            raise InputError(f'cannot write {plot}: {error.strerror}') from error
        print(plot)
