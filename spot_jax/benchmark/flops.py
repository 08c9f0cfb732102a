"""Floating-point operations of an update's matrix products: two for each multiply-add, nothing else is counted."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def live(jaxpr: Any) -> Iterator[Any]:
    """The equations whose values are needed, last first: others, such as an input's unused gradient, are never run."""
    needed = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(v for v in equation.invars if isinstance(v, core.Var))
            yield equation


def products(jaxpr: Any) -> Iterator[Any]:
    """The equations of all products that a traced function runs, those of a scan as often as it runs."""
    for equation in live(jaxpr):
        if equation.primitive.name == 'dot_general':
            yield equation
        times = equation.params['length'] if equation.primitive.name == 'scan' else 1
        for inner in core.jaxprs_in_params(equation.params):
            yield from list(products(inner)) * times


def operations(product: Any) -> int:
    """Those of one."""
    (contracted, _), _ = product.params['dimension_numbers']
    shape = product.invars[0].aval.shape
    return 2 * math.prod(product.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)


def of(jaxpr: Any) -> int:
    """The operations of all products that a traced function runs."""
    return sum(map(operations, products(jaxpr)))
