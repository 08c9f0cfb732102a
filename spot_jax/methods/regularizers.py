"""The term that SPOT adds to TD3's actor loss, as a value: `none` (TD3), `bc` (TD3+BC) or `support` (SPOT).

A new regulariser is one function that returns a `Regularizer`, and one line in `REGULARIZERS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from spot_jax.core.networks import CVAE
from spot_jax.core.types import Array, Params, Transition
from spot_jax.methods import density


class Regularizer(NamedTuple):
    """What TD3's actor loss needs to know of a regulariser.

    penalty: (density parameters, minibatch, policy actions [B, A], noise [B, *noise_shape], β) -> [B].
    noise_shape: standard normal numbers that it takes for each state.
    uses_density: whether it reads the CVAE, which then is trained first.
    """

    penalty: Callable[[Params, Transition, Array, Array, Array], Array]
    noise_shape: tuple[int, ...]
    uses_density: bool


def none() -> Regularizer:
    """No regulariser: plain TD3."""

    def penalty(params: Params, batch: Transition, actions: Array, noise: Array, beta: Array) -> Array:
        del params, actions, noise, beta
        return jnp.zeros_like(batch.rewards)

    return Regularizer(penalty, (0,), uses_density=False)


def bc() -> Regularizer:
    """Squared distance to the data's action, mean over dimensions: with weight 1/α it is TD3+BC's term."""

    def penalty(params: Params, batch: Transition, actions: Array, noise: Array, beta: Array) -> Array:
        del params, noise, beta
        return jnp.mean((actions - batch.actions) ** 2, axis=-1)

    return Regularizer(penalty, (0,), uses_density=False)


# In the actor loss, the ELBO takes the authors' loss form (means over dimensions); the other is −log π_β in nats.
PENALTIES: dict[str, density.Estimator] = {
    'elbo': density.elbo_loss,
    'importance_weighted': lambda *args: -density.importance_weighted(*args),
}


def support(cvae: CVAE, estimator: str, num_samples: int) -> Regularizer:
    """SPOT: −log π_β(π(s)|s) by a density estimator of `num_samples` latents (paper, Eq. 8)."""
    cvae = cvae.clone(frozen=True)

    def penalty(params: Params, batch: Transition, actions: Array, noise: Array, beta: Array) -> Array:
        return PENALTIES[estimator](cvae, params, batch.observations, actions, noise, beta)

    return Regularizer(penalty, (num_samples, cvae.num_latents), uses_density=True)


REGULARIZERS: dict[str, Callable[[CVAE, str, int], Regularizer]] = {
    'none': lambda cvae, estimator, num_samples: none(),
    'bc': lambda cvae, estimator, num_samples: bc(),
    'support': support,
}
