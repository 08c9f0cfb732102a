"""A population over several devices, and on one device in turns: the members never talk during a phase.

Outside an offline phase all arrays are in their plain layout, on every device, so that nothing else has to know. Online
each member's ring stays where it is.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from spot_jax.core.method import Data

EVERYWHERE, MEMBERS = PartitionSpec(), PartitionSpec('members')
GROUPS, POLICIES = PartitionSpec('groups'), PartitionSpec('groups', 'settings')  # on a `grid_mesh`


def divisors(n: int) -> list[int]:
    """What divides `n`, in order."""
    return [k for k in range(1, n + 1) if n % k == 0]


def split(num_groups: int, num_settings: int, num_devices: int) -> int:
    """Into how many strips the settings of each group are cut, so that the busiest device has the fewest members."""
    return min(divisors(num_settings), key=lambda k: -(-num_groups * k // num_devices) * (num_settings // k))


def in_strips(k: int, state: Any, seeds: jax.Array, hypers: Any, shared: Any) -> tuple[Any, ...]:
    """A phase's arguments but for the block: members [C, P] in strips [C * k, P / k], with what their groups share."""
    c, p = hypers[0].shape
    of_policies = lambda x: x.reshape(c * k, p // k, *x.shape[2:])
    of_groups = lambda x: jnp.repeat(x, k, axis=0)
    learners = of_policies if state.alive.ndim == 2 else of_groups  # members are [C] in a stage's phase
    return (
        jax.tree.map(learners, state.replace(block=None)),
        of_groups(seeds),
        jax.tree.map(of_policies, hypers),
        jax.tree.map(of_groups, shared),
    )


def in_turns(run: Callable[..., Any], at_once: int) -> Callable[..., Any]:
    """A phase's `run` for at most `at_once` members at a time, each lot from the phase's start to its end."""

    def turned(state: Any, seeds: jax.Array, hypers: Any, shared: Any, data: Data) -> tuple[Any, Any]:
        c, p = state.alive.shape if state.alive.ndim == 2 else (*state.alive.shape, 1)
        k = next(k for k in divisors(p) if p // k <= at_once)
        size = max(n for n in divisors(c * k) if n * (p // k) <= at_once)
        if (k, size) == (1, c):
            return run(state, seeds, hypers, shared, data)
        arguments = in_strips(k, state, seeds, hypers, shared)

        def turn(arguments: tuple[Any, ...]) -> tuple[Any, Any]:
            lot, *rest = arguments
            new, metrics = run(lot.replace(block=state.block), *rest, data)
            return (new.replace(block=None), metrics), new.block

        turns = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), arguments)
        found, blocks = jax.lax.map(turn, turns)
        axes = 1 + state.alive.ndim
        new, metrics = jax.tree.map(lambda x: x.reshape(*state.alive.shape, *x.shape[axes:]), found)
        return new.replace(block=blocks[0]), metrics

    return turned


def grid_mesh(shape: tuple[int, int], devices: Sequence[jax.Device]) -> Mesh:
    """As many of the devices as share out members [C, P] evenly, as a grid."""
    fitting = [(i, j) for i in divisors(shape[0]) for j in divisors(shape[1]) if i * j <= len(devices)]
    i, j = max(fitting, key=lambda ij: (math.prod(ij), ij))
    return Mesh(np.array(devices[: i * j]).reshape(i, j), ('groups', 'settings'))


def layout(specs: Any, mesh: Mesh) -> Any:
    """The shardings over a mesh that partition specs stand for."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def compile_on(
    mesh: Mesh, fn: Callable[..., Any], in_specs: Any, out_specs: Any, options: dict[str, Any] | None = None
) -> Any:
    """Compiles a function of members on each device's own ones; its first argument is donated.

    Results are laid out as they are asked for, so that the next call finds its arguments as the first did.
    """
    over = jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return jax.jit(over, donate_argnums=0, out_shardings=layout(out_specs, mesh), compiler_options=options)


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Arrays on every device: what a phase takes, so that its first call compiles what the others use."""
    if len(devices) == 1:
        return jax.tree.map(jnp.asarray, tree)
    return jax.device_put(tree, NamedSharding(Mesh(np.array(devices), ('members',)), EVERYWHERE))


def compile_over(run: Callable[..., Any], devices: Sequence[jax.Device], options: dict[str, Any] | None) -> Any:
    """Compiles a phase's `run` (see `program.Phase`) for members shared out over `devices`; the state is donated.

    Members [C, P] become strips [C * k, P / k] of `split`, each with what its group shares; the last is
    repeated to fill all devices.
    """
    if len(devices) == 1:
        return jax.jit(run, donate_argnums=0, compiler_options=options)
    mesh = Mesh(np.array(devices), ('members',))

    def over_devices(state: Any, seeds: jax.Array, hypers: Any, shared: Any, data: Data) -> tuple[Any, Any]:
        c, p = hypers[0].shape
        axes = state.alive.ndim
        k = split(c, p, len(devices)) if axes == 2 else 1
        num_strips = -(-c * k // len(devices)) * len(devices)
        filled = np.minimum(np.arange(num_strips), c * k - 1)
        arguments = jax.tree.map(lambda x: x[filled], in_strips(k, state, seeds, hypers, shared))
        spec = state.replace(learner=MEMBERS, alive=MEMBERS, gradient_steps=MEMBERS, block=EVERYWHERE)
        new, metrics = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(spec, MEMBERS, MEMBERS, MEMBERS, EVERYWHERE),
            out_specs=(spec, MEMBERS),
            check_vma=False,
        )(arguments[0].replace(block=state.block), *arguments[1:], data)
        gather = lambda x: x[: c * k].reshape(*state.alive.shape, *x.shape[axes:])
        return jax.tree.map(gather, new.replace(block=None)).replace(block=new.block), jax.tree.map(gather, metrics)

    everywhere = NamedSharding(mesh, EVERYWHERE)
    return jax.jit(
        over_devices, donate_argnums=0, in_shardings=everywhere, out_shardings=everywhere, compiler_options=options
    )
