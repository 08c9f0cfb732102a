"""ReBRAC: parity with CORL's code at recorded weights, data and noise, and its pieces by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_golden import GOLDEN, TOLERANCE, flax_mlp, under
from one_member import hyperparameters, one_step_episodes, options, pack, train

from spot_jax.core.method import Data
from spot_jax.core.train_state import TargetTrainState
from spot_jax.core.types import Transition, unpack
from spot_jax.methods import rebrac
from spot_jax.methods.rebrac import METHOD, Drawn, ReBRACState

DENSE = [f'Dense_{i}' for i in range(4)]


def actor(prefix, name='actor'):
    return {'params': {'MLP_0': flax_mlp(f'{prefix}/{name}/params', DENSE)}}


def critic(prefix, name='critic'):
    path = f'{prefix}/{name}/params/VmapCritic_0'
    norms = {
        f'LayerNorm_{i}': {p: jnp.array(GOLDEN[f'{path}/LayerNorm_{i}/{p}']) for p in ('bias', 'scale')}
        for i in range(3)
    }
    return {'params': {'twin': flax_mlp(path, DENSE) | norms}}


def params_of(state):
    return state.actor.params, state.actor.target_params, state.critic.params, state.critic.target_params


def recorded_params(prefix):
    return actor(prefix), actor(prefix, 'actor_target'), critic(prefix), critic(prefix, 'critic_target')


def recorded(*steps):
    """Blocks of the recorded updates, `[F, 32, ...]`; every row has a next action."""
    values = [under(f'rebrac/step{step}/batch') for step in steps]
    both = {name: np.stack([v[name] for v in values]) for name in values[0]}
    batch = Transition(**{f: both[f] for f in Transition._fields if f != 'masks'}, masks=1 - both['dones'])
    noise = np.stack([GOLDEN[f'rebrac/step{step}/noise/target'] for step in steps])
    return Drawn(batch, both['next_actions'], np.ones_like(both['dones']), noise)


META = {name: float(value) for name, value in under('rebrac/meta').items()}
HYPERS = hyperparameters(
    METHOD,
    actor_lr=META['lr'],
    critic_lr=META['lr'],
    actor_bc_coef=META['actor_bc_coef'],
    critic_bc_coef=META['critic_bc_coef'],
)
BEFORE = ReBRACState(
    TargetTrainState.create(actor('rebrac/before'), target_params=actor('rebrac/before', 'actor_target')),
    TargetTrainState.create(critic('rebrac/before'), target_params=critic('rebrac/before', 'critic_target')),
)


def algorithm(**changes):
    return rebrac.make(options(METHOD, **{'hidden_dims': (16,) * 3} | changes), 5, 3)


@pytest.mark.parametrize('steps', [(1,), (1, 2)])
def test_blocks_are_corls(steps):
    """All networks step in a block's first update, the critics alone in its second."""
    update = jax.jit(algorithm(policy_freq=len(steps)).update)
    state, metrics = update(BEFORE, None, recorded(*steps), HYPERS, jnp.int32(0))
    after = recorded_params(f'rebrac/step{steps[-1]}/after')
    chex.assert_trees_all_close(params_of(state), after, **TOLERANCE)
    # The step before which the actor's target, and after which the critics', takes them in changes it by τ·lr = 5e-6.
    chex.assert_trees_all_close(params_of(state)[1::2], after[1::2], rtol=0, atol=3e-7)
    value = lambda name: np.mean([GOLDEN[f'rebrac/step{step}/value/{name}'] for step in steps])
    np.testing.assert_allclose(metrics['critic_loss'].mean(), value('critic_loss'), **TOLERANCE)
    np.testing.assert_allclose(metrics['q'].mean(), value('q_min'), **TOLERANCE)
    np.testing.assert_allclose(metrics['actor_loss'].mean(), GOLDEN['rebrac/step1/value/actor_loss'], **TOLERANCE)
    np.testing.assert_allclose(metrics['penalty'].mean(), GOLDEN['rebrac/step1/value/bc_mse_policy'], **TOLERANCE)
    assert set(metrics) == set(METHOD.metrics)
    chex.assert_shape(list(metrics.values()), (32,))


class Given:
    """A network that gives its parameters, whatever it sees."""

    @staticmethod
    def apply(params, *_):
        return params


