"""Floating-point operations of the updates' matrix products: two for each multiply-add, nothing else is counted."""

import itertools
from collections.abc import Sequence

from spot_jax.methods.spot import Spec


def mlp(batch: int, dims: Sequence[int], weights: bool, inputs: bool, last_input: bool = False) -> int:
    """One pass of an MLP with layer sizes `dims`, forward, and backward where asked for.

    weights: with gradients of its weights; inputs: with gradients that flow through it (every layer but the first,
    which takes part only where `last_input`, when what goes in needs a gradient too).
    """
    layers = [2 * batch * a * b for a, b in itertools.pairwise(dims)]
    backward = sum(layers) * weights + sum(layers[1:]) * inputs + layers[0] * last_input
    return sum(layers) + backward


def cvae_update(spec: Spec) -> int:
    """One CVAE step: encoder and decoder forward and backward; the decoder's gradient goes on into the latents."""
    o, a, z, b = spec.observation_dim, spec.cvae.action_dim, spec.cvae.num_latents, spec.batch_size
    hidden = spec.cvae.hidden_dims
    encoder = mlp(b, (o + a, *hidden, 2 * z), weights=True, inputs=True)
    return encoder + mlp(b, (o + z, *hidden, a), weights=True, inputs=True, last_input=True)


def policy_update(spec: Spec) -> float:
    """One of the F steps of a block: its share of target values, critic steps and the actor step with the density."""
    o, a, b, f = spec.observation_dim, spec.cvae.action_dim, spec.batch_size, spec.td3.policy_freq
    actor, critic = (o, *spec.td3.actor.hidden_dims, a), (o + a, *spec.td3.critic.hidden_dims, 1)
    target = mlp(f * b, actor, False, False) + 2 * mlp(f * b, critic, False, False)
    critics = f * 2 * mlp(b, critic, weights=True, inputs=True)
    actor_step = mlp(b, actor, weights=True, inputs=True) + mlp(b, critic, False, inputs=True, last_input=True)
    density = 0
    if spec.td3.regularizer.uses_density:
        z, hidden = spec.cvae.num_latents, spec.cvae.hidden_dims
        density = mlp(b, (o + a, *hidden, 2 * z), False, inputs=True, last_input=True)
        num_samples = spec.td3.regularizer.noise_shape[0]
        density += num_samples * mlp(b, (o + z, *hidden, a), False, inputs=True, last_input=True)
    return (target + critics + actor_step + density) / f
