"""IQL against its authors' code, by hand, and on a problem whose answer is known."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_golden import GOLDEN, TOLERANCE, flax_mlp, stacked, under

from spot_jax.core.method import Data
from spot_jax.core.networks import MLP, DoubleCritic, GaussianActor
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Transition
from spot_jax.methods import iql
from spot_jax.methods.iql import IQL, METHOD, Hyperparameters, IQLState

NETS = IQL(
    MLP((16, 16), 1), GaussianActor(3, (16, 16), (-5.0, 2.0), tanh_mean=True), DoubleCritic((16, 16)), schedule_steps=10
)
UPDATE = jax.jit(iql.update, static_argnums=1)


def networks(prefix):
    """(value, actor, critic, target critic) as recorded."""
    layers = [f'MLP_0/Dense_{i}' for i in range(3)]
    twin = lambda name: {'twin': stacked(*(flax_mlp(f'{prefix}/{name}/Critic_{i}', layers) for i in range(2)))}
    actor = {
        'MLP_0': flax_mlp(f'{prefix}/actor', ['MLP_0/Dense_0', 'MLP_0/Dense_1', 'Dense_0']),
        'log_std': jnp.asarray(GOLDEN[f'{prefix}/actor/log_stds']),
    }
    parts = (flax_mlp(f'{prefix}/value', layers), actor, twin('critic'), twin('target_critic'))
    return tuple({'params': part} for part in parts)


def start(name):
    value, actor, critic, target = networks(f'{name}/before')
    return IQLState(
        TrainState.create(value), TrainState.create(actor), TargetTrainState.create(critic, target_params=target)
    )


def batch(name, step):
    recorded = under(f'{name}/step{step}/batch')
    masks = 1 - recorded['dones']
    parts = (recorded['observations'], recorded['actions'], recorded['rewards'], masks, recorded['next_observations'])
    return Transition(*map(jnp.asarray, parts))


def hypers(name):
    meta = under(f'{name}/meta')
    rate = meta['lr']
    rest = (meta[key] for key in ('discount', 'tau', 'expectile', 'temperature', 'exp_adv_max'))
    return Hyperparameters(*map(jnp.float32, (rate, rate, rate, *rest)))


def close(new, old, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **(tolerance or TOLERANCE)), new, old)


@pytest.mark.parametrize('name', ['iql', 'iql_antmaze'])
def test_updates_are_the_authors(name):
    state = start(name)
    for step in (1, 2):
        state, metrics = UPDATE(state, NETS, batch(name, step), hypers(name), jnp.int32(step - 1))
        value = under(f'{name}/step{step}/value')
        means = {key: jnp.mean(x) for key, x in metrics.items()}
        assert set(metrics) == set(METHOD.metrics)
        assert all(x.shape == (32,) for x in metrics.values())
        close([means[key] for key in ('value_loss', 'v', 'actor_loss', 'critic_loss')],
              [value[key] for key in ('value_loss', 'v', 'actor_loss', 'critic_loss')])  # fmt: skip
        close(means['q'], (value['q1'] + value['q2']) / 2)
        close(metrics['advantage'], value['adv'])
        new = (state.value.params, state.actor.params, state.critic.params, state.critic.target_params)
        close(new, networks(f'{name}/step{step}/after'))


def test_expectile_loss_by_hand():
    losses = iql.expectile_loss(jnp.array([2.0, 0.0, -2.0]), jnp.float32(0.9))
    np.testing.assert_allclose(losses, [0.9 * 4, 0, 0.1 * 4], rtol=1e-6)


def test_weights_and_their_bound_by_hand():
    """Of a policy that is N(0, 1): log π(1) is −1/2 − log √2π of each dimension."""
    net = IQL(MLP((), 1), GaussianActor(2, (), tanh_mean=True), DoubleCritic(()))
    params = {
        'params': {'MLP_0': {'Dense_0': {'kernel': jnp.zeros((3, 2)), 'bias': jnp.zeros(2)}}, 'log_std': jnp.zeros(2)}
    }
    data = batch('iql', 1)._replace(observations=jnp.zeros((2, 3)), actions=jnp.ones((2, 2)))
    loss, metrics = iql.actor_loss_fn(params, net, data, jnp.array([0.1, 50.0]), hypers('iql'))
    nats = 2 * (0.5 + 0.5 * np.log(2 * np.pi))
    np.testing.assert_allclose(metrics['actor_loss'], [np.exp(0.3) * nats, 100 * nats], rtol=1e-5)
    assert loss == pytest.approx(float(metrics['actor_loss'].mean()), rel=1e-6)


def test_a_terminal_does_not_bootstrap():
    """The critics' loss of a terminal state does not depend on what comes next, another's does."""
    data = batch('iql', 1)._replace(masks=jnp.zeros(32).at[1].set(1.0))
    other = data._replace(next_observations=data.next_observations + 1)
    losses = [UPDATE(start('iql'), NETS, x, hypers('iql'), jnp.int32(0))[1]['critic_loss'] for x in (data, other)]
    assert np.flatnonzero(losses[0] != losses[1]).tolist() == [1]


def test_schedule_by_hand():
    rates = [iql.actor_rate(NETS, jnp.float32(2.0), jnp.int32(step)) for step in (0, 5, 10, 11)]
    np.testing.assert_allclose(rates, [2.0, 1.0, 0.0, 0.0], atol=1e-6)
    assert iql.actor_rate(NETS._replace(schedule_steps=None), 2.0, jnp.int32(5)) == 2.0


def test_the_schedule_is_the_actors_alone():
    """After half the steps the first step is half as long, after all of them there is none; the others' stay."""
    before = start('iql')
    first, half, done = (
        UPDATE(before, NETS, batch('iql', 1), hypers('iql'), jnp.int32(step))[0] for step in (0, 5, 10)
    )
    moved = lambda new: jax.tree.map(lambda a, b: a - b, new.actor.params, before.actor.params)
    close(moved(half), jax.tree.map(lambda x: x / 2, moved(first)), rtol=1e-3, atol=1e-6)
    close(done.actor.params, before.actor.params, rtol=0)
    close((done.value.params, done.critic.params), (first.value.params, first.critic.params), rtol=0)


