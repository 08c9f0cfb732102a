"""Settings of the whole suite: a rank mismatch is an error, as in the program; all tests share compiled programs."""

import os
import shutil
import tempfile

# Set before jax is imported, and before pytest-xdist starts its workers, so that they and the commands run see it too.
_MADE_HERE = 'JAX_COMPILATION_CACHE_DIR' not in os.environ
if _MADE_HERE:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='spot_jax_tests_')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_unconfigure():
    """Only the process that made the folder removes it."""
    if _MADE_HERE:
        shutil.rmtree(os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