def test_losses_by_hand():
    """One state, two action dimensions: penalties are sums over them, values the smaller critic's."""
    method, column = rebrac.ReBRAC(Given, Given), lambda *values: jnp.array([values], jnp.float32)
    batch = Transition(
        jnp.zeros((3, 1)),
        jnp.tile(column(0.5, 0.0), (3, 1)),
        jnp.ones(3),
        jnp.array([1.0, 1.0, 0.0]),
        jnp.zeros((3, 1)),
    )
    drawn = Drawn(
        batch, jnp.tile(column(-0.7, 0.3), (3, 1)), jnp.array([1.0, 0.0, 1.0]), jnp.tile(column(9.0, -1.0), (3, 1))
    )
    hypers = hyperparameters(METHOD, discount=0.9, critic_bc_coef=2.0, actor_bc_coef=3.0)
    target = TargetTrainState.create({}, target_params=jnp.tile(column(-0.3, 0.5), (3, 1)))
    critics = TargetTrainState.create({}, target_params=jnp.tile(jnp.array([[4.0], [5.0]]), (1, 3)))
    # The noise is 0.5 (clipped) and -0.2, so that a' is (0.2, 0.3), 0.9 from the data's in its first dimension.
    values = rebrac.target_values(ReBRACState(target, critics), method, drawn, hypers)
    np.testing.assert_allclose(values, [1 + 0.9 * (4 - 2 * 0.81), 1 + 0.9 * 4, 1], rtol=1e-6)

    q = jnp.array([[1.0, -3.0, 5.0], [2.0, -4.0, 4.0]])  # the smaller ones are 1, -4, 4, of mean magnitude 3
    loss, metrics = rebrac.actor_loss_fn(jnp.tile(column(0.2, 0.4), (3, 1)), method, q, batch, hypers)
    np.testing.assert_allclose(metrics['actor_loss'], 3 * 0.25 - np.array([1, -4, 4]) / 3, rtol=1e-6)
    loss, metrics = rebrac.critic_loss_fn(q, method, batch, jnp.array([0.0, -4.0, 4.0]))
    np.testing.assert_allclose(metrics['critic_loss'], [1 + 4, 1, 1], rtol=1e-6)
    assert loss == pytest.approx(7 / 3)


def test_networks_start_as_the_sources():
    state = jax.jit(algorithm(hidden_dims=(64, 64)).init)(jax.random.key(0))
    for network, output, inputs in ((state.actor, 1e-3, 5), (state.critic, 3e-3, 8)):
        layers = next(iter(network.params['params'].values()))
        for i, bound in enumerate((inputs**-0.5, 1 / 8)):
            np.testing.assert_array_equal(layers[f'Dense_{i}']['bias'], np.float32(0.1))
            assert 0.9 * bound < jnp.abs(layers[f'Dense_{i}']['kernel']).max() <= bound
        assert all(0.3 * output < jnp.abs(leaf).max() <= output for leaf in layers['Dense_2'].values())
        chex.assert_trees_all_equal(network.params, network.target_params)
    assert {name for name in layers if 'Norm' in name} == {'LayerNorm_0', 'LayerNorm_1'}  # the critics'


def test_next_actions_are_the_next_rows_of_the_episode():
    """Row i has action i; episodes are rows 0 to 2 and 3 to 4, neither of which ends in a terminal."""
    rows = np.arange(5, dtype=np.float32)[:, None] * np.ones((1, 5 * 2 + 3 + 2), np.float32)
    data = Data(jnp.array(rows), jnp.array([0, 0, 0, 3, 3]), jnp.array([2, 2, 2, 4, 4]), jnp.zeros(5))
    drawn = algorithm(batch_size=50).draw(jax.random.key(0), data)
    chex.assert_shape([drawn.noise, drawn.next_actions], (2, 50, 3))
    index = drawn.batch.actions[..., 0].astype(int)
    assert set(index.ravel().tolist()) == set(range(5))
    np.testing.assert_array_equal(drawn.has_next, np.array([1, 1, 0, 1, 0])[index])
    np.testing.assert_array_equal(drawn.next_actions[..., 0], np.array([1, 2, 2, 4, 4])[index])
    chex.assert_trees_all_equal(drawn.batch, unpack(data.rows[index], 5, 3))


def test_settings_side_by_side_are_each_alone():
    method = algorithm()
    many = [HYPERS, hyperparameters(METHOD, actor_bc_coef=1.0, discount=0.9, critic_lr=1e-4)]
    run = lambda hypers: method.update(BEFORE, None, recorded(1, 2), hypers, jnp.int32(0))
    together = jax.jit(jax.vmap(run))(jax.tree.map(lambda *xs: jnp.stack(xs), *many))
    for i, hypers in enumerate(many):  # without jit
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], together), run(hypers), rtol=1e-5, atol=1e-5)


def test_learns_the_best_action_or_the_datas_mean():
    """Reward is 1 − (a − 0.4)² of uniform actions around −0.2: a weak penalty finds 0.4, a strong one keeps to −0.2."""
    rng = np.random.default_rng(0)
    actions, zeros = rng.uniform(-1.0, 0.6, (1000, 1)), np.zeros((1000, 1))
    data = one_step_episodes(pack(zeros, actions, 1 - (actions[:, 0] - 0.4) ** 2, zeros[:, 0], zeros))
    changes = {'hidden_dims': (32, 32), 'batch_size': 64, 'critic_lr': 3e-3}
    hypers = hyperparameters(METHOD, **changes | {'actor_bc_coef': np.array([0.001, 100.0])})
    method = rebrac.make(options(METHOD, **changes), 1, 1)
    learners = train(method, hypers, data, 600)
    act = lambda learner: method.act(method.policy(learner, None, None), (), jnp.zeros(1), jnp.float32(0))[0]
    np.testing.assert_allclose(jax.vmap(act)(learners), [[0.4], [-0.2]], atol=0.1)
