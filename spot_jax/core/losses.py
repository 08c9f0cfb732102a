"""The critics' loss that several methods have in common."""

import jax.numpy as jnp

from spot_jax.core.networks import DoubleCritic
from spot_jax.core.types import Array, Metrics, Params, Transition


def critic_loss_fn(params: Params, critic: DoubleCritic, batch: Transition, target_q: Array) -> tuple[Array, Metrics]:
    """The sum over both critics of the mean squared error to `target_q` [B]; metrics are per state, `[B]`."""
    q = critic.apply(params, batch.observations, batch.actions)
    losses = jnp.sum((q - target_q[None]) ** 2, axis=0)
    return jnp.mean(losses), {'critic_loss': losses, 'q': jnp.mean(q, axis=0), 'q_magnitude': jnp.mean(abs(q), axis=0)}
