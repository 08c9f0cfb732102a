"""One network's parameters and optimiser state; each network has its own."""

from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from spot_jax.core.types import Array, Metrics, Params
from spot_jax.core.xla import B1, B2, EPS, AdamState, correction_after

# (params, ...) -> (loss, metrics)
LossFn = Callable[..., tuple[Array, Metrics]]


def init_adam(params: Params) -> AdamState:
    """Fresh moments."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return AdamState(jnp.zeros(2), zeros, zeros)


class TrainState(struct.PyTreeNode):
    """Parameters and Adam's moments."""

    params: Params
    opt_state: AdamState

    @classmethod
    def create(cls, params: Params) -> Self:
        """A state with fresh moments."""
        return cls(params=params, opt_state=init_adam(params))

    def minimize(self, loss_fn: LossFn, learning_rate: Array | float, *args: Any) -> tuple[Self, Metrics]:
        """One Adam step down the gradient of `loss_fn(params, *args)`, and the metrics that it gave."""
        grads, metrics = jax.grad(loss_fn, has_aux=True)(self.params, *args)
        return self.apply_gradients(grads, learning_rate), metrics

    def apply_gradients(
        self,
        grads: Params,
        learning_rate: Array | float,
        weight_decay: Array | float | None = None,
        max_norm: Array | float | None = None,
    ) -> Self:
        """One Adam step; its own, since the learning rate is traced: each member of a population can have another.

        weight_decay: AdamW's, apart from the moments: every parameter shrinks by learning_rate · weight_decay of
            itself.
        max_norm: positive; what all gradients together are scaled down to where their norm is larger.
        """
        if max_norm is not None:
            norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
            scale = max_norm / jnp.maximum(norm, max_norm)
            grads = jax.tree.map(lambda g: g * scale, grads)
        correction = rest = self.opt_state.correction
        if correction.ndim == 1:
            correction = rest = correction_after(1, correction)
        else:
            correction, rest = correction[0], correction[1:]
        mu = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, self.opt_state.mu, grads)
        nu = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g**2, self.opt_state.nu, grads)
        step = lambda p, m, v: p - learning_rate * (m / correction[0]) / (jnp.sqrt(v / correction[1]) + EPS)
        params = jax.tree.map(step, self.params, mu, nu)
        if weight_decay is not None:
            params = jax.tree.map(lambda new, old: new - learning_rate * weight_decay * old, params, self.params)
        return self.replace(params=params, opt_state=AdamState(rest, mu, nu))


class TargetTrainState(TrainState):
    """A train state with a slowly moving copy of the parameters."""

    target_params: Params

    @classmethod
    def create(cls, params: Params, target_params: Params | None = None) -> Self:
        """A state with fresh moments; unless others are given, the targets are equal to the parameters."""
        target_params = params if target_params is None else target_params
        return cls(params=params, opt_state=init_adam(params), target_params=target_params)

    def update_target(self, tau: Array | float) -> Self:
        """Polyak averaging: target ← τ·online + (1 − τ)·target."""
        return self.replace(target_params=optax.incremental_update(self.params, self.target_params, tau))
