"""What CQL and BEAR take from rlkit: a policy that is tanh of a Gaussian, and values of many actions."""

import jax.numpy as jnp

from spot_jax.core.networks import MLP, DoubleCritic, rlkit, tanh_gaussian
from spot_jax.core.types import Array, Params

LOG_STD_RANGE = (-5.0, 2.0)


def networks(hidden_dims: tuple[int, ...], action_dim: int) -> tuple[MLP, DoubleCritic]:
    """The policy, of means and log standard deviations before tanh, 2A numbers, and twin critics."""
    actor = MLP(hidden_dims, 2 * action_dim, 1e-3, layer_init=rlkit)
    return actor, DoubleCritic(hidden_dims, 3e-3, layer_init=rlkit)


def gaussian(actor: MLP, params: Params, observations: Array) -> tuple[Array, Array]:
    """Mean and log standard deviation of what tanh makes an action of, `[..., A]` each."""
    mean, log_std = jnp.split(actor.apply(params, observations), 2, axis=-1)
    return mean, jnp.clip(log_std, *LOG_STD_RANGE)


def sample(actor: MLP, params: Params, observations: Array, noise: Array) -> tuple[Array, Array]:
    """N actions of each state `[B, O]`, `[B, N, A]` as the noise, and their log-density `[B, N]`."""
    return tanh_gaussian(*gaussian(actor, params, observations[:, None]), noise)


def values(critic: DoubleCritic, params: Params, observations: Array, actions: Array) -> Array:
    """Both critics' values `[2, B, N]` of N actions `[B, N, A]` of each state `[B, O]`."""
    shape = (*actions.shape[:-1], observations.shape[-1])
    return critic.apply(params, jnp.broadcast_to(observations[:, None], shape), actions)
