"""One network's parameters and optimiser state; each network has its own."""

from typing import Self

import jax
import optax
from flax import struct

from spot_jax.types import Array, Params

# Adam without its step size: learning rates are traced, so that each member of a population can have its own.
ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


class TrainState(struct.PyTreeNode):
    """Parameters and Adam's moments."""

    params: Params
    opt_state: optax.OptState

    @classmethod
    def create(cls, params: Params, **kwargs: Params) -> Self:
        """A state with fresh moments."""
        return cls(params=params, opt_state=ADAM.init(params), **kwargs)

    def apply_gradients(self, grads: Params, learning_rate: Array | float) -> Self:
        """One Adam step."""
        updates, opt_state = ADAM.update(grads, self.opt_state)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, self.params, updates)
        return self.replace(params=params, opt_state=opt_state)


class TargetTrainState(TrainState):
    """A train state with a slowly moving copy of the parameters."""

    target_params: Params

    def update_target(self, tau: Array | float) -> Self:
        """Polyak averaging: target ← τ·online + (1 − τ)·target."""
        return self.replace(target_params=optax.incremental_update(self.params, self.target_params, tau))
