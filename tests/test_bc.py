"""Behaviour cloning, of all episodes and of the best: parity with CORL, numbers by hand, a learned answer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from methods_golden import GOLDEN, TOLERANCE, torch_mlp
from one_member import hyperparameters, one_step_episodes, options, pack, recorded_rows, several_settings, train

from spot_jax.core.networks import Actor
from spot_jax.core.train_state import TrainState
from spot_jax.core.types import Transition, unpack
from spot_jax.data.load import Selection
from spot_jax.methods import bc, percent_bc

ALGORITHM = bc.METHOD.make(options(bc.METHOD, hidden_dims=(16, 16)), 5, 3)
HYPERS = hyperparameters(bc.METHOD, actor_lr=GOLDEN['bc/meta/lr'])


def recorded(prefix):
    return {'params': {'MLP_0': torch_mlp(prefix, ['net.0', 'net.2', 'net.4'])}}


def before():
    return bc.BCState(TrainState.create(recorded('bc/before/actor')))


def updated(hypers=HYPERS):
    return ALGORITHM.update(before(), (), recorded_rows('bc/step1'), hypers, jnp.int32(0))


def acted(algorithm, state, observations):
    return jax.vmap(lambda x: algorithm.act(state.actor.params, (), x, jnp.zeros(()))[0])(observations)


def test_an_update_is_corls():
    state, batch = before(), unpack(recorded_rows('bc/step1'), 5, 3)
    value = lambda name: GOLDEN[f'bc/step1/value/{name}']
    np.testing.assert_allclose(acted(ALGORITHM, state, batch.observations), value('pi'), **TOLERANCE)
    grads, _ = jax.grad(bc.actor_loss_fn, has_aux=True)(state.actor.params, bc.BC(Actor(3, (16, 16))), batch)
    chex.assert_trees_all_close(grads, recorded('bc/step1/grad/actor'), **TOLERANCE)
    state, metrics = updated()
    assert set(metrics) == set(bc.METHOD.metrics)
    chex.assert_shape(metrics['actor_loss'], (32,))
    np.testing.assert_allclose(metrics['actor_loss'].mean(), value('actor_loss'), **TOLERANCE)
    chex.assert_trees_all_close(state.actor.params, recorded('bc/step1/after/actor'), **TOLERANCE)


def test_loss_by_hand():
    actor = Actor(2, (4,))
    params = jax.tree.map(jnp.zeros_like, actor.init(jax.random.key(0), jnp.zeros((1, 3))))  # π = 0
    actions = jnp.array([[0.5, -0.5], [1.0, 0.0]])
    batch = Transition(jnp.ones((2, 3)), actions, *(jnp.zeros(2),) * 2, jnp.ones((2, 3)))
    loss, metrics = bc.actor_loss_fn(params, bc.BC(actor), batch)
    np.testing.assert_allclose(metrics['actor_loss'], [0.25, 0.5])
    np.testing.assert_allclose(loss, 0.375)


def test_jitted_and_vmapped_as_alone():
    rates = jnp.array([1e-3, GOLDEN['bc/meta/lr']])
    both = hyperparameters(bc.METHOD, actor_lr=rates)
    many = jax.jit(jax.vmap(updated, (several_settings(both),)))(both)
    alone = jax.jit(updated)
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], many)
        chex.assert_trees_all_close(one, alone(bc.Hyperparameters(rates[i])), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(updated(), alone(HYPERS), rtol=1e-5, atol=1e-6)


def test_minibatches_are_rows_of_the_dataset():
    rows = jnp.arange(40.0).reshape(10, 4)
    drawn = ALGORITHM.draw(jax.random.key(0), one_step_episodes(rows))
    assert drawn.shape == (256, 4)
    assert set(np.unique(drawn[:, 0]).tolist()) == set(rows[:, 0].tolist())  # all of them, and nothing else


def test_best_episodes_are_corls():
    """Of 40 episodes, the rows of the 4 best."""
    rewards, terminals = GOLDEN['bc/top10/rewards'], GOLDEN['bc/top10/terminals']
    episode = np.concatenate([[0], np.cumsum(terminals)[:-1]]).astype(int)
    kept = Selection(best_percent=percent_bc.METHOD.fields['percent'].default).keep('', np.bincount(episode, rewards))
    np.testing.assert_array_equal(np.flatnonzero(kept[episode]), np.sort(GOLDEN['bc/top10/kept/undiscounted']))


def test_learns_the_mean_of_all_or_of_the_best():
    """One-step episodes at a state s: an action of 0.4 s in nine of ten, of −0.4 s in those of the highest return."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (2000, 1))
    best = np.arange(2000) < 200
    actions = np.where(best[:, None], -0.4, 0.4) * states + 0.05 * rng.normal(size=states.shape)
    rewards = best + 0.1 * rng.normal(size=2000)
    rows = pack(states, actions, rewards, np.zeros(2000), states)
    inputs = jnp.linspace(-1, 1, 21)[:, None]
    for method, slope in ((bc.METHOD, 0.32), (percent_bc.METHOD, -0.4)):
        chosen = options(method, hidden_dims=(32, 32), batch_size=128)
        kept = Selection(best_percent=getattr(chosen, 'percent', None)).keep('', rewards)
        algorithm = method.make(chosen, 1, 1)
        data = one_step_episodes(rows[np.flatnonzero(kept)])
        state = train(algorithm, hyperparameters(method, actor_lr=3e-3), data, 500)
        learned = acted(algorithm, state, inputs)
        np.testing.assert_allclose(learned, slope * inputs, atol=0.1)
