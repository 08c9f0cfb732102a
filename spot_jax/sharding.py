"""A population over several devices: each trains its share of the members, and they never talk during a phase.

Outside a phase all arrays are in their plain layout, on every device, so that nothing else has to know of this.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

EVERYWHERE, MEMBERS = PartitionSpec(), PartitionSpec('members')


def split(num_cvaes: int, num_settings: int, num_devices: int) -> int:
    """Into how many groups the settings of each CVAE are split, so that the busiest device has the fewest members."""
    divisors = [k for k in range(1, num_settings + 1) if num_settings % k == 0]
    return min(divisors, key=lambda k: -(-num_cvaes * k // num_devices) * (num_settings // k))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Arrays on every device: what a phase takes, so that its first call compiles what the others use."""
    if len(devices) == 1:
        return jax.tree.map(jnp.asarray, tree)
    return jax.device_put(tree, NamedSharding(Mesh(np.array(devices), ('members',)), EVERYWHERE))


def compile_over(run: Callable[..., Any], devices: Sequence[jax.Device], options: dict[str, Any] | None) -> Any:
    """Compiles a phase's `run` (see `population.Phase`) for members shared out over `devices`; the state is donated.

    Members [C, P] become rows [C * k, P / k] of `split`, each with its CVAE; the last is repeated to fill all devices.
    """
    if len(devices) == 1:
        return jax.jit(run, donate_argnums=0, compiler_options=options)
    mesh = Mesh(np.array(devices), ('members',))

    def shared(state: Any, seeds: jax.Array, hypers: Any, params: Any, rows: jax.Array) -> tuple[Any, Any]:
        c, p = hypers.discount.shape
        axes = state.alive.ndim  # members are [C] in the CVAEs' phase, [C, P] in the policies'
        k = split(c, p, len(devices)) if axes == 2 else 1
        num_rows = -(-c * k // len(devices)) * len(devices)
        filled = np.minimum(np.arange(num_rows), c * k - 1)
        of_policies = lambda x: x.reshape(c * k, p // k, *x.shape[2:])[filled]
        of_cvaes = lambda x: jnp.repeat(x, k, axis=0)[filled]
        spread = jax.tree.map(of_policies if axes == 2 else of_cvaes, state.replace(block=None))
        spec = state.replace(learner=MEMBERS, alive=MEMBERS, gradient_steps=MEMBERS, block=EVERYWHERE)
        new, metrics = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(spec, MEMBERS, MEMBERS, MEMBERS, EVERYWHERE),
            out_specs=(spec, MEMBERS),
            check_vma=False,
        )(
            spread.replace(block=state.block),
            of_cvaes(seeds),
            jax.tree.map(of_policies, hypers),
            jax.tree.map(of_cvaes, params),
            rows,
        )
        gather = lambda x: x[: c * k].reshape(*state.alive.shape, *x.shape[axes:])
        return jax.tree.map(gather, new.replace(block=None)).replace(block=new.block), jax.tree.map(gather, metrics)

    everywhere = NamedSharding(mesh, EVERYWHERE)
    return jax.jit(
        shared, donate_argnums=0, in_shardings=everywhere, out_shardings=everywhere, compiler_options=options
    )
