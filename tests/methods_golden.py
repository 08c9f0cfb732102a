"""The recorded values of the other methods' own code, and their weights as flax parameters.

Keys are METHOD/stepI/{batch,noise,value,grad,after}/... and METHOD/before/NETWORK/...; PyTorch's weights are [out, in].
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

GOLDEN = dict(np.load(Path(__file__).parent / 'data' / 'methods_golden.npz'))
TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}


def under(prefix: str) -> dict[str, np.ndarray]:
    """The values below a key, by the rest of it."""
    return {k.removeprefix(f'{prefix}/'): v for k, v in GOLDEN.items() if k.startswith(f'{prefix}/')}


def torch_mlp(prefix: str, names: list[str]) -> dict:
    """Linear layers of PyTorch as `Dense_0`, `Dense_1`, ..."""
    return {
        f'Dense_{i}': {
            'kernel': jnp.asarray(GOLDEN[f'{prefix}/{name}.weight'].T),
            'bias': jnp.asarray(GOLDEN[f'{prefix}/{name}.bias']),
        }
        for i, name in enumerate(names)
    }


def flax_mlp(prefix: str, names: list[str]) -> dict:
    """Layers of flax as `Dense_0`, `Dense_1`, ..."""
    return {
        f'Dense_{i}': {part: jnp.asarray(GOLDEN[f'{prefix}/{name}/{part}']) for part in ('kernel', 'bias')}
        for i, name in enumerate(names)
    }


def stacked(first: dict, second: dict) -> dict:
    """Two critics' layers as `DoubleCritic` has them, [2, ...]."""
    return {name: {p: jnp.stack([first[name][p], second[name][p]]) for p in first[name]} for name in first}
