"""Settings of the whole suite: a rank mismatch is an error, as in the program; all tests share compiled programs.

And one run that several files test.
"""

import importlib.metadata
import os
import shutil
import signal
import tempfile

# Set before jax is imported, and before pytest-xdist starts its workers, so that they and the commands run see it too.
_MADE_HERE = 'JAX_COMPILATION_CACHE_DIR' not in os.environ
if _MADE_HERE:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='spot_jax_tests_')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'  # small programs are many, and take as long together
# Most of the suite's time is compiling: without LLVM's optimisation, and by XLA's older emitters, it is less than half.
_QUICK = ['--xla_backend_optimization_level=0', '--xla_llvm_disable_expensive_passes=true']
if importlib.metadata.version('jaxlib').startswith('0.10.'):
    _QUICK.append('--xla_cpu_use_fusion_emitters=false')  # a flag that is not known ends the process
os.environ.setdefault('XLA_FLAGS', ' '.join(_QUICK))
os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # where a GPU is, too: bytes and counts are a CPU's

import jax  # noqa: E402
import nearby  # noqa: E402
import pytest  # noqa: E402
from tiny import ID, tiny  # noqa: E402

from spot_jax.methods import spot  # noqa: E402
from spot_jax.recipes import generate  # noqa: E402
from spot_jax.run import training  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
# A shell that starts the suite in the background has it ignore Ctrl-C, and so all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure():
    """Only the process that made the folder removes it."""
    if _MADE_HERE:
        shutil.rmtree(os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """A Minari folder with the dataset that `tiny` names."""
    folder = tmp_path_factory.mktemp('minari')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MINARI_DATASETS_PATH', str(folder))
        generate(ID, 1000)
        nearby.evaluate_there(folder / ID)
        yield


@pytest.fixture(scope='session')
def finished(data, tmp_path_factory):
    """The folder of a finished run of `tiny`: to be read only."""
    workdir = tmp_path_factory.mktemp('run')
    traces = []
    original = spot.update

    def counting(*args):
        traces.append(1)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spot, 'update', counting)
        patch.setattr(training.footprint, 'check', lambda *_: None)  # it looks at the update's shapes
        assert training.run(tiny(), workdir) == 0
    assert len(traces) == 1  # the whole phase compiles once
    return workdir
