"""`python -m spot_jax.datasets`: list, show, generate and import datasets."""

import argparse
import signal
import sys
from types import FrameType

from spot_jax.data.d4rl import import_d4rl
from spot_jax.datasets.listing import describe, show_all
from spot_jax.datasets.show import show
from spot_jax.recipes import MAX_TRANSITIONS, MAX_WORKERS, generate
from spot_jax.system.arguments import MAX_SEED, Parser, place, png_file, whole


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog='python -m spot_jax.datasets', description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    everything = commands.add_parser('list', help='local datasets, and those that can be generated')
    everything.set_defaults(run=lambda _: show_all())
    tell = commands.add_parser('show', help='what datasets hold')
    tell.add_argument('id', nargs='+')
    tell.add_argument('--plot', type=png_file, metavar='FILE.png', help='draw it too: paths in mazes, or returns')
    tell.add_argument('--overwrite', action='store_true', help='replace a picture that is there')
    make = commands.add_parser('generate', help='make a dataset on the spot')
    make.add_argument('id')
    make.add_argument('--transitions', type=whole(1, MAX_TRANSITIONS), help="default: the recipe's own number")
    make.add_argument('--seed', type=whole(0, MAX_SEED), default=0, help='default: %(default)s')
    make.add_argument(
        '--workers',
        type=whole(1, 1024),
        help=f'processes; default: one per CPU, at most {MAX_WORKERS}; the data do not depend on it',
    )
    make.add_argument('--overwrite', action='store_true', help='replace a dataset that is there')
    take = commands.add_parser('import-d4rl', help="make a dataset of one of D4RL's HDF5 files")
    take.add_argument('file', type=place)
    take.add_argument('--id', required=True, help='NAMESPACE/NAME-vN')
    take.add_argument('--environment', help='to evaluate in, as gymnasium calls it: Hopper-v5, AntMaze_UMaze-v4')
    take.add_argument('--overwrite', action='store_true', help='replace a dataset that is there')
    tell.set_defaults(run=lambda args: show(args.id, args.plot, args.overwrite))
    make.set_defaults(run=_generate)
    take.set_defaults(run=lambda args: import_d4rl(args.file, args.id, args.environment, args.overwrite))
    return parser.run(argv, lambda args: args.run(args))


def _generate(args: argparse.Namespace) -> None:
    generate(args.id, args.transitions, args.seed, args.overwrite, args.workers)
    print(describe(args.id))


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends the command so that what was begun is tidied up."""
    del frame
    print('stopped', file=sys.stderr)
    sys.exit(128 + number)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
