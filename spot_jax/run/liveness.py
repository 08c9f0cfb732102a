"""What an update stores while it computes, at least, from its traced program."""

import math
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from jax.extend import core

FLOAT = 4  # bytes

Values = frozenset[int]  # numbers of stored values


def shape_of(variable: Any) -> tuple[int, ...]:
    """The shape of its values."""
    return variable.aval.shape


class _Trace:
    """The values that a program stores: results of matrix products, and of what makes less of them.

    Elementwise operations store nothing, since the compiler fuses them with what reads them; but a product that reads
    their results reads what they were made of. So what a backward pass needs of the forward pass counts until then.
    """

    def __init__(self, in_place: set[tuple[int, ...]]):
        self.in_place = in_place  # shapes of parameters: new ones take the places of the old
        self.sizes: list[int] = []
        self.made: list[int] = []
        self.read: list[int] = []  # at last
        self.now = 0  # operations so far

    def store(self, shape: tuple[int, ...]) -> Values:
        """A new value."""
        self.sizes.append(0 if shape in self.in_place else FLOAT * math.prod(shape))
        self.made.append(self.now)
        self.read.append(self.now)
        return frozenset({len(self.sizes) - 1})

    def use(self, values: Values) -> None:
        """An operation reads them."""
        for value in values:
            self.read[value] = self.now

    def of_result(self, used: Values, shape: tuple[int, ...]) -> Values:
        """What an elementwise operation's result is made of; a smaller one, as a sum, is a value of its own."""
        if all(self.sizes[value] <= FLOAT * math.prod(shape) for value in used):
            return used
        self.use(used)
        return self.store(shape)

    def walk(self, jaxpr: core.Jaxpr, arguments: Iterable[Values]) -> list[Values]:
        """Goes through a program whose inputs are made of `arguments`; what its outputs are made of."""
        known: dict[Any, Values] = dict(zip(jaxpr.invars, arguments, strict=True))
        made_of = lambda x: frozenset() if isinstance(x, core.Literal) else known.get(x, frozenset())
        for equation in jaxpr.eqns:
            self.now += 1
            operands, name = [made_of(x) for x in equation.invars], equation.primitive.name
            used = frozenset[int]().union(*operands)
            shapes = [shape_of(x) for x in equation.outvars]
            inner = list(core.jaxprs_in_params(equation.params))
            if name not in ('scan', 'while') and len(inner) == 1 and len(inner[0].invars) == len(operands):
                results = self.walk(inner[0], operands)
            elif inner or name == 'dot_general':
                self.use(used)
                for body in inner:  # of a loop or a branch
                    self.walk(body, [frozenset()] * len(body.invars))
                results = [self.store(shape) for shape in shapes]
            else:
                results = [self.of_result(used, shape) for shape in shapes]
            known.update(zip(equation.outvars, results, strict=True))
        return [made_of(x) for x in jaxpr.outvars]


def most_stored(jaxpr: core.Jaxpr) -> int:
    """The most bytes that a program stores at a time, its inputs and outputs apart.

    A lower bound as far as the compiler keeps to the order of the program.
    """
    trace = _Trace({shape_of(x) for x in jaxpr.invars})
    trace.walk(jaxpr, [frozenset()] * len(jaxpr.invars))
    changes: Counter[int] = Counter()
    for size, made, read in zip(trace.sizes, trace.made, trace.read, strict=True):
        changes[made] += size
        changes[read + 1] -= size
    return max(accumulate(changes[at] for at in sorted(changes)), default=0)
