"""Members shared out over three devices come out as on one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spot_jax.sharding import split

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update('jax_num_cpu_devices', 3)
jax.config.update('jax_numpy_rank_promotion', 'raise')
from tiny import tiny
from spot_jax import population, sharding
from spot_jax.build import build_spec
from spot_jax.config import members
rows = jnp.array(np.random.default_rng(0).uniform(-1, 1, (50, 12)), jnp.float32)
for changes in (
    {'seeds': (0, 1, 2, 3)},
    {'seeds': (0,), 'grid.regularizer_weight': (0.1, 0.2, 0.3, 0.4)},
    {'seeds': (0, 1), 'grid.beta': (0.5, 1.0), 'grid.discount': (0.9, 0.99)},
):
    config = tiny(**changes)
    spec, everyone = build_spec(config, 4, 2), members(config)
    seeds, hypers = jnp.array([s for s, _ in everyone.cvaes()], jnp.uint32), everyone.hyperparameters()
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        cvaes, _ = population.cvae_phase(spec, 10, devices)(
            population.init_cvaes(seeds, spec), seeds, hypers, None, rows
        )
        phase = population.policy_phase(spec, 10, devices)
        state = sharding.replicate(population.init_policies(seeds, everyone.shape[1], spec), devices)
        for _ in range(2):
            state, metrics = phase(state, seeds, hypers, cvaes.learner.params, rows)
        assert (int(state.block), phase._cache_size()) == (10, 1)
        found.append(jax.device_get((cvaes.learner, state, metrics)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)
print('agree')
"""


@pytest.mark.parametrize(
    ('cvaes', 'settings', 'devices', 'expected'),
    [(4, 1, 3, 1), (1, 8, 4, 4), (3, 2, 2, 2), (3, 2, 6, 2), (1, 3, 2, 3), (2, 4, 8, 4)],
)
def test_settings_are_split_where_it_helps(cvaes, settings, devices, expected):
    assert split(cvaes, settings, devices) == expected


def test_three_devices_give_the_results_of_one():
    here = Path(__file__).parent
    environment = {**os.environ, 'PYTHONPATH': f'{here}{os.pathsep}{here.parent}'}
    done = subprocess.run([sys.executable, '-c', PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == 'agree\n', done.stderr
