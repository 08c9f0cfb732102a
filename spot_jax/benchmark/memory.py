"""`python -m spot_jax.benchmark.memory [--settings=4x100000,16x100000] [--restart] [--json=FILE]`.

Memory of online fine-tuning with MEMBERSxCAPACITY rings: what the shapes come to, and the resident memory of a process
that goes through two blocks of steps and updates, a checkpoint's new transitions, and optionally a restart. Linux only.

With `--offline` that of training on a dataset, for 1 to 256 members and L = 1 and 10, by what the compiler says of the
programs for this platform: nothing runs.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from spot_jax.benchmark import files
from spot_jax.benchmark.gpu import POPULATIONS, population_of
from spot_jax.benchmark.kernels import STEPS
from spot_jax.benchmark.online import Loops
from spot_jax.benchmark.phases import bytes_of, data_shapes, lower, prepare, spot_config
from spot_jax.run.ring_files import RingFiles
from spot_jax.system.arguments import Parser, place, whole
from spot_jax.system.backend import require_device

MIB = 2**20
SIZES = (29, 8)  # of observations and actions, AntMaze's
SAMPLES = (1, 10)  # L


def resident(field: str) -> float:
    """MiB of this process: 'VmRSS', now, or 'VmHWM', at most so far."""
    line = next(text for text in Path('/proc/self/status').read_text().splitlines() if text.startswith(field))
    return int(line.split()[1]) / 1024


def mebibytes(tree: Any) -> float:
    """MiB of a pytree's arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / MIB


def measure(
    config: ConfigDict, environment: str, setting: tuple[int, int], transitions: int, new: int, restart: bool
) -> dict[str, float]:
    """MiB of one setting (members, capacity), by shapes and resident, in a process of its own.

    `transitions` are the dataset's; a checkpoint of `new` ones of each member is written and, if `restart`, read.
    """
    members, capacity = setting
    before = resident('VmRSS')
    require_device()  # here, not in the parent: a process that has a GPU leaves little of its memory to others
    loops = Loops(config, environment, members, 1, capacity, transitions)
    parts = {'ring': loops.ring.rows, 'dataset': loops.data, 'policies': loops.state, 'stages': loops.shared}
    row: dict[str, float] = {'members': members, 'capacity': capacity, 'before': before}
    row |= {name: mebibytes(part) for name, part in parts.items()}
    row['by_shapes'] = sum(row[name] for name in parts)
    loops.gather(loops.overlapped, loops.explore())
    loops.loop(2)
    loops.finish()
    row['live_arrays'] = mebibytes(jax.live_arrays())
    row['resident'], row['peak'] = resident('VmRSS'), resident('VmHWM')
    with tempfile.TemporaryDirectory() as folder:
        files = RingFiles(Path(folder) / 'ring')
        files.save(loops.ring.replace(count=jnp.int32(min(new, capacity))))
        row['peak_with_checkpoint'] = resident('VmHWM')
        loops.close()
        if restart:
            del loops.ring, parts
            files.load((members, 1), capacity, loops.data.rows.shape[1])
            row['peak_with_restart'] = resident('VmHWM')
    return row


def offline(config: ConfigDict, members: int, num_samples: int, transitions: int) -> dict[str, float]:
    """MiB of a population's training: its data, what it learns, both phases whole, and a ring of 100 000 steps each."""
    config = population_of(config, members, num_samples)
    row: dict[str, float] = {'members': members, 'num_samples': num_samples}
    row['data'] = mebibytes(data_shapes(SIZES, transitions))
    for phase in ('cvae', 'policy'):
        row[f'{phase}_state'] = mebibytes(jax.eval_shape(prepare(config, SIZES, phase, STEPS)[1])[0].learner)
        row[phase] = bytes_of(lower(config, phase, SIZES, STEPS, transitions=transitions).compile()) / MIB
    row['ring'] = members * mebibytes(data_shapes(SIZES, 100_000).rows)
    return row


def settings(text: str) -> list[tuple[int, int]]:
    """`MEMBERSxCAPACITY,...` as pairs of numbers."""
    pairs = [part.split('x') for part in text.split(',')]
    if any(len(pair) != 2 for pair in pairs):
        raise argparse.ArgumentTypeError(f'{text[:40]!r} is not MEMBERSxCAPACITY,...')
    return [(whole(1, 10_000)(members), whole(1)(capacity)) for members, capacity in pairs]


def of_online(args: argparse.Namespace) -> Iterator[dict[str, float]]:
    """The rows of the settings, each measured in a process of its own and printed."""
    config, context = spot_config(args.config), multiprocessing.get_context('spawn')
    for setting in args.settings:
        with concurrent.futures.ProcessPoolExecutor(1, context) as process:
            options = args.environment, setting, args.transitions, args.new, args.restart
            yield printed(process.submit(measure, config, *options).result())


def of_offline(args: argparse.Namespace) -> Iterator[dict[str, float]]:
    """The rows of the populations, printed."""
    config = spot_config(args.config)
    require_device()
    for members, num_samples in itertools.product((1, *POPULATIONS), SAMPLES):
        yield printed(offline(config, members, num_samples, args.transitions))


def printed(row: dict[str, float]) -> dict[str, float]:
    """The row, once it is printed."""
    print(' '.join(f'{name}={value:.0f}' for name, value in row.items()), flush=True)
    return row


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog='python -m spot_jax.benchmark.memory', description=__doc__)
    parser.add_argument('--config', default='experiments/antmaze.py:umaze', help='default: %(default)s')
    parser.add_argument('--environment', default='spot_jax/AntMaze-UMaze-v1', help='default: %(default)s')
    parser.add_argument(
        '--settings',
        type=settings,
        default=[(4, 100_000), (16, 100_000)],
        help='MEMBERSxCAPACITY,...; default: 4x100000,16x100000',
    )
    parser.add_argument('--transitions', type=whole(1), default=1_000_000, help="the dataset's; default: %(default)s")
    parser.add_argument(
        '--new', type=whole(1), default=50_000, help='transitions of a checkpoint; default: %(default)s'
    )
    parser.add_argument('--restart', action='store_true', help="read the checkpoint's transitions, too")
    parser.add_argument('--offline', action='store_true', help='of training on a dataset instead')
    parser.add_argument('--json', type=place, help='a file for the figures')
    parser.add_argument('--overwrite', action='store_true', help='replace it if it is there')

    def body(args: argparse.Namespace) -> None:
        online = ('environment', 'settings', 'new', 'restart')
        parser.require_read(args, online, not args.offline, 'is of fine-tuning, not of --offline')
        files.require(args, 'json')
        print('MiB, but for members, capacity and num_samples:')
        files.write_json(args.json, list(of_offline(args) if args.offline else of_online(args)))

    return parser.run(argv, body)


if __name__ == '__main__':
    sys.exit(main())
