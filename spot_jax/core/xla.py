"""What makes the training step fast, and what keeps it running, apart from the science: each device with its reason.

XLA compiles a method's update as it is written, but some ways to write the same arithmetic cost copies, kernels or
more: these are the better ones, by name. A method that uses none of them is right, only slower. Numbers are of a block
of SPOT's updates at AntMaze's sizes: instructions that a CPU executes for it (`tests/test_kernels.py` holds their
count), launches on an H100, or updates per second (`experiments/results/throughput`, `experiments/results/gpu`).
"""

import warnings
from collections.abc import Iterable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spot_jax.core.types import Array, Params

# Options of the compiler, by platform. A GPU's small products would be split in parts, added up by kernels of their
# own: 17 launches more. A CPU's would go to YNNPACK, slower here than Eigen: 261 instead of 295 updates/s.
COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    'gpu': {'xla_gpu_experimental_force_split_k': 1},
    'cpu': {'xla_cpu_experimental_ynn_fusion_type': ''},
}
# Members that train at a time, where not all do: on a CPU those whose parameters and moments stay in its cache. Of 16
# members all at once, 238 updates/s; two at a time, 295.
AT_ONCE = {'cpu': 2}


@cache
def compiler_options(platform: str) -> dict[str, Any]:
    """Those of `COMPILER_OPTIONS` that the XLA of this process knows; a warning names the others.

    XLA ends a compilation that is given an option it does not know, and its options come and go with its versions.
    """
    known = {}
    for name, value in COMPILER_OPTIONS.get(platform, {}).items():
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
            known[name] = value
        except jax.errors.JaxRuntimeError:
            warnings.warn(f'this XLA does not know {name}: training goes on without, perhaps more slowly', stacklevel=2)
    return known


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
    """`[..., I]` times `[I, O]`; the kernel's gradient comes as [I, O] (jax's own rule transposes it: a copy)."""
    return x @ kernel


def product_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    """The gradients of both, from (x, kernel)."""
    x, kernel = saved
    if kernel.shape[-1] == 1:  # of a critic; else each kernel that reads it would compute it anew, from old biases too
        grad = settled(grad)
    rows = lambda x: x.reshape(-1, x.shape[-1])
    return jnp.einsum('...o,io->...i', grad, kernel), jnp.einsum('bi,bo->io', rows(x), rows(grad))


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), product_backward)


@jax.custom_vjp
def frozen_product(x: Array, kernel: Array) -> Array:
    """`product` with a kernel that does not change and wants no gradient.

    The barrier makes XLA transpose it before a loop, not in each trip: 236 to 272 updates/s on a CPU.
    """
    return x @ kernel


def _frozen_product_backward(kernel: Array, grad: Array) -> tuple[Array, Array]:
    return grad @ jax.lax.optimization_barrier(kernel.T), jnp.zeros_like(kernel)


frozen_product.defvjp(lambda x, kernel: (x @ kernel, kernel), _frozen_product_backward)


def settled(tree: Any) -> Any:
    """The same values, computed here once and for all, and joined with nothing.

    XLA may compute a value where it is read, late and more than once; if it is made of parameters that an optimiser
    has changed since, they must be copied for that. It may also join products that have an input in common, by copies.
    """
    return jax.lax.optimization_barrier(tree)


def for_each(x: Array, count: int) -> Array:
    """A copy of `x` for each of so many networks, `[count, ...]`.

    An input that they share would join their first layers in one product of parameters that are transposed (copied).
    """
    return jnp.broadcast_to(x, (count, *x.shape))


def sum_of(*terms: Array) -> Array:
    """The sum of several terms over their last axes, `[..., N]` each with its own N: one kernel, not one for each."""
    return jnp.sum(jnp.concatenate(terms, axis=-1), axis=-1)


def orthonormal(key: Array, shape: tuple[int, int]) -> Array:
    """Orthonormal columns of a uniformly random direction, `[N, M]` with N ≥ M; the key is consumed.

    By Gram and Schmidt, each column twice, and not by LAPACK: on a CPU with few threads two of jax's batched
    factorisations in one program wait for each other's threads for ever.
    """
    columns = jax.random.normal(key, shape).T
    multiply = partial(jnp.matmul, precision='float32')  # a GPU's own, TF32, is not enough

    def step(i: Array, found: Array) -> Array:
        v = columns[i]
        for _ in range(2):
            v = v - multiply(found.T, multiply(found, v))
        return found.at[i].set(v / jnp.linalg.norm(v))

    return jax.lax.fori_loop(0, shape[1], step, jnp.zeros_like(columns)).T


B1, B2, EPS = 0.9, 0.999, 1e-8  # of Adam


class AdamState(NamedTuple):
    """Adam's moments.

    The bias corrections are carried instead of a count of steps, because powers cost kernels of their own; as one
    vector, because XLA fuses the updates of several parameters only if they read an array, not two scalars.
    """

    correction: Array  # [2], 1 − B1^t and 1 − B2^t after t steps; or those of the coming steps, [N, 2]
    mu: Params  # mean of the gradients
    nu: Params  # mean of their squares


def correction_after(steps: Any, correction: Array) -> Array:
    """What a `correction` [..., 2] is so many steps later, a number or an array that broadcasts to `[...]`."""
    float32s = np.array([B1, B2], np.float32).astype(np.float64)  # optax raises the float32 numbers
    decays = float32s ** np.asarray(steps)[..., None]
    decays = decays.reshape((1,) * (correction.ndim - decays.ndim) + decays.shape)
    return jnp.float32(decays) * correction + jnp.float32(1 - decays)


def _is_adam(tree: Any) -> bool:
    return isinstance(tree, AdamState)


def corrections(learner: Any) -> list[Array]:
    """The `correction` of every optimiser in a tree."""
    return [adam.correction for adam in jax.tree.leaves(learner, is_leaf=_is_adam) if _is_adam(adam)]


def with_corrections(learner: Any, new: Iterable[Array]) -> Any:
    """The tree with others in their place."""
    rest = iter(new)
    replace = lambda x: x._replace(correction=next(rest)) if _is_adam(x) else x
    return jax.tree.map(replace, learner, is_leaf=_is_adam)


def coming_corrections(learner: Any, steps: tuple[int, ...], num_blocks: int) -> tuple[list[Array], list[Array]]:
    """Those of every optimiser for the steps of the coming blocks, `[num_blocks, ..., steps, 2]`, and those after them.

    `steps` are each optimiser's in a block. All at once: carried from block to block, they would cost kernels of their
    own (2 to 4 launches) and copies.
    """
    now = list(zip(steps, corrections(learner), strict=True))
    queues = [correction_after(counted(num_blocks, n, c.ndim), c[None, ..., None, :]) for n, c in now]
    return queues, [correction_after(num_blocks * n, c) for n, c in now]


def counted(num_blocks: int, per_block: int, ndim: int) -> np.ndarray:
    """1, 2, 3, ... as `[num_blocks, 1, ..., per_block]`, with axes for members in between."""
    return np.arange(1, num_blocks * per_block + 1).reshape(num_blocks, *(1,) * (ndim - 1), per_block)