def small():
    """An algorithm of few shapes, since without `jit` each is compiled on its own."""
    options = {name: field.default for name, field in METHOD.fields.items()}
    options |= {'batch_size': 3, 'hidden_dims': (), 'schedule_steps': 10}
    return METHOD.make(SimpleNamespace(**options), 3, 3)


def test_update_is_the_same_compiled_and_in_a_population():
    algorithm = small()
    state = jax.jit(algorithm.init)(jax.random.key(0))
    rows = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (20, 11)), jnp.float32)
    drawn = algorithm.draw(jax.random.key(1), Data(rows, *(jnp.arange(20),) * 2, rows[:, 6]))
    one = lambda setting: algorithm.update(state, (), drawn, setting, jnp.int32(3))
    settings = [hypers('iql'), hypers('iql_antmaze')._replace(actor_lr=jnp.float32(1e-3))]
    stacked = jax.tree.map(lambda *x: np.stack(x), *settings)
    compiled, together = jax.jit(one), jax.jit(jax.vmap(one))(stacked)
    close(one(settings[0]), compiled(settings[0]), rtol=1e-5, atol=1e-6)
    for i, setting in enumerate(settings):
        close(jax.tree.map(lambda x, i=i: x[i], together), compiled(setting), rtol=1e-5, atol=1e-6)


def test_it_picks_the_better_of_two_modes():
    """Half of the data is action −1/2 with reward 0, half 1/2 with 1: the expectile e of such rewards is e itself.

    IQL does the better; without a temperature and at expectile 1/2 it clones, and V is the mean.
    """
    options = {name: field.default for name, field in METHOD.fields.items()}
    options = SimpleNamespace(**options | {'batch_size': 64, 'hidden_dims': (16,)})
    algorithm = METHOD.make(options, 1, 1)
    good = np.arange(100) % 2
    columns = (np.ones(100), good - 0.5, good, np.zeros(100), np.ones(100))  # ends after one step
    rows = jnp.asarray(np.stack(columns, axis=1), jnp.float32)
    data = Data(rows, *(jnp.arange(100),) * 2, rows[:, 2])
    both = lambda first, second: jnp.array([first, second])
    rate = both(1e-2, 1e-2)
    settings = Hyperparameters(
        rate, rate, rate, both(0.9, 0.9), both(0.1, 0.1), both(0.9, 0.5), both(10.0, 0.0), both(100.0, 100.0)
    )

    @jax.jit
    def learn(key, settings):
        def one(learners, x):
            update = jax.vmap(algorithm.update, (0, None, None, 0, None))
            return update(learners, (), algorithm.draw(x[0], data), settings, x[1])

        learners = jax.tree.map(lambda x: jnp.stack([x, x]), algorithm.init(key))
        return jax.lax.scan(one, learners, (jax.random.split(key, 400), jnp.arange(400)))

    learners, metrics = learn(jax.random.key(0), settings)
    assert metrics['q_magnitude'].shape == (400, 2, 64)
    np.testing.assert_allclose(metrics['v'][-50:].mean((0, 2)), [0.9, 0.5], atol=0.05)
    policies = algorithm.policy(learners, (), settings)
    act = jax.vmap(lambda policy: algorithm.act(policy, algorithm.memory(), jnp.ones(1), jnp.float32(0)))
    actions, memory = act(policies)
    np.testing.assert_allclose(actions, [[0.5], [0.0]], atol=0.1)
    assert memory == ()

    log_std = policies['params']['log_std']
    explore = lambda noise: jax.vmap(lambda policy: algorithm.explore(policy, jnp.ones(1), noise, 0.0))(policies)
    np.testing.assert_allclose(explore(jnp.array([0.1])), actions + 0.1 * jnp.exp(log_std), rtol=1e-5)
    np.testing.assert_array_equal(explore(jnp.array([99.0])), 1.0)


def test_networks_start_as_the_authors():
    """Orthogonal kernels times √2, biases and log standard deviations 0, targets equal to the critics."""
    options = SimpleNamespace(**{name: field.default for name, field in METHOD.fields.items()} | {'hidden_dims': (8,)})
    state = jax.jit(METHOD.make(options, 5, 3).init)(jax.random.key(0))
    params = [state.value.params, state.actor.params, state.critic.params]
    for path, leaf in jax.tree.leaves_with_path(params):
        if path[-1].key == 'kernel':
            leaf = leaf.reshape(-1, *leaf.shape[-2:])  # critics lead with an axis of 2
            short = leaf if leaf.shape[1] < leaf.shape[2] else leaf.mT
            np.testing.assert_allclose(short @ short.mT, np.stack([2 * np.eye(short.shape[1])] * len(leaf)), atol=1e-5)
        else:
            assert not leaf.any()
    close(state.critic.params, state.critic.target_params, rtol=0)


def test_presets_are_values_that_the_fields_take():
    for preset in METHOD.presets.values():
        for name, value in preset.items():
            assert METHOD.fields[name].takes.fits(value), name
    for name, field in METHOD.fields.items():
        assert field.takes.fits(field.default), name
    assert set(Hyperparameters._fields) <= set(METHOD.fields)
