"""CQL: parity with its authors' code at recorded weights, data and noise; Cal-QL's penalty with CORL's; its pieces."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_golden import GOLDEN, TOLERANCE, stacked, torch_mlp, under
from one_member import hyperparameters, one_step_episodes, options, pack, train

from spot_jax.core.networks import MLP, DoubleCritic
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Transition
from spot_jax.methods import cql
from spot_jax.methods.cql import CQL, METHOD, CQLState, Drawn
from spot_jax.methods.gaussian import gaussian
from spot_jax.methods.soft_actor import actor_loss_fn
from spot_jax.run.config import default_config, validate
from spot_jax.system.errors import InputError

NET = CQL(MLP((16,) * 3, 6), DoubleCritic((16,) * 3))
NETS = {'cql': NET._replace(bc_steps=2), 'cql_lagrange': NET._replace(lagrange=True)}
HYPERS = hyperparameters(METHOD)
# Of the log-density of one action: 1 − tanh² has few digits left where the action is near ±1.
NEAR_THE_BOUND = {'rtol': 1e-5, 'atol': 5e-4}


@partial(jax.jit, static_argnums=1)
def step_of(state, net, drawn, hypers, step):
    """An update, and what it is made of: target values, proposals and the gradients of critics and policy."""
    new, metrics = cql.update(state, net, drawn, hypers, step)
    target_q, proposed = cql.target_values(state, net, drawn, hypers), cql.propose(state, net, drawn)
    factors, temperature = (hypers.penalty_weight, metrics['multiplier'][0]), metrics['temperature'][0]
    of_critic, of_actor = (jax.grad(f, has_aux=True) for f in (cql.critic_loss_fn, actor_loss_fn))
    critic_grads, _ = of_critic(state.critic.params, net, drawn, target_q, proposed, factors)
    fixed = net.actor, net.critic, state.critic.params, drawn.batch, drawn.policy, temperature
    actor_grads, _ = of_actor(state.actor.params, *fixed, step + 1 < net.bc_steps)
    return new, metrics, (target_q, proposed[1], critic_grads, actor_grads)


def actor(prefix):
    """The two heads side by side."""
    *hidden, mean, log_std = torch_mlp(prefix, ['fc0', 'fc1', 'fc2', 'last_fc', 'last_fc_log_std']).items()
    heads = {part: jnp.concatenate([mean[1][part], log_std[1][part]], axis=-1) for part in ('kernel', 'bias')}
    return {'params': dict(hidden) | {'Dense_3': heads}}


def critic(prefix, name='qf', layers=('fc0', 'fc1', 'fc2', 'last_fc')):
    return {'params': {'twin': stacked(*(torch_mlp(f'{prefix}/{name}{i}', layers) for i in (1, 2)))}}


def state_at(prefix):
    prime = GOLDEN.get(f'{prefix}/log_alpha_prime', np.zeros(1))
    return CQLState(
        TrainState.create(actor(f'{prefix}/policy')),
        TargetTrainState.create(critic(prefix), target_params=critic(prefix, 'target_qf')),
        TrainState.create(jnp.asarray(GOLDEN[f'{prefix}/log_alpha'][0])),
        TrainState.create(jnp.float32(prime[0])),
    )


def batch_of(name, step):
    values = under(f'{name}/step{step}/batch')
    return Transition(**{f: values[f] for f in Transition._fields if f != 'masks'}, masks=1 - values['dones'])


def recorded(name, step):
    noise = under(f'{name}/step{step}/noise')
    uniform, following, current = (
        noise[k].reshape(32, 10, 3) for k in ('random_actions', 'next_at_current', 'current')
    )
    policy, backup = noise['policy'][:, None], noise['next'][:, None]
    return Drawn(batch_of(name, step), jnp.full(32, -jnp.inf), uniform, policy, backup, following, current)


def params_of(state):
    return {
        'actor': state.actor.params,
        'critic': state.critic.params,
        'target': state.critic.target_params,
        'temperature': state.log_temperature.params,
        'multiplier': state.log_multiplier.params,
    }


@pytest.mark.parametrize('name', ['cql', 'cql_lagrange'])
def test_updates_are_the_authors(name):
    """Step 1 of `cql` clones, the others do not; `cql_lagrange` learns its multiplier."""
    state = state_at(f'{name}/before')
    for step in (1, 2):
        state, metrics, parts = step_of(state, NETS[name], recorded(name, step), HYPERS, jnp.int32(step - 1))
        value = under(f'{name}/step{step}/value')
        mean = {key: float(x.mean()) for key, x in metrics.items()}
        assert set(metrics) == set(METHOD.metrics)
        chex.assert_shape(list(metrics.values()), (32,))
        penalties, losses = (sum(float(value[f'{k}qf{i}_loss'].mean()) for i in (1, 2)) for k in ('min_', ''))
        if name == 'cql_lagrange':
            factor, threshold = mean['multiplier'], 5.0
            np.testing.assert_allclose(mean['multiplier'], value['alpha_prime'][0], **TOLERANCE)
        else:
            factor, threshold = 1.0, 0.0
        np.testing.assert_allclose(mean['penalty'], penalties / 2 / factor + threshold, **TOLERANCE)
        np.testing.assert_allclose(mean['critic_loss'], losses + 2 * factor * threshold, **TOLERANCE)
        np.testing.assert_allclose(mean['actor_loss'], value['policy_loss'], **TOLERANCE)
        np.testing.assert_allclose(mean['temperature'], value['alpha'][0], **TOLERANCE)
        np.testing.assert_allclose(metrics['log_pi'], value['log_pi'][:, 0], **NEAR_THE_BOUND)
        target_q, log_density, critic_grads, actor_grads = parts
        np.testing.assert_allclose(target_q, value['q_target'][:, 0], **TOLERANCE)
        np.testing.assert_allclose(log_density[:, :10], 3 * np.log(0.5), rtol=1e-6)
        of_policy = np.concatenate([value['new_log_pis'], value['curr_log_pis']], axis=1)[..., 0]
        np.testing.assert_allclose(log_density[:, 10:], of_policy, **NEAR_THE_BOUND)
        chex.assert_trees_all_close(critic_grads, critic(f'{name}/step{step}/grad'), **TOLERANCE)
        chex.assert_trees_all_close(actor_grads, actor(f'{name}/step{step}/grad/policy'), **TOLERANCE)
        expected = params_of(state_at(f'{name}/step{step}/after'))
        # Tighter, since targets move by only τ·lr = 1.5e-6 more with a step of their critics than without.
        chex.assert_trees_all_close(state.critic.target_params, expected.pop('target'), rtol=0, atol=3e-7)
        chex.assert_trees_all_close({k: params_of(state)[k] for k in expected}, expected, **TOLERANCE)


def corl_sample(prefix, observations, noise):
    """CORL's policy: a learnt scale and shift of the log standard deviation, and tanh's log-determinant exactly."""
    net = MLP((16,) * 3, 6)
    params = {'params': torch_mlp(f'{prefix}/actor', [f'base_network.{i}' for i in (0, 2, 4, 6)])}
    mean, log_std = np.split(np.asarray(net.apply(params, observations)), 2, axis=-1)
    scale, shift = (GOLDEN[f'{prefix}/actor/log_std_{x}.constant'] for x in ('multiplier', 'offset'))
    std = np.exp(np.clip(scale * log_std + shift, -20, 2))[:, None]
    before = mean[:, None] + std * noise
    normal = -0.5 * noise**2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    return np.tanh(before), np.sum(normal - 2 * (np.log(2) - before - np.logaddexp(0, -2 * before)), axis=-1)


@pytest.mark.parametrize('name', ['cql_corl', 'cql_corl_lagrange', 'calql'])
def test_penalties_are_corls(name):
    """Of actions drawn from CORL's policy; `calql` bounds their values below by the data's returns."""
    layers = [f'network.{i}' for i in ((0, 2, 4) if name == 'calql' else (0, 2, 4, 6))]
    net = NET._replace(critic=DoubleCritic((16,) * (len(layers) - 1)))
    prefix, noise, value = f'{name}/before', under(f'{name}/step1/noise'), under(f'{name}/step1/value')
    batch, returns = batch_of(name, 1), GOLDEN[f'{name}/step1/batch/mc_returns']
    at = {
        'next_at_current': corl_sample(prefix, batch.next_observations, noise['next_at_current']),
        'current': corl_sample(prefix, batch.observations, noise['current']),
    }
    actions = np.concatenate([noise['random_actions'], *(x for x, _ in at.values())], axis=1)
    uniform = np.full((32, 10), 3 * np.log(0.5))
    log_density = np.concatenate([uniform, *(x for _, x in at.values())], axis=1)
    drawn = Drawn(batch, returns if name == 'calql' else np.full(32, -np.inf), noise['random_actions'], *[None] * 4)
    params = {'params': {'twin': stacked(*(torch_mlp(f'{prefix}/critic_{i}', layers) for i in (1, 2)))}}
    proposed = jnp.asarray(actions, jnp.float32), jnp.asarray(log_density, jnp.float32)
    _, metrics = cql.critic_loss_fn(params, net, drawn, jnp.zeros(32), proposed, (1.0, 1.0))
    expected = (value['cql_qf1_diff'] + value['cql_qf2_diff']) / 2
    np.testing.assert_allclose(metrics['penalty'].mean(), expected, **TOLERANCE)


def test_penalty_by_hand():
    """Critics that are 0 and 1 everywhere; with floors the policy's actions count 2 instead."""
    net = CQL(MLP((), 2), DoubleCritic(()))
    kernel, bias = jnp.zeros((2, 2, 1)), jnp.array([[0.0], [1.0]])
    params = {'params': {'twin': {'Dense_0': {'kernel': kernel, 'bias': bias}}}}
    batch = Transition(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.zeros(1), jnp.ones(1), jnp.zeros((1, 1)))
    proposed = jnp.zeros((1, 3, 1)), jnp.log(jnp.array([[0.5, 0.25, 1.0]]))
    drawn = lambda floor: Drawn(batch, jnp.array([floor]), jnp.zeros((1, 1, 1)), *[None] * 4)
    run = jax.jit(lambda floor: cql.critic_loss_fn(params, net, drawn(floor), jnp.zeros(1), proposed, (5.0, 2.0)))
    loss, metrics = run(-np.inf)
    np.testing.assert_allclose(metrics['penalty'], 5 * np.log(2 + 4 + 1), rtol=1e-6)
    np.testing.assert_allclose(loss, 0 + 1 + 2 * 2 * 5 * np.log(7), rtol=1e-6)
    _, metrics = run(2.0)
    raised = np.log(2 + 5 * np.exp(2)), np.log(2 * np.e + 5 * np.exp(2)) - 1
    np.testing.assert_allclose(metrics['penalty'], 5 * np.mean(raised), rtol=1e-6)


