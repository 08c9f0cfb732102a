"""Members shared out over three devices come out as on one, and in turns as all at once."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spot_jax.methods.spot import Hyperparameters
from spot_jax.population.program import PhaseState
from spot_jax.population.sharding import grid_mesh, in_turns, split

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update('jax_num_cpu_devices', 3)
jax.config.update('jax_numpy_rank_promotion', 'raise')
from tiny import tiny
from spot_jax.population import online
from spot_jax.population import program
from spot_jax.population import sharding
from spot_jax.benchmark.phases import data_of_rows
from spot_jax.methods import spot
from spot_jax.run.config import members
data = data_of_rows(np.random.default_rng(0).uniform(-1, 1, (50, 12)).astype(np.float32))
for changes in (
    {'seeds': (0, 1, 2, 3)},
    {'seeds': (0,), 'grid.regularizer_weight': (0.1, 0.2, 0.3, 0.4)},
    {'seeds': (0, 1), 'grid.beta': (0.5, 1.0), 'grid.discount': (0.9, 0.99)},
):
    config = tiny(**changes)
    spec, everyone = spot.make_spec(config, 4, 2), members(config)
    seeds, hypers = everyone.seeds(), everyone.hyperparameters()
    algorithm, stage = spot.algorithm(spec), spot.cvae_stage(spec)
    found = []
    for devices, at_once in ((jax.devices()[:1], 8), (jax.devices(), 1)):
        cvaes, _ = program.stage_phase(stage, 10, devices=devices, at_once=at_once)(
            program.init_stage(seeds, stage), seeds, hypers, None, data
        )
        phase = program.policy_phase(algorithm, 10, devices=devices, at_once=at_once)
        state = sharding.replicate(program.init_policies(seeds, everyone.shape[1], algorithm), devices)
        for _ in range(2):
            state, metrics = phase(state, seeds, hypers, cvaes.learner.params, data)
        assert (int(state.block), phase._cache_size()) == (10, 1)
        found.append(jax.device_get((cvaes.learner, state, metrics)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)

options = online.Options(True, None, 0.2, 100, 0.1, ('regularizer_weight',))
new = jnp.array(np.random.default_rng(1).uniform(-1, 1, (4, 2, *everyone.shape, 12)), jnp.float32)
found = []
for devices in (jax.devices()[:1], jax.devices()):
    mesh = sharding.grid_mesh(everyone.shape, devices)
    policies = program.init_policies(seeds, everyone.shape[1], algorithm)
    arguments = (policies, online.empty_ring(everyone.shape, 6, 12), seeds, hypers, cvaes.learner.params, data)
    state, ring, *fixed = online.place(mesh, *arguments)
    update, add = online.online_phase(algorithm, 16, options, mesh), online.adder(mesh)
    for block in new:
        ring = add(ring, block)
        state, metrics = update(state, ring, *fixed)
    assert (update._cache_size(), add._cache_size()) == (1, 1)
    found.append(jax.device_get((state, ring, metrics)))
assert [(s.device.id, s.data.shape) for s in ring.rows.addressable_shards] == [(0, (2, 2, 6, 12)), (1, (2, 2, 6, 12))]
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)
print('agree')
"""


@pytest.mark.parametrize(
    ('shape', 'devices', 'expected'),
    [((4, 1), 4, (4, 1)), ((4, 2), 3, (2, 1)), ((1, 6), 4, (1, 3)), ((2, 3), 6, (2, 3)), ((5, 1), 4, (1, 1))],
)
def test_the_grid_of_devices_shares_members_out_evenly(shape, devices, expected):
    assert grid_mesh(shape, list(range(devices))).devices.shape == expected


@pytest.mark.parametrize(
    ('cvaes', 'settings', 'devices', 'expected'),
    [(4, 1, 3, 1), (1, 8, 4, 4), (3, 2, 2, 2), (3, 2, 6, 2), (1, 3, 2, 3), (2, 4, 8, 4)],
)
def test_settings_are_split_where_it_helps(cvaes, settings, devices, expected):
    assert split(cvaes, settings, devices) == expected


@pytest.mark.parametrize(('shape', 'at_once'), [((4, 1), 2), ((2, 4), 2), ((2, 2), 4), ((5, 2), 4), ((1, 7), 2)])
@pytest.mark.parametrize('phase', ['cvae', 'policy'])
def test_turns_give_everyone_their_own(phase, at_once, shape):
    """A phase that writes down what each member was given; no turn is larger than it may be."""
    members = shape if phase == 'policy' else shape[:1]
    per_member = lambda x: x[:, None] if phase == 'policy' else x
    hypers = Hyperparameters(*(jnp.arange(np.prod(shape)).reshape(shape) + 100.0 * i for i in range(8)))
    own = jnp.arange(np.prod(members)).reshape(members) * 0.5
    state = PhaseState({'w': jnp.stack([own, 2 * own], axis=-1)}, own > 1, own.astype(jnp.int32), jnp.int32(7))
    seeds, params = jnp.arange(shape[0]) + 1000, jnp.arange(shape[0]) + 2000
    sizes = []

    def run(state, seeds, hypers, params, rows):
        sizes.append(state.alive.size)
        seen = per_member(seeds + params) * jnp.ones(state.alive.shape) + rows[0] * (
            hypers.discount if phase == 'policy' else hypers.beta[:, 0]
        )
        learner = {'w': state.learner['w'] + jnp.stack([seen, -seen], axis=-1)}
        return PhaseState(learner, ~state.alive, state.gradient_steps + 1, state.block + 3), {'q': seen}

    arguments = (state, seeds, hypers, params, jnp.full(1, 2.0))
    got = jax.jit(in_turns(run, at_once))(*arguments)
    assert max(sizes) <= at_once
    jax.tree.map(np.testing.assert_array_equal, got, run(*arguments))


def test_three_devices_and_turns_give_the_results_of_one():
    here = Path(__file__).parent
    environment = {**os.environ, 'PYTHONPATH': f'{here}{os.pathsep}{here.parent}'}
    done = subprocess.run([sys.executable, '-c', PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == 'agree\n', done.stderr
