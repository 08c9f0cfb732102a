"""`python -m spot_jax.datasets`: list, show and generate datasets."""

import argparse
import sys

import numpy as np

from spot_jax.datasets.load import open_minari
from spot_jax.datasets.pointmaze import RECIPES, generate
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
    print(f'environment: {data.spec.env_spec.id if data.spec.env_spec else "none"}')
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
    args = parser.parse_args(argv)
    if args.command == 'list':
        return exit_status(show_all)
    if args.command == 'show':
        return exit_status(lambda: show(args.id))
    return exit_status(lambda: generate(args.id, args.transitions, args.seed, args.overwrite))


if __name__ == '__main__':
    sys.exit(main())
