"""A causal transformer of GPT-2's blocks, without its embeddings of words and positions."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from spot_jax.core.networks import Initializer, dense
from spot_jax.core.types import Array

EPSILON = 1e-5  # of layer norms, as PyTorch's
HIDDEN = -1e9  # what a score becomes that must not count: its exponential is 0


def gpt2(inputs: int) -> tuple[Initializer, Initializer]:
    """Kernels from N(0, 0.02²), biases 0."""
    del inputs
    return nn.initializers.normal(0.02), nn.initializers.zeros


def dropped(x: Array, rate: float, key: Array | None) -> Array:
    """`x` with each value 0 at a probability of `rate`, the others raised by 1 / (1 − rate); without a key, `x`."""
    if key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)


def split(key: Array | None, count: int) -> list[Array | None]:
    """So many keys of one, which is consumed; or as many times none."""
    return [None] * count if key is None else list(jax.random.split(key, count))


class Block(nn.Module):
    """Attention, then two layers at each token, of four times its width between them; each adds to its input."""

    num_heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, seen: Array, key: Array | None = None) -> Array:
        """Tokens `[..., T, E]` to `[..., T, E]`: that at t sees those at s where `seen` `[..., T, T]` is true."""
        width = x.shape[-1]
        weight_key, attention_key, layers_key = split(key, 3)

        heads = lambda x: x.reshape(*x.shape[:-1], self.num_heads, width // self.num_heads)
        joint = dense(nn.LayerNorm(EPSILON)(x), 3 * width, gpt2)
        queries, keys, values = map(heads, jnp.split(joint, 3, axis=-1))
        scores = jnp.einsum('...thd,...shd->...hts', queries, keys) / queries.shape[-1] ** 0.5
        weights = nn.softmax(jnp.where(seen[..., None, :, :], scores, HIDDEN))
        mixed = jnp.einsum('...hts,...shd->...thd', dropped(weights, self.dropout, weight_key), values)
        x = x + dropped(dense(mixed.reshape(x.shape), width, gpt2), self.dropout, attention_key)

        hidden = nn.relu(dense(nn.LayerNorm(EPSILON)(x), 4 * width, gpt2))
        return x + dropped(dense(hidden, width, gpt2), self.dropout, layers_key)


class Transformer(nn.Module):
    """Blocks one after the other, and a layer norm. The heads must divide the tokens' width."""

    num_layers: int
    num_heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, real: Array, key: Array | None = None) -> Array:
        """Tokens `[..., T, E]` to `[..., T, E]`; each sees itself and those before it that are `real` `[..., T]`.

        What comes of one that is not real means nothing. The key, which is consumed, is of dropout; without one there
        is none.
        """
        seen = jnp.tril(jnp.broadcast_to(real[..., None, :] > 0, (*real.shape, real.shape[-1])))
        first, *others = split(key, 1 + self.num_layers)
        x = dropped(x, self.dropout, first)
        for each in others:
            x = Block(self.num_heads, self.dropout)(x, seen, each)
        return nn.LayerNorm(EPSILON)(x)
