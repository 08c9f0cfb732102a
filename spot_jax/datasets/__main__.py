"""`python -m spot_jax.datasets`: list, show, generate and import datasets."""

import argparse
import sys
from pathlib import Path

import numpy as np

from spot_jax.datasets.d4rl import import_d4rl
from spot_jax.datasets.load import evaluation_spec, open_minari
from spot_jax.datasets.recipes import RECIPES, generate
from spot_jax.errors import exit_status


def show_all() -> None:
    """Prints the local datasets, then the recipes."""
    import minari

    for dataset_id, metadata in minari.list_local_datasets().items():
        print(f'{dataset_id}: {metadata["total_steps"]} transitions in {metadata["total_episodes"]} episodes')
    print('can be generated:', ', '.join(RECIPES))


def show(dataset_id: str) -> None:
    """Prints what a dataset holds."""
    data = open_minari(dataset_id)
    metadata = data.storage.metadata
    episodes = [(np.sum(e.rewards), bool(np.max(e.rewards) > 0.5)) for e in data.iterate_episodes()]
    returns, reached = np.array(episodes).T
    print(f'{dataset_id}: {data.total_steps} transitions in {data.total_episodes} episodes')
    print(f'returns: mean {returns.mean():.2f}, from {returns.min():.2f} to {returns.max():.2f}')
    if set(np.unique(returns % 1)) == {0.0}:
        print(f'episodes that reach a reward of 1: {100 * reached.mean():.1f}%')
    print(f'observations: {data.spec.observation_space}\nactions: {data.spec.action_space}')
    environment = evaluation_spec(data)
    print(f'environment: {environment.id if environment else "none (it cannot be evaluated)"}')
    print(f'made by: {", ".join(sorted(metadata.get("author", [])))}: {metadata.get("algorithm_name", "")}')
    print(metadata.get('description', ''))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m spot_jax.datasets', description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('list', help='local datasets, and those that can be generated')
    commands.add_parser('show', help='what a dataset holds').add_argument('id')
    make = commands.add_parser('generate', help='make a dataset on the spot')
    make.add_argument('id')
    make.add_argument('--transitions', type=int, help="default: the recipe's own number")
    make.add_argument('--seed', type=int, default=0)
    make.add_argument('--overwrite', action='store_true')
    take = commands.add_parser('import-d4rl', help="make a dataset of one of D4RL's HDF5 files")
    take.add_argument('file', type=Path)
    take.add_argument('--id', required=True, help='NAMESPACE/NAME-vN')
    take.add_argument('--environment', help='to evaluate in, as gymnasium calls it: Hopper-v5, AntMaze_UMaze-v4')
    take.add_argument('--overwrite', action='store_true')
    args = parser.parse_args(argv)
    if args.command == 'list':
        return exit_status(show_all)
    if args.command == 'show':
        return exit_status(lambda: show(args.id))
    if args.command == 'import-d4rl':
        return exit_status(lambda: import_d4rl(args.file, args.id, args.environment, args.overwrite))
    return exit_status(lambda: generate(args.id, args.transitions, args.seed, args.overwrite))


if __name__ == '__main__':
    sys.exit(main())