def test_max_backup_takes_the_best_action_of_each_critic():
    """Critics a and −a: the best of each is tanh(1/2) and tanh(1), the lesser counts; CORL's would be −tanh(1/2)."""
    layer = lambda *kernel: {'Dense_0': {'kernel': jnp.array(kernel), 'bias': jnp.zeros((len(kernel), 1))}}
    policy = {'params': {'Dense_0': {'kernel': jnp.zeros((1, 2)), 'bias': jnp.zeros(2)}}}
    critics = {'params': {'twin': layer([[0.0], [1.0]], [[0.0], [-1.0]])}}
    state = CQLState(TrainState.create(policy), TargetTrainState.create(critics, target_params=critics), *[None] * 2)
    zeros = jnp.zeros((1, 1))
    batch = Transition(zeros, zeros, jnp.full(1, 3.0), jnp.ones(1), zeros)
    drawn = Drawn(batch, *[None] * 3, jnp.array([[[0.5], [-1.0]]]), *[None] * 2)
    target = cql.target_values(state, CQL(MLP((), 2), DoubleCritic(())), drawn, HYPERS)
    np.testing.assert_allclose(target, 3 + 0.99 * np.tanh(0.5), rtol=1e-6)


def test_multiplier_moves_towards_the_threshold():
    """It rises where the penalty is above the threshold and falls where it is below."""
    state, drawn = state_at('cql_lagrange/before'), recorded('cql_lagrange', 1)
    for threshold, sign in ((0.0, 1), (100.0, -1)):
        hypers = HYPERS._replace(threshold=jnp.float32(threshold))
        new, *_ = step_of(state, NETS['cql_lagrange'], drawn, hypers, jnp.int32(0))
        moved = new.log_multiplier.params - state.log_multiplier.params
        np.testing.assert_allclose(moved, sign * 3e-4, rtol=1e-2)


