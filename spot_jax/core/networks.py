"""Flax modules: policies, the twin critic and the behaviour density's conditional VAE (paper, App. C).

SPOT's layers start as PyTorch's `Linear` does, weights and biases uniform in ±1/√fan_in, as the authors' code does.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spot_jax.core import xla
from spot_jax.core.types import Array, Params

ENCODER_LOG_STD_RANGE = (-4.0, 15.0)

Initializer = Callable[..., Array]
# From a linear layer's number of inputs, the initialisers of its kernel and of its biases.
LayerInit = Callable[[int], tuple[Initializer, Initializer]]


def uniform(bound: float) -> Initializer:
    """An initialiser that draws from U(-bound, bound)."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def pytorch(inputs: int) -> tuple[Initializer, Initializer]:
    """Kernels and biases from U(±1/√inputs)."""
    return uniform(inputs**-0.5), uniform(inputs**-0.5)


def orthogonal(inputs: int) -> tuple[Initializer, Initializer]:
    """Orthogonal kernels times √2, and biases 0, as in jaxrl and the codes that grew from it."""
    del inputs

    def kernel(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        columns = xla.orthonormal(key, (max(shape), min(shape)))
        return (math.sqrt(2) * (columns if shape[0] >= shape[1] else columns.T)).astype(dtype)

    return kernel, nn.initializers.zeros


def rlkit(inputs: int) -> tuple[Initializer, Initializer]:
    """rlkit's: kernels from U(±1/√outputs), biases 0.1."""
    del inputs
    kernel = lambda key, shape, dtype=jnp.float32: uniform(shape[-1] ** -0.5)(key, shape, dtype)
    return kernel, nn.initializers.constant(0.1)


def dense(x: Array, features: int, layer_init: LayerInit = pytorch, frozen: bool = False) -> Array:
    """Applies a new linear layer `[..., I] -> [..., features]`."""
    kernel_init, bias_init = layer_init(x.shape[-1])
    dot_general = lambda x, kernel, *_, **__: (xla.frozen_product if frozen else xla.product)(x, kernel)
    return nn.Dense(features, kernel_init=kernel_init, bias_init=bias_init, dot_general=dot_general)(x)


class MLP(nn.Module):
    """ReLU layers of `hidden_dims`, each followed by dropout, then a linear layer of `output_dim` values.

    `output_init` is the bound of the last layer's uniform initialisation (None: as `layer_init`). `layer_norm`
    normalises what goes into each ReLU, `norm_after` what comes out. `frozen` parameters get no gradients.
    """

    hidden_dims: tuple[int, ...]
    output_dim: int
    output_init: float | None = None
    dropout: float = 0.0
    layer_norm: bool = False
    frozen: bool = False
    layer_init: LayerInit = pytorch
    norm_after: bool = False

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        """`[..., I] -> [..., output_dim]`; dropout needs the rng 'dropout' unless `deterministic`."""
        for features in self.hidden_dims:
            x = dense(x, features, self.layer_init, self.frozen)
            x = nn.relu(nn.LayerNorm()(x) if self.layer_norm else x)
            x = nn.LayerNorm()(x) if self.norm_after else x
            if self.dropout > 0:
                x = nn.Dropout(self.dropout)(x, deterministic=deterministic)
        bound = self.output_init
        output_init = self.layer_init if bound is None else lambda _: (uniform(bound), uniform(bound))
        return dense(x, self.output_dim, output_init, self.frozen)


class Actor(nn.Module):
    """Deterministic policy π(s): observations `[..., O]` to actions `[..., A]` in [-1, 1]."""

    action_dim: int
    hidden_dims: tuple[int, ...] = (256, 256)
    output_init: float | None = None
    dropout: float = 0.0
    layer_init: LayerInit = pytorch

    @nn.compact
    def __call__(self, observations: Array, deterministic: bool = True) -> Array:
        mlp = MLP(self.hidden_dims, self.action_dim, self.output_init, self.dropout, layer_init=self.layer_init)
        return jnp.tanh(mlp(observations, deterministic))


class GaussianActor(nn.Module):
    """Policy N(mean(s), std²) of independent actions; the standard deviations are parameters, the same in all states.

    `tanh_mean` keeps the mean in [-1, 1].
    """

    action_dim: int
    hidden_dims: tuple[int, ...] = (256, 256)
    log_std_range: tuple[float, float] = (-20.0, 2.0)
    tanh_mean: bool = False
    layer_init: LayerInit = pytorch

    @nn.compact
    def __call__(self, observations: Array) -> tuple[Array, Array]:
        """Observations `[..., O]` to mean and log standard deviation, `[..., A]` each."""
        mean = MLP(self.hidden_dims, self.action_dim, layer_init=self.layer_init)(observations)
        log_std = self.param('log_std', nn.initializers.zeros, (self.action_dim,))
        mean = jnp.tanh(mean) if self.tanh_mean else mean
        return mean, jnp.broadcast_to(jnp.clip(log_std, *self.log_std_range), mean.shape)


def gaussian_log_prob(mean: Array, log_std: Array, actions: Array) -> Array:
    """log N(actions; mean, std²), `[..., A]` each to `[...]`: summed over the last axis."""
    standard = (actions - mean) * jnp.exp(-log_std)
    return -jnp.sum(0.5 * standard**2 + log_std + 0.5 * math.log(2 * math.pi), axis=-1)


def tanh_gaussian(mean: Array, log_std: Array, noise: Array) -> tuple[Array, Array]:
    """tanh of N(mean, std²), made from standard normal `noise` `[..., A]`: actions, and their log-density `[...]`."""
    before = mean + jnp.exp(log_std) * noise
    actions = jnp.tanh(before)
    return actions, gaussian_log_prob(mean, log_std, before) - _log_slope(actions)


def tanh_gaussian_log_prob(mean: Array, log_std: Array, actions: Array) -> Array:
    """The same log-density of given actions."""
    before = 0.5 * jnp.log(jnp.maximum(1 + actions, 1e-6) / jnp.maximum(1 - actions, 1e-6))
    return gaussian_log_prob(mean, log_std, before) - _log_slope(actions)


def _log_slope(actions: Array) -> Array:
    """log |d tanh(x) / dx| where tanh(x) is `actions` `[..., A]`, all dimensions together, as rlkit bounds it."""
    return jnp.sum(jnp.log(1 - actions**2 + 1e-6), axis=-1)


class DoubleCritic(nn.Module):
    """Twin critics: (observations `[..., O]`, actions `[..., A]`) to values `[2, ...]`, one row per critic."""

    hidden_dims: tuple[int, ...] = (256, 256)
    output_init: float | None = None
    layer_norm: bool = False
    layer_init: LayerInit = pytorch
    norm_after: bool = False

    def setup(self) -> None:
        twin = nn.vmap(MLP, variable_axes={'params': 0}, split_rngs={'params': True})
        options = {'layer_norm': self.layer_norm, 'layer_init': self.layer_init, 'norm_after': self.norm_after}
        self.twin = twin(self.hidden_dims, 1, self.output_init, **options)

    def __call__(self, observations: Array, actions: Array) -> Array:
        """(Observations `[..., O]`, actions `[..., A]`) to values `[2, ...]`, one row per critic."""
        return self.of_inputs(jnp.concatenate([xla.for_each(observations, 2), xla.for_each(actions, 2)], axis=-1))

    def of_inputs(self, x: Array) -> Array:
        """Values `[2, ...]` of each critic's own inputs, observations and actions joined, `[2, ..., O + A]`."""
        return self.twin(x)[..., 0]

    def first(self, params: Params, observations: Array, actions: Array) -> Array:
        """Only the first critic's values, `[...]`: the actor's loss needs no more, and half the work is saved."""
        layers = params['params']['twin']
        x = jnp.concatenate([observations, actions], axis=-1)
        if self.layer_norm or self.norm_after:
            mlp = MLP(self.hidden_dims, 1, layer_norm=self.layer_norm, norm_after=self.norm_after, parent=None)
            return mlp.apply({'params': jax.tree.map(lambda x: x[0], layers)}, x)[..., 0]
        # The same layer by layer: taking the first critic's weights where they are used is fewer kernels on a GPU.
        for i in range(len(self.hidden_dims) + 1):
            kernel, bias = layers[f'Dense_{i}']['kernel'][0], layers[f'Dense_{i}']['bias'][0]
            x = (x if i == 0 else nn.relu(x)) @ kernel
            x = x + jnp.broadcast_to(bias, x.shape)
        return x[..., 0]


class CVAE(nn.Module):
    """Conditional VAE of the behaviour policy: encoder q(z|s, a) and decoder p(a|s, z).

    `latent_dim` is twice `action_dim` unless given. `frozen` parameters get no gradients.
    """

    action_dim: int
    hidden_dims: tuple[int, ...] = (750, 750)
    latent_dim: int | None = None
    frozen: bool = False

    @property
    def num_latents(self) -> int:
        """The latent dimension Z in use."""
        return 2 * self.action_dim if self.latent_dim is None else self.latent_dim

    def setup(self) -> None:
        self.encoder = MLP(self.hidden_dims, 2 * self.num_latents, frozen=self.frozen)
        self.decoder = MLP(self.hidden_dims, self.action_dim, frozen=self.frozen)

    def encode(self, observations: Array, actions: Array) -> tuple[Array, Array]:
        """(`[..., O]`, `[..., A]`) to the mean and standard deviation of q(z|s, a), `[..., Z]` each.

        One output layer of 2Z units is the authors' two heads side by side: same values, same initialisation.
        """
        x = jnp.concatenate([observations, actions], axis=-1)
        x = self.encoder(xla.settled(x))  # else XLA joins this first layer and a critic's
        mean, log_std = jnp.split(x, 2, axis=-1)
        return mean, jnp.exp(jnp.clip(log_std, *ENCODER_LOG_STD_RANGE))

    def decode(self, observations: Array, latents: Array) -> Array:
        """(`[..., O]`, `[..., Z]`) to the mean of p(a|s, z), `[..., A]` in [-1, 1]."""
        return jnp.tanh(self.decoder(jnp.concatenate([observations, latents], axis=-1)))

    def __call__(self, observations: Array, actions: Array, noise: Array) -> Array:
        """Reconstructs actions `[..., A]` through one latent sample, made from standard normal `noise` `[..., Z]`."""
        mean, std = self.encode(observations, actions)
        return self.decode(observations, mean + std * noise)
