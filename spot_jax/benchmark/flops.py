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


def of(jaxpr: Any) -> int:
    """The operations of all products that a traced function runs."""
    total = 0
    for equation in live(jaxpr):
        if equation.primitive.name == 'dot_general':
            (contracted, _), _ = equation.params['dimension_numbers']
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        times = equation.params['length'] if equation.primitive.name == 'scan' else 1
        total += times * sum(of(inner) for inner in core.jaxprs_in_params(equation.params))
    return total
