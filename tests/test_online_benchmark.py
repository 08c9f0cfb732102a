"""Benchmarks of fine-tuning: what the figures are made of; how high they are is no test."""

import numpy as np
import pytest
from tiny import tiny

from spot_jax.benchmark import memory, online
from spot_jax.benchmark.phases import with_settings
from spot_jax.run.config_files import read_config

MAZE = 'spot_jax/PointMaze-UMaze-v0'  # 4 values of observation, 2 of action: rows of 12


def test_throughput():
    loops = online.Loops(tiny(), MAZE, 2, 0, 40, 100)
    loops.plain_loop(2)
    loops.gather(loops.overlapped, loops.explore())
    loops.loop(3)
    loops.updating(4)
    assert loops.ring.count == loops.step == 2 * (2 + 1 + 3)
    assert loops.state.gradient_steps.tolist() == [[2 * (2 + 3 + 4)]] * 2  # one update per step, but for `updating`
    loops.close()

    row = online.measure(tiny(), MAZE, 2, 0, 1)
    rates = row['steps_per_s']
    together = 1 / rates['act'] + 1 / rates['step'] + 1 / rates['update']
    assert rates['sum_of_parts'] == pytest.approx(1 / together)
    assert row['overlapped_over_sum_of_parts'] == pytest.approx(rates['overlapped'] / rates['sum_of_parts'])
    assert row['overlapped_over_plain'] == pytest.approx(rates['overlapped'] / rates['plain'])


def test_memory_by_shapes():
    row = memory.measure(tiny(), MAZE, (2, 50_000), 1000, 100, restart=True)
    np.testing.assert_allclose(row['ring'], 2 * 50_000 * 12 * 4 / 2**20)
    np.testing.assert_allclose(row['dataset'], 1000 * (12 + 3) * 4 / 2**20)  # with what is known of the episodes
    assert row['by_shapes'] <= row['live_arrays'] < row['resident'] <= row['peak'] <= row['peak_with_checkpoint']


def test_memory_of_training_on_a_dataset():
    """By hand: 1000 rows of 29 + 8 + 2 + 29 numbers, and three of its episode each; the programs hold that at least."""
    small = {'cvae.hidden_dims': (8,), 'actor.hidden_dims': (8,), 'critic.hidden_dims': (8,), 'batch_size': 4}
    config = with_settings(read_config('experiments/antmaze.py:umaze'), **small)
    one, four = (memory.offline(config, members, 1, 1000) for members in (1, 4))
    assert one['data'] == four['data'] == 1000 * (68 + 3) * 4 / 2**20
    assert (one['ring'], four['ring']) == (68 * 4 * 1e5 / 2**20, 4 * 68 * 4 * 1e5 / 2**20)
    weights = (30 * 8 + 9 * 8) + 2 * (38 * 8 + 9)  # of the policy and the critics
    assert one['policy_state'] * 2**20 == pytest.approx(4 * weights * 4, rel=0.02)  # targets, and Adam's two moments
    for row in (one, four):
        assert row['policy'] > row['data'] + row['policy_state']
        assert row['cvae'] > row['data'] + row['cvae_state']
    assert four['cvae_state'] == pytest.approx(4 * one['cvae_state'])
