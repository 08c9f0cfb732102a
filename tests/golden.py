"""The recorded values of the authors' code, and their PyTorch weights as flax parameters."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

GOLDEN = dict(np.load(Path(__file__).parent / 'data' / 'spot_golden.npz'))


def layer(prefix: str, name: str) -> dict:
    """One linear layer: PyTorch's weights are [out, in]."""
    return {
        'kernel': jnp.array(GOLDEN[f'{prefix}/{name}.weight'].T),
        'bias': jnp.array(GOLDEN[f'{prefix}/{name}.bias']),
    }


def mlp(prefix: str, names: list[str]) -> dict:
    return {f'Dense_{i}': layer(prefix, name) for i, name in enumerate(names)}


def actor(prefix: str) -> dict:
    return {'params': {'MLP_0': mlp(prefix, ['l1', 'l2', 'l3'])}}


def critic(prefix: str) -> dict:
    q1, q2 = mlp(prefix, ['l1', 'l2', 'l3']), mlp(prefix, ['l4', 'l5', 'l6'])
    stack = {d: {p: jnp.stack([q1[d][p], q2[d][p]]) for p in q1[d]} for d in q1}
    return {'params': {'twin': stack}}


def cvae(prefix: str) -> dict:
    mean, log_std = layer(prefix, 'mean'), layer(prefix, 'log_std')
    heads = {p: jnp.concatenate([mean[p], log_std[p]], axis=-1) for p in mean}
    encoder = {'Dense_0': layer(prefix, 'e1'), 'Dense_1': layer(prefix, 'e2'), 'Dense_2': heads}
    return {'params': {'encoder': encoder, 'decoder': mlp(prefix, ['d1', 'd2', 'd3'])}}
