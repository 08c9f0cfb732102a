"""`python -m spot_jax.behavior train ROBOT --workdir=DIR`: trains a behaviour policy; the same command resumes it.

`python -m spot_jax.behavior ship NAME --workdir=DIR` puts it into the package, with a card of what it does;
`python -m spot_jax.behavior plot DIR... --out=FILE.png` draws learning curves.
"""

import sys
from pathlib import Path

from spot_jax.behavior.curves import plot
from spot_jax.behavior.settings import SETTINGS
from spot_jax.behavior.ship import ship
from spot_jax.system.arguments import MAX_SEED, Parser, place, png_file, whole

MAX_STEPS = 10**9 - 1  # counters are int32


def train(robot: str, workdir: Path, steps: int | None, seed: int) -> int:
    """Trains a robot of `SETTINGS`; returns the exit status."""
    import jax

    jax.config.update('jax_numpy_rank_promotion', 'raise')
    from spot_jax.behavior import training
    from spot_jax.system import backend

    backend.keep_compiled()
    settings = SETTINGS[robot]
    return training.run(settings._replace(steps=steps or settings.steps), seed, workdir)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog='python -m spot_jax.behavior', description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    learn = commands.add_parser('train', help='train a behaviour policy, or go on with it')
    learn.add_argument('robot', choices=SETTINGS)
    learn.add_argument('--workdir', type=place, required=True)
    learn.add_argument('--steps', type=whole(1, MAX_STEPS), help="environment steps; default: the robot's own number")
    learn.add_argument('--seed', type=whole(0, MAX_SEED), default=0)
    keep = commands.add_parser('ship', help='put a trained policy into the package, with its card')
    keep.add_argument('name', help='of the policy from now on: ant, hopper-medium, ...')
    keep.add_argument('--workdir', type=place, required=True)
    keep.add_argument('--kind', choices=['medium', 'expert'], default='expert')
    keep.add_argument('--overwrite', action='store_true', help='replace a policy of that name')
    draw = commands.add_parser('plot', help='learning curves as a picture')
    draw.add_argument('workdirs', type=place, nargs='+', metavar='DIR')
    draw.add_argument('--out', type=png_file, required=True, metavar='FILE.png')
    draw.add_argument('--overwrite', action='store_true', help='replace a picture that is there')
    learn.set_defaults(run=lambda args: train(args.robot, args.workdir, args.steps, args.seed))
    keep.set_defaults(run=lambda args: ship(args.name, args.workdir, args.kind, args.overwrite))
    draw.set_defaults(run=lambda args: plot(args.workdirs, args.out, args.overwrite))
    return parser.run(argv, lambda args: args.run(args))


if __name__ == '__main__':
    sys.exit(main())