def test_acting_and_exploring():
    algorithm = METHOD.make(options(METHOD, hidden_dims=(16,) * 3), 5, 3)
    state, observation = state_at('cql/before'), batch_of('cql', 1).observations[0]
    policy = algorithm.policy(state, None, HYPERS)
    mean, log_std = gaussian(NET.actor, policy, observation)
    np.testing.assert_allclose(algorithm.act(policy, (), observation, jnp.float32(0))[0], jnp.tanh(mean))
    explored = algorithm.explore(policy, observation, jnp.array([0.1, -99.0, 99.0]), jnp.float32(0))
    np.testing.assert_allclose(explored[0], jnp.tanh(mean[0] + 0.1 * jnp.exp(log_std[0])), rtol=1e-6)


def test_networks_start_as_the_authors():
    """Hidden kernels within 1/√(their outputs), biases 0.1, last layers small; targets are the critics."""
    state = jax.jit(METHOD.make(options(METHOD, hidden_dims=(64, 16)), 5, 3).init)(jax.random.key(0))
    layers, twins = state.actor.params['params'], state.critic.params['params']['twin']
    for name, size in (('Dense_0', 64), ('Dense_1', 16)):
        for kernel in (layers[name]['kernel'], twins[name]['kernel'][0], twins[name]['kernel'][1]):
            assert 0.9 * size**-0.5 < np.abs(kernel).max() <= size**-0.5
        np.testing.assert_allclose(layers[name]['bias'], 0.1)
    for last, bound in ((layers['Dense_2'], 1e-3), (twins['Dense_2'], 3e-3)):
        assert 0.8 * bound < np.abs(last['kernel']).max() <= bound
    assert not np.array_equal(twins['Dense_0']['kernel'][0], twins['Dense_0']['kernel'][1])
    chex.assert_trees_all_equal(state.critic.params, state.critic.target_params)


