"""Cases run in turn, beside the device's rate of matrix products."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spot_jax.benchmark.phases import Case

MATMUL = 1024  # rows and columns of the matrices whose product gives the device's rate


def matmul_rate(rounds: int = 5, size: int = MATMUL, precision: str = 'float32') -> float:
    """The device's rate of products of `size` by `size` float32 matrices in FLOP/s: the best of `rounds`."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)).astype(np.float32))
    product = jax.jit(jax.default_matmul_precision(precision)(lambda x: x @ x))
    product(x).block_until_ready()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(5):
            y = product(x)
        y.block_until_ready()
        seconds.append((time.perf_counter() - start) / 5)
    return 2 * size**3 / min(seconds)


def measure(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """Runs all cases in turn, `rounds` times after a warm-up; the matmul rate is measured before each round."""
    rates: dict[str, list[float]] = {case.name: [] for case in cases}
    peaks = []
    for i in range(rounds + 1):
        peaks.append(matmul_rate())
        for case in cases:
            start = time.perf_counter()
            case.run(case.steps)
            if i > 0:
                rates[case.name].append(case.steps * case.members / (time.perf_counter() - start))
    peak = statistics.median(peaks)
    rows = []
    for case in cases:
        rate = statistics.median(rates[case.name])
        rows.append(
            {
                'case': case.name,
                'updates_per_s': rate,
                'lowest': min(rates[case.name]),
                'highest': max(rates[case.name]),
                'gflop_per_update': case.flops / 1e9,
                'share_of_matmul_rate': rate * case.flops / peak,
                'compile_s': case.compile_s,
                'memory_mib': None if case.memory is None else case.memory / 2**20,
            }
        )
    return [{'case': f'matmul {MATMUL}', 'gflop_per_s': peak / 1e9}, *rows]
