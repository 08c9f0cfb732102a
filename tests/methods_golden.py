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


def torch_twin(prefix: str) -> dict:
    """Two critics of three layers each, `l1` to `l6` of PyTorch, as `DoubleCritic` has them."""
    return stacked(torch_mlp(prefix, ['l1', 'l2', 'l3']), torch_mlp(prefix, ['l4', 'l5', 'l6']))


def torch_cvae(prefix: str) -> dict:
    """A CVAE of BCQ's code as `CVAE` has it, the encoder's two heads side by side."""
    encoder, heads = torch_mlp(prefix, ['e1', 'e2']), torch_mlp(prefix, ['mean', 'log_std']).values()
    encoder['Dense_2'] = {part: jnp.concatenate([head[part] for head in heads], axis=-1) for part in ('kernel', 'bias')}
    return {'encoder': encoder, 'decoder': torch_mlp(prefix, ['d1', 'd2', 'd3'])}


def stacked(first: dict, second: dict) -> dict:
    """Two critics' layers as `DoubleCritic` has them, [2, ...]."""
    return {name: {p: jnp.stack([first[name][p], second[name][p]]) for p in first[name]} for name in first}
