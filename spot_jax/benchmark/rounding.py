"""What matrix products of lower precision do to the losses, on any device: their inputs are rounded in software.

A CPU ignores `--config.precision`, so that this is where its effect can be seen without a GPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from spot_jax.benchmark.phases import data_of_rows, prepare, random_rows, whole_blocks, with_settings
from spot_jax.core import networks, xla
from spot_jax.core.types import Array, Params

MANTISSA_BITS = {'float32': 23, 'tensorfloat32': 10, 'bfloat16': 7}  # all have eight bits of exponent


def rounded_product(bits: int) -> Callable[[Array, Array], Array]:
    """`xla.product` with its inputs and gradients rounded to so many bits of mantissa."""
    rounded = lambda x: jax.lax.reduce_precision(x, 8, bits)

    @jax.custom_vjp
    def product(x: Array, kernel: Array) -> Array:
        return rounded(x) @ rounded(kernel)

    def backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
        return xla.product_backward(jax.tree.map(rounded, saved), rounded(grad))

    product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), backward)
    return product


def first(critic: Any, params: Params, observations: Array, actions: Array) -> Array:
    """`DoubleCritic.first` by way of `xla.product`."""
    layers = jax.tree.map(lambda p: p[0], params['params']['twin'])
    x = jnp.concatenate([observations, actions], axis=-1)
    norms = {'layer_norm': critic.layer_norm, 'norm_after': critic.norm_after}
    return networks.MLP(critic.hidden_dims, 1, **norms, parent=None).apply({'params': layers}, x)[..., 0]


@contextlib.contextmanager
def rounded_to(bits: int) -> Iterator[None]:
    """All products of networks that are traced in the block are rounded so."""
    product = rounded_product(bits)
    frozen = lambda x, kernel: product(x, jax.lax.stop_gradient(kernel))
    with (
        mock.patch.object(xla, 'product', product),
        mock.patch.object(xla, 'frozen_product', frozen),
        mock.patch.object(networks.DoubleCritic, 'first', first),
    ):
        yield


def losses(config: ConfigDict, sizes: tuple[int, int], steps: int) -> list[dict[str, Any]]:
    """Mean losses over the first `steps` steps, in whole blocks, of both phases: equal weights, batches and noise."""
    found, rows = [], data_of_rows(random_rows(sizes))
    config = with_settings(config, seeds=(0,))
    for name, bits in MANTISSA_BITS.items():
        with rounded_to(bits):
            figures: dict[str, float] = {}
            for phase in ('cvae', 'policy'):
                run, arguments = prepare(config, sizes, phase, whole_blocks(config, sizes, phase, steps))
                _, metrics = run(*arguments(), rows)
                figures |= {key: float(value.squeeze()) for key, value in metrics.items()}
        found.append({'precision': name, 'steps': steps, **figures})
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for people, beside float32's."""
    lines = [f'means of the first {rows[0]["steps"]} steps   ' + ''.join(f'{row["precision"]:>28s}' for row in rows)]
    for key in list(rows[0])[2:]:
        change = lambda row, key=key: f'{row[key]:15.6f} ({row[key] / rows[0][key] - 1:+.1e})'
        lines.append(f'{key:28s}' + ''.join(f'{change(row):>28s}' for row in rows))
    return '\n'.join(lines)