def test_draws():
    """Noise of the right kinds; only with `calibrate` a floor, and that the data's returns."""
    rows = pack(*(np.zeros((8, n)) for n in (2, 1)), np.zeros(8), np.ones(8), np.zeros((8, 2)))
    data = one_step_episodes(rows)._replace(returns_to_go=jnp.arange(8.0) + 3)
    plain, calibrated = (
        METHOD.make(options(METHOD, batch_size=500, calibrate=on, max_backup=on), 2, 1).draw(jax.random.key(0), data)
        for on in (False, True)
    )
    assert not np.isfinite(plain.floor).any()
    assert set(np.asarray(calibrated.floor).tolist()) == set(range(3, 11))
    assert plain.backup.shape == (500, 1, 1)
    assert calibrated.backup.shape == (500, 10, 1)
    for drawn in (plain, calibrated):
        assert -1 <= drawn.uniform.min() < -0.99
        assert 0.99 < drawn.uniform.max() <= 1
        assert not np.array_equal(drawn.current, drawn.following)
        assert np.abs(drawn.current).max() > 2
    titles = [METHOD.title(options(METHOD, calibrate=on)) for on in (False, True)]
    assert titles == ['CQL', 'Cal-QL']
    assert [METHOD.returns_discount(options(METHOD, calibrate=on)) for on in (False, True)] == [1.0, 0.99]
    config = default_config()
    config.method, config.dataset_id, config.grid.discount, config.cql.calibrate = 'cql', 'a/b-v0', (0.9, 0.95), True
    with pytest.raises(InputError, match=r'config.grid.discount: .* is of one discount, cql.discount: set that'):
        validate(config)
    config.cql.calibrate = False
    validate(config)


def test_learns_the_better_of_two_modes_and_stays_in_the_data():
    """The data goes ±0.5 alike; reward is 1 with the state's sign, else 0. Without a penalty, more seems better."""
    rng = np.random.default_rng(0)
    states, modes = rng.choice([-1.0, 1.0], (2, 1000, 1))
    actions = 0.5 * modes + rng.normal(0, 0.05, (1000, 1))
    data = one_step_episodes(pack(states, actions, (states == modes)[:, 0], np.zeros(1000), states))
    rates = {'actor_lr': 1e-2, 'critic_lr': 1e-2, 'penalty_weight': np.array([0.3, 0.0])}
    changes = {'hidden_dims': (32,), 'batch_size': 64, 'bc_steps': 0, 'num_actions': 2, **rates}
    algorithm, hypers = METHOD.make(options(METHOD, **changes), 1, 1), hyperparameters(METHOD, **rates)
    policies = algorithm.policy(train(algorithm, hypers, data, 400), None, hypers)
    act = lambda policy, state: algorithm.act(policy, (), state, jnp.float32(0))[0]
    actions = jax.vmap(jax.vmap(act, (None, 0)), (0, None))(policies, jnp.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(actions[0], [[-0.5], [0.5]], atol=0.15)
    assert (actions[1] * jnp.array([[-1.0], [1.0]]) > 0.8).all()  # without a penalty the critics extrapolate
