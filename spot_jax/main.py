"""`python -m spot_jax.main --config=experiments/antmaze.py:umaze --workdir=DIR [--config.FIELD=VALUE ...]`."""

import sys
from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from spot_jax.errors import InputError, exit_status

CONFIG = config_flags.DEFINE_config_file('config', None, 'Experiment file, with its preset after a colon.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; the same command again resumes it.')


def parse(argv: list[str]) -> list[str]:
    """absl's flag parsing, with one clear line for what is wrong."""
    try:
        rest = flags.FLAGS(argv)
    except InputError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        raise InputError(' '.join(str(error).split())) from error
    if len(rest) > 1:
        raise InputError(f'unexpected argument {rest[1]!r}')
    if CONFIG.value is None or WORKDIR.value is None:
        raise InputError('--config=FILE.py[:PRESET] and --workdir=DIR are needed')
    return rest


def _run() -> int:
    import jax

    jax.config.update('jax_numpy_rank_promotion', 'raise')
    from spot_jax.training import run

    return run(CONFIG.value, Path(WORKDIR.value))


def cli(argv: list[str]) -> int:
    """Parses and runs; returns the exit status: 0, 2 (bad input), 3 (all members diverged), 130 or 143 (stopped)."""
    logging.set_verbosity(logging.WARNING)

    def body() -> int:
        parse(argv)
        return _run()

    return exit_status(body)


if __name__ == '__main__':
    sys.exit(cli(sys.argv))
