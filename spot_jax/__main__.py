"""`python -m spot_jax`: lists the commands."""

import sys

from spot_jax.system.arguments import Parser

COMMANDS = {
    'main --config=experiments/antmaze.py:umaze': 'train a population, or go on with it',
    'main --config=experiments/suite.py:pointmaze': 'train every method on every maze, or go on with it',
    'evaluate DIR': "play a run's policies again, and film them",
    'plot DIR...': 'pictures of runs: learning curves, and episodes in mazes',
    'report DIR... --out=DIR': 'compares runs: tables, statistics, pictures, a page',
    'datasets list|show|generate|import-d4rl': 'the data, made on the spot or taken from elsewhere',
    'behavior train|ship|plot': 'the policies that the data come from',
    'benchmark': 'updates per second, beside a PyTorch baseline',
    'benchmark.online': 'environment steps per second of online fine-tuning',
    'benchmark.memory': 'memory of populations, online and offline',
}


def listed() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f'  python -m spot_jax.{name:<{width}}  {what}' for name, what in COMMANDS.items()]
    return '\n'.join(['SPOT in JAX: policies from fixed datasets. --help after a command explains it.', '', *lines])


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog='python -m spot_jax', usage='python -m spot_jax', add_help=False)
    parser.add_argument('-h', '--help', action='store_true')
    return parser.run(argv, lambda _: print(listed()))


if __name__ == '__main__':
    sys.exit(main())
