"""Benchmarks of fine-tuning: what the figures are made of; how high they are is no test."""

import numpy as np
import pytest
from tiny import tiny

from spot_jax.benchmark import memory, online

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
