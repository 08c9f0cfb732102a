"""The support constraint taken literally: maximise Q, while the policy stays within the data's support (Eq. 1 and 2).

What is within is said by a quantile of the penalties that the data's own actions have under the trained density, so
that one number says the same of any task: beyond the 0.9 quantile lies a tenth of the data, and so may a tenth of the
states' actions that the policy takes. The penalty's weight becomes a dual variable: it is multiplied by a number, 1 at
first, that rises while more of the states are beyond, and falls while fewer are. A share, and not the mean or the
largest penalty of the minibatch, since with these no one quantile was right for two mazes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from spot_jax.core.method import Algorithm, Data, Stage
from spot_jax.core.sampling import uniform_rows
from spot_jax.core.train_state import TrainState
from spot_jax.core.types import Array, Metrics, Params, Transition, unpack
from spot_jax.methods.regularizers import Regularizer

LEVELS = np.linspace(0.0, 1.0, 101, dtype=np.float32)  # of the quantiles that are kept
SAMPLES = 4096  # transitions that they are measured on
LOG_RANGE = (-7.0, 7.0)  # of the multiplier, about a thousandth to a thousand


class Constraint(NamedTuple):
    """What bounds the policy's penalties, and how fast the multiplier follows."""

    quantile: float
    lr: float


class ConstrainedState(struct.PyTreeNode):
    """Everything that learns."""

    learner: Any  # the algorithm's own
    log_multiplier: TrainState


def measure(regularizer: Regularizer, sizes: tuple[int, int]) -> Stage:
    """The stage after the density's: quantiles, at `LEVELS`, of the penalties of the data's own actions.

    `sizes` are those of observations and actions. What it comes to is {'density': what the stage before came to,
    'quantiles': [101]}.
    """

    def draw(key: Array, data: Data) -> tuple[Transition, Array]:
        index_key, noise_key = jax.random.split(key)
        rows = uniform_rows(index_key, data, (SAMPLES,))
        return unpack(rows, *sizes), jax.random.normal(noise_key, (SAMPLES, *regularizer.noise_shape))

    def update(
        learner: Array, shared: Params, drawn: tuple[Transition, Array], hypers: Any, step: Array
    ) -> tuple[Array, Metrics]:
        batch, noise = drawn
        penalties = regularizer.penalty(shared, batch, batch.actions, noise, hypers.beta)
        return jnp.quantile(penalties, LEVELS), {'data_penalty': jnp.mean(penalties)[None]}

    return Stage(
        name='bound',
        num_steps=1,
        init=lambda key: jnp.zeros(LEVELS.shape),
        draw=draw,
        update=update,
        result=lambda learner, shared: {'density': shared, 'quantiles': learner},
        steps=(),
        fields=('regularizer.estimator', 'regularizer.num_samples'),
    )


def bound(quantiles: Array, quantile: float) -> Array:
    """One of them, between two levels in proportion; which two is known before anything runs."""
    low, share = divmod(quantile * (len(LEVELS) - 1), 1)
    below, *above = quantiles[int(low) : int(low) + 2]
    return below + share * (above[0] - below) if above else below


def constrained(algorithm: Algorithm, constraint: Constraint) -> Algorithm:
    """An algorithm that has a `regularizer_weight` and a `penalty` [B] among its metrics, kept within the support.

    Its metrics have `violation` [B] besides, whose mean is by how much the share of states beyond the data's quantile
    exceeds the data's own, and `multiplier`.
    """

    def update(
        state: ConstrainedState, shared: dict[str, Any], drawn: Any, hypers: Any, step: Array
    ) -> tuple[ConstrainedState, Metrics]:
        multiplier = jnp.exp(state.log_multiplier.params)
        weighted = hypers._replace(regularizer_weight=multiplier * hypers.regularizer_weight)
        learner, metrics = algorithm.update(state.learner, shared['density'], drawn, weighted, step)
        beyond = metrics['penalty'] > bound(shared['quantiles'], constraint.quantile)
        violation = beyond - (1.0 - constraint.quantile)
        # Ascent: the gradient of multiplier · violation by the multiplier's logarithm.
        log_multiplier = state.log_multiplier.apply_gradients(-multiplier * jnp.mean(violation), constraint.lr)
        log_multiplier = log_multiplier.replace(params=jnp.clip(log_multiplier.params, *LOG_RANGE))
        metrics |= {'violation': violation, 'multiplier': jnp.full_like(violation, multiplier)}
        return ConstrainedState(learner, log_multiplier), metrics

    return algorithm._replace(
        init=lambda key: ConstrainedState(algorithm.init(key), TrainState.create(jnp.zeros(()))),
        update=update,
        policy=lambda state, shared, hypers: algorithm.policy(state.learner, shared['density'], hypers),
        steps=(*algorithm.steps, 1),
    )
