"""An optimiser's step by hand and against optax."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spot_jax.core.train_state import TrainState

PARAMS = {'w': jnp.float32([1.0, -2.0]), 'b': jnp.float32(0.5)}
GRADS = [{'w': jnp.float32([3.0, 0.0]), 'b': jnp.float32(4.0)}, {'w': jnp.float32([0.1, -0.2]), 'b': jnp.float32(0.05)}]


def test_weight_decay_by_hand():
    """Adam's first step is the learning rate, against the gradient's sign; a gradient of 0 leaves the decay alone."""
    state = TrainState.create(PARAMS).apply_gradients(GRADS[0], 0.1, weight_decay=0.2)
    np.testing.assert_allclose(state.params['w'], [1 - 0.1 - 0.02, -2 + 0.04], rtol=1e-5)
    np.testing.assert_allclose(state.params['b'], 0.5 - 0.1 - 0.01, rtol=1e-5)


@pytest.mark.parametrize(('grads', 'scale'), [(GRADS[0], 0.5 / 5), (GRADS[1], 1.0)])
def test_the_norm_of_all_gradients_is_bounded_by_hand(grads, scale):
    """(3, 0) and 4 together are 5 long; the others are shorter than the bound."""
    state = TrainState.create(PARAMS).apply_gradients(grads, 0.1, max_norm=0.5)
    for name, grad in grads.items():
        np.testing.assert_allclose(state.opt_state.mu[name], 0.1 * scale * grad, rtol=1e-5)


@pytest.mark.parametrize(('decay', 'norm'), [(None, None), (0.2, None), (None, 0.5), (0.2, 0.5)])
def test_steps_are_those_of_optax(decay, norm):
    clip = optax.identity() if norm is None else optax.clip_by_global_norm(norm)
    optimiser = optax.chain(clip, optax.adam(0.1) if decay is None else optax.adamw(0.1, weight_decay=decay))
    params, state = PARAMS, TrainState.create(PARAMS)
    moments = optimiser.init(PARAMS)
    for grads in GRADS:
        updates, moments = optimiser.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        state = state.apply_gradients(grads, jnp.float32(0.1), weight_decay=decay, max_norm=norm)
    for name in PARAMS:
        np.testing.assert_allclose(state.params[name], params[name], rtol=1e-5)
