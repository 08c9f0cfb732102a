"""The matrix products of an update alone, one after the other at their own shapes: the most that it could reach."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spot_jax.benchmark import flops
from spot_jax.benchmark.phases import Case, block_of, bytes_of, update_flops
from spot_jax.core.xla import compiler_options
from spot_jax.run.footprint import of_phases


def case(name: str, config: ConfigDict, sizes: tuple[int, int], phase: str, steps: int) -> Case:
    """Those of one member in a phase (see `phases.prepare`), on random numbers, `steps` steps' of them a round."""
    products = list(flops.products(of_phases(config, sizes)[phase][0].jaxpr))
    rng = np.random.default_rng(0)
    random = lambda x: jnp.asarray(rng.normal(size=x.aval.shape).astype(np.float32))
    pairs = [tuple(map(random, product.invars)) for product in products]

    @jax.jit
    @jax.default_matmul_precision(config.precision)
    def block(pairs: list[tuple[Any, Any]]) -> list[Any]:
        done: list[Any] = []
        for (x, y), product in zip(pairs, products, strict=True):
            if done:  # not two at a time, as none of an update's can be before what it follows from
                x, done[-1] = jax.lax.optimization_barrier((x, done[-1]))
            done.append(jax.lax.dot_general(x, y, product.params['dimension_numbers']))
        return done

    start = time.perf_counter()
    compiled = block.lower(pairs).compile(compiler_options=compiler_options(jax.default_backend()))
    compile_s, count = time.perf_counter() - start, block_of(config, sizes, phase)

    def run(steps: int) -> None:
        for _ in range(steps // count):
            done = compiled(pairs)
        jax.block_until_ready(done)

    return Case(name, run, steps, 1, update_flops(config, sizes, phase), compile_s, bytes_of(compiled))
