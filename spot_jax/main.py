"""`python -m spot_jax.main --config=experiments/antmaze.py:umaze --workdir=DIR [--config.FIELD=VALUE ...]`."""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from spot_jax.errors import InputError, exit_status

CONFIG = config_flags.DEFINE_config_file('config', None, 'Experiment file, with its preset after a colon.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; the same command again resumes it.')
DISTRIBUTED = flags.DEFINE_string(
    'distributed', None, 'Shares the members out over hosts: auto (SLURM, ...) or COORDINATOR:PORT,HOSTS,HOST.'
)


def _one_line(error: BaseException) -> str:
    """An exception's words on one line; a KeyError's own text would be quoted."""
    while error.__cause__ is not None:
        error = error.__cause__
    while error.args and isinstance(error.args[0], BaseException):  # ml_collections wraps its errors so
        error = error.args[0]
    return ' '.join(str(error.args[0] if isinstance(error, KeyError) else error).split())


def parse(argv: list[str]) -> tuple[ConfigDict, Path]:
    """The config and the workdir; raises InputError with one clear line for what is wrong with the flags."""
    try:
        rest = flags.FLAGS(argv)
        config = CONFIG.value
        if config is not None:
            config['seeds']  # a file that could not be read says so at the first access
    except InputError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        raise InputError(_one_line(error)) from error
    if len(rest) > 1:
        raise InputError(f'unexpected argument {rest[1]!r}')
    if config is None or WORKDIR.value is None:
        raise InputError('--config=FILE.py[:PRESET] and --workdir=DIR are needed')
    return config, Path(WORKDIR.value)


def cli(argv: list[str]) -> int:
    """Parses and runs; returns the exit status: 0, 2 (bad input), 3 (all members diverged), 130 or 143 (stopped)."""

    def body() -> int:
        config, workdir = parse(argv)
        import jax

        jax.config.update('jax_numpy_rank_promotion', 'raise')
        if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
            jax.config.update('jax_compilation_cache_dir', str(Path('~/.cache/spot_jax').expanduser()))
        from spot_jax import hosts, training

        if DISTRIBUTED.value is None:
            return training.run(config, workdir)
        return hosts.run(config, workdir, *hosts.connect(DISTRIBUTED.value))

    return exit_status(body)


if __name__ == '__main__':
    sys.exit(cli(sys.argv))
