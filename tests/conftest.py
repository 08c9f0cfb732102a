"""Settings of the whole suite: a rank mismatch is an error, as in the program. And one run that several files test."""

import jax
import pytest
from tiny import ID, tiny

from spot_jax import population, training
from spot_jax.datasets import pointmaze

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """A Minari folder with the dataset that `tiny` names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MINARI_DATASETS_PATH', str(tmp_path_factory.mktemp('minari')))
        pointmaze.generate(ID, 1000)
        yield


@pytest.fixture(scope='session')
def finished(data, tmp_path_factory):
    """The folder of a finished run of `tiny`: to be read only."""
    workdir = tmp_path_factory.mktemp('run')
    traces = []
    original = population.td3.update

    def counting(*args):
        traces.append(1)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population.td3, 'update', counting)
        assert training.run(tiny(), workdir) == 0
    assert len(traces) == 1  # the whole phase compiles once
    return workdir
