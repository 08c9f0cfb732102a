"""TD3's pieces by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_member import of_spot

from spot_jax.benchmark.phases import data_of_rows
from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.core.train_state import TargetTrainState
from spot_jax.core.types import Transition
from spot_jax.methods import spot
from spot_jax.methods.regularizers import REGULARIZERS
from spot_jax.population import program
from spot_jax.run.config import default_config

HYPERS = of_spot(regularizer_weight=0.5, actor_lr=1e-3, critic_lr=1e-3, discount=0.9, tau=0.1)


def make(name='none', dropout=0.0, **kwargs):
    algorithm = spot.TD3(
        Actor(2, (8, 8), dropout=dropout), DoubleCritic((8, 8)), REGULARIZERS[name](CVAE(2, (8,)), 'elbo', 2), **kwargs
    )
    return algorithm, spot.init(jax.random.key(0), algorithm, 3)


def batch(size=4):
    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=(size, 3)), rng.uniform(-1, 1, (size, 2)), rng.normal(size=size), np.ones(size))
    return Transition(*(jnp.array(x, jnp.float32) for x in (*arrays, rng.normal(size=(size, 3)))))


def zero_noise(size=4):
    key = jax.random.key(0)
    return spot.Noise(jnp.zeros((size, 2)), jnp.zeros((size, 0)), key, key)


def test_target_terminal_does_not_bootstrap_and_truncation_does():
    algorithm, state = make()
    data = batch(2)._replace(masks=jnp.array([0.0, 1.0]))
    target = spot.target_values(state, algorithm, data, zero_noise(2), HYPERS)
    actions = algorithm.actor.apply(state.actor.params, data.next_observations)
    q = algorithm.critic.apply(state.critic.params, data.next_observations, actions).min(axis=0)
    np.testing.assert_allclose(target, [data.rewards[0], data.rewards[1] + 0.9 * q[1]], rtol=1e-6)


def test_target_noise_is_clipped():
    algorithm, state = make()
    data, zero = batch(), zero_noise()
    huge = spot.target_values(state, algorithm, data, zero._replace(target=jnp.full((4, 2), 99.0)), HYPERS)
    at_clip = spot.target_values(state, algorithm, data, zero._replace(target=jnp.full((4, 2), 2.5)), HYPERS)
    np.testing.assert_array_equal(huge, at_clip)  # 0.2 · 2.5 is the clip, 0.5
    assert not np.allclose(huge, spot.target_values(state, algorithm, data, zero, HYPERS))


def test_dropout_acts_in_the_target_and_not_when_acting():
    algorithm, state = make(dropout=0.5)
    data, zero = batch(), zero_noise()
    other = zero._replace(target_dropout=jax.random.key(1))
    first, second = (spot.target_values(state, algorithm, data, n, HYPERS) for n in (zero, other))
    assert not np.allclose(first, second)
    plain = Actor(2, (8, 8)).apply(state.actor.params, data.observations)
    np.testing.assert_array_equal(algorithm.actor.apply(state.actor.params, data.observations), plain)


@pytest.mark.parametrize('normalize_q', [True, False])
def test_actor_loss_of_bc_by_hand(normalize_q):
    algorithm, state = make('bc', normalize_q=normalize_q)
    data = batch()
    actions = algorithm.actor.apply(state.actor.params, data.observations)
    q = algorithm.critic.apply(state.critic.params, data.observations, actions)[0]
    expected = -q.mean() / (jnp.abs(q).mean() if normalize_q else 1) + 0.5 * ((actions - data.actions) ** 2).mean()
    loss, _ = spot.actor_loss_fn(state.actor.params, algorithm, state.critic.params, None, data, zero_noise(), HYPERS)
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_polyak_by_hand():
    state = TargetTrainState.create({'w': jnp.array(1.0)}, target_params={'w': jnp.array(0.0)})
    assert state.update_target(0.1).target_params['w'] == pytest.approx(0.1)


def test_initial_values_are_pytorchs():
    params = Actor(2, (256,), output_init=1e-3).init(jax.random.key(0), jnp.zeros((1, 4)))['params']['MLP_0']
    for leaf in params['Dense_0'].values():
        assert 0.45 < jnp.abs(leaf).max() <= 0.5  # 1/√4
    for leaf in params['Dense_1'].values():
        assert jnp.abs(leaf).max() <= 1e-3


@pytest.mark.parametrize('where', ['layer_norm', 'norm_after'])
def test_critics_with_layer_norm_by_hand(where):
    critic, data, rng = DoubleCritic((8, 8), **{where: True}), batch(), np.random.default_rng(0)
    params = critic.init(jax.random.key(0), data.observations, data.actions)
    params = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32), params)
    normal = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    relu = lambda x: np.maximum(x, 0)
    for row, values in enumerate(critic.apply(params, data.observations, data.actions)):
        layers = jax.tree.map(lambda x, i=row: np.asarray(x[i], np.float64), params['params']['twin'])
        x = np.concatenate([data.observations, data.actions], -1)
        for i in range(2):
            x = x @ layers[f'Dense_{i}']['kernel'] + layers[f'Dense_{i}']['bias']
            norm = layers[f'LayerNorm_{i}']
            affine = lambda x, norm=norm: normal(x) * norm['scale'] + norm['bias']
            x = relu(affine(x)) if where == 'layer_norm' else affine(relu(x))
        x = x @ layers['Dense_2']['kernel'] + layers['Dense_2']['bias']
        np.testing.assert_allclose(values, x[:, 0], rtol=1e-4, atol=1e-4)
        if row == 0:
            np.testing.assert_allclose(critic.first(params, data.observations, data.actions), values, rtol=1e-5)


def test_layer_norm_is_an_option():
    config = default_config()
    config.critic.layer_norm = True
    assert spot.make_spec(config, 3, 2).td3.critic == DoubleCritic((256, 256), layer_norm=True)


@pytest.mark.parametrize('name', REGULARIZERS)
def test_every_regularizer_keeps_the_contract(name):
    net = CVAE(2, (8,))
    regularizer = REGULARIZERS[name](net, 'importance_weighted', 3)
    params = net.init(jax.random.key(0), jnp.zeros((1, 3)), jnp.zeros((1, 2)), jnp.zeros((1, 4)))
    noise = jax.random.normal(jax.random.key(1), (4, *regularizer.noise_shape))
    penalty = lambda actions: regularizer.penalty(params, batch(), actions, noise, jnp.float32(0.5))
    actions = jnp.zeros((4, 2))
    assert penalty(actions).shape == (4,)
    assert np.isfinite(jax.grad(lambda a: penalty(a).sum())(actions)).all()
    np.testing.assert_allclose(jax.jit(penalty)(actions), penalty(actions), rtol=1e-5, atol=1e-6)


def policy_run(seeds, weights, steps=20, bad_lr=None):
    algorithm, _ = make('support')
    spec = spot.Spec(CVAE(2, (8,)), algorithm, 3, 16, 1e-3)
    shape = (len(seeds), len(weights))
    hypers = spot.Hyperparameters(*(jnp.full(shape, x) for x in HYPERS))
    hypers = hypers._replace(regularizer_weight=jnp.broadcast_to(jnp.array(weights)[None], shape))
    if bad_lr is not None:
        hypers = hypers._replace(critic_lr=hypers.critic_lr.at[bad_lr].set(1e6))
    seeds = jnp.array(seeds)
    rng = np.random.default_rng(0)
    data = data_of_rows(rng.uniform(-1, 1, (100, 10)).astype(np.float32))
    cvaes = program.init_stage(seeds, spot.cvae_stage(spec))
    cvaes, _ = program.stage_phase(spot.cvae_stage(spec), 10)(cvaes, seeds, hypers, None, data)
    state = program.init_policies(seeds, len(weights), spot.algorithm(spec))
    return program.policy_phase(spot.algorithm(spec), steps)(state, seeds, hypers, cvaes.learner.params, data)


def test_member_equals_single_run():
    """To 1e-4, not to the bit: batched matrix products add up in another order."""
    many, _ = policy_run([3, 4], [0.1, 0.5])
    single, _ = policy_run([4], [0.5])
    pick = jax.tree.map(lambda x: x[1, 1], many.learner)
    for a, b in zip(jax.tree.leaves(pick), jax.tree.leaves(single.learner), strict=True):
        np.testing.assert_allclose(a, b[0, 0], rtol=1e-4, atol=1e-5)


def test_diverged_member_is_frozen_and_others_go_on():
    bad, _ = policy_run([3, 4], [0.1, 0.5], steps=60, bad_lr=(0, 1))
    good, _ = policy_run([3, 4], [0.1, 0.5], steps=60)
    assert bad.alive.tolist() == [[True, False], [True, True]]
    assert bad.gradient_steps[0, 1] < 60
    assert good.gradient_steps.tolist() == [[60, 60], [60, 60]]
    for a, b in zip(jax.tree.leaves(bad.learner), jax.tree.leaves(good.learner), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a[1], b[1])
