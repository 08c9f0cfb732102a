"""AWAC: parity with CORL's code at recorded weights, data and noise, and its pieces by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_golden import GOLDEN, TOLERANCE, stacked, torch_mlp, under
from one_member import hyperparameters, one_step_episodes, options, pack, train

from spot_jax.core.losses import critic_loss_fn
from spot_jax.core.networks import DoubleCritic, GaussianActor
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.core.types import Transition
from spot_jax.methods import awac
from spot_jax.methods.awac import METHOD, AWACState, Noise

LAYERS = [f'_mlp.{i}' for i in (0, 2, 4, 6)]
NET = awac.AWAC(GaussianActor(3, (16,) * 3), DoubleCritic((16,) * 3))


def actor(prefix):
    return {
        'params': {
            'MLP_0': torch_mlp(f'{prefix}/actor', LAYERS),
            'log_std': jnp.array(GOLDEN[f'{prefix}/actor/_log_std']),
        }
    }


def critic(prefix, name='critic'):
    return {'params': {'twin': stacked(*(torch_mlp(f'{prefix}/{name}_{i}', LAYERS) for i in (1, 2)))}}


def recorded(step):
    values = under(f'awac/step{step}/batch')
    batch = Transition(**{f: values[f] for f in Transition._fields if f != 'masks'}, masks=1 - values['dones'])
    return batch, Noise(**under(f'awac/step{step}/noise'))


META = {name: float(value) for name, value in under('awac/meta').items()}
HYPERS = hyperparameters(
    METHOD, actor_lr=META['lr'], critic_lr=META['lr'], temperature=META['awac_lambda'], max_weight=META['exp_adv_max']
)
BEFORE = AWACState(
    TrainState.create(actor('awac/before')),
    TargetTrainState.create(critic('awac/before'), target_params=critic('awac/before', 'target_critic')),
)


@pytest.fixture(scope='module')
def updates():
    """The states after each recorded update, and its metrics."""
    update, state, history = jax.jit(awac.make(options(METHOD, hidden_dims=(16,) * 3), 5, 3).update), BEFORE, []
    for step in (1, 2):
        state, metrics = update(state, None, recorded(step), HYPERS, jnp.int32(step - 1))
        history.append((state, metrics))
    return history


@pytest.mark.parametrize('step', [1, 2])
def test_updates_are_corls(updates, step):
    state, metrics = updates[step - 1]
    after, values = f'awac/step{step}/after', under(f'awac/step{step}/value')
    chex.assert_trees_all_close(state.actor.params, actor(after), **TOLERANCE)
    chex.assert_trees_all_close(state.critic.params, critic(after), **TOLERANCE)
    # Tighter, since with the critics from before their step it would differ by τ·lr = 1.5e-6.
    chex.assert_trees_all_close(state.critic.target_params, critic(after, 'target_critic'), rtol=0, atol=3e-7)
    for name in ('critic_loss', 'actor_loss'):
        np.testing.assert_allclose(metrics[name].mean(), values[name], **TOLERANCE)
    for name, key in (('advantage', 'adv'), ('weight', 'weights'), ('log_prob', 'action_log_prob')):
        np.testing.assert_allclose(metrics[name], values[key][:, 0], **TOLERANCE)
    assert set(metrics) == set(METHOD.metrics)
    chex.assert_shape(list(metrics.values()), (32,))


def test_gradients_are_corls(updates):
    """Of the first update: the critics' at the old weights, the actor's with the new critics."""
    batch, noise = recorded(1)

    @jax.jit
    def gradients(before, after):
        target_q = awac.target_values(before, NET, batch, noise, HYPERS)
        critic_grads, _ = jax.grad(critic_loss_fn, has_aux=True)(before.critic.params, NET.critic, batch, target_q)
        advantage = awac.advantages(before.replace(critic=after.critic), NET, batch, noise)
        actor_grad = jax.grad(awac.actor_loss_fn, has_aux=True)
        return target_q, critic_grads, actor_grad(before.actor.params, NET, batch, advantage, HYPERS)[0]

    target_q, critic_grads, actor_grads = gradients(BEFORE, updates[0][0])
    np.testing.assert_allclose(target_q, GOLDEN['awac/step1/value/q_target'][:, 0], **TOLERANCE)
    chex.assert_trees_all_close(critic_grads, critic('awac/step1/grad'), **TOLERANCE)
    chex.assert_trees_all_close(actor_grads, actor('awac/step1/grad'), **TOLERANCE)


def test_weights_by_hand():
    """exp(a / λ) up to the bound, and the log density of a normal distribution times its negative."""
    params = {
        'params': {
            'MLP_0': jax.tree.map(jnp.zeros_like, BEFORE.actor.params['params']['MLP_0']),
            'log_std': jnp.log(jnp.array([1.0, 2.0, 4.0])),
        }
    }
    batch = recorded(1)[0]._replace(observations=jnp.zeros((3, 5)), actions=jnp.full((3, 3), 2.0))
    hypers = HYPERS._replace(temperature=jnp.float32(0.5), max_weight=jnp.float32(10.0))
    loss, metrics = awac.actor_loss_fn(params, NET, batch, jnp.array([-0.5, 1.0, 99.0]), hypers)
    np.testing.assert_allclose(metrics['weight'], [0.36787944, 7.3890561, 10.0], rtol=1e-6)
    log_prob = -(4 / 2 + 4 / 8 + 4 / 32) - np.log(8) - 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(metrics['log_prob'], [log_prob] * 3, rtol=1e-6)
    assert loss == pytest.approx(-log_prob * (0.36787944 + 7.3890561 + 10) / 3, rel=1e-5)


def test_log_std_is_clipped():
    params = {'params': {**BEFORE.actor.params['params'], 'log_std': jnp.array([-30.0, 0.5, 30.0])}}
    _, log_std = NET.actor.apply(params, jnp.zeros((2, 5)))
    np.testing.assert_allclose(log_std, [[-20.0, 0.5, 2.0]] * 2)


def test_acting_is_the_mean_and_exploring_a_sample_both_clipped():
    algorithm = awac.make(options(METHOD, hidden_dims=(16,) * 3), 5, 3)
    observation, policy = 50 * recorded(1)[0].observations[0], algorithm.policy(BEFORE, None, HYPERS)
    mean, log_std = NET.actor.apply(policy, observation)
    action, memory = algorithm.act(policy, algorithm.memory(), observation, jnp.float32(0))
    np.testing.assert_allclose(action, np.clip(mean, -1, 1))
    assert np.abs(mean).max() > 1
    assert memory == ()
    noise = jnp.array([0.1, -99.0, 99.0])
    explored = algorithm.explore(policy, observation, noise, jnp.float32(0.0))
    np.testing.assert_allclose(explored, [np.clip(mean[0] + np.exp(log_std[0]) * 0.1, -1, 1), -1, 1], rtol=1e-6)


def test_settings_side_by_side_are_each_alone():
    algorithm = awac.make(options(METHOD, hidden_dims=(16,) * 3), 5, 3)
    many = [HYPERS, hyperparameters(METHOD, temperature=1.0, discount=0.9, actor_lr=1e-3)]
    run = lambda hypers: algorithm.update(BEFORE, None, recorded(1), hypers, jnp.int32(0))
    together = jax.jit(jax.vmap(run))(jax.tree.map(lambda *xs: jnp.stack(xs), *many))
    for i, hypers in enumerate(many):  # without jit
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], together), run(hypers), rtol=1e-5, atol=1e-6)


def test_learns_the_better_of_two_modes():
    """The data goes ±0.5 alike; reward is 1 with the state's sign, else 0. Cloning would go to 0."""
    rng = np.random.default_rng(0)
    states, modes = rng.choice([-1.0, 1.0], (2, 1000, 1))
    actions = 0.5 * modes + rng.normal(0, 0.05, (1000, 1))
    data = one_step_episodes(pack(states, actions, (states == modes)[:, 0], np.zeros(1000), states))
    changes = {'hidden_dims': (32,), 'batch_size': 64, 'actor_lr': 3e-3, 'critic_lr': 3e-3, 'temperature': 0.1}
    algorithm, hypers = awac.make(options(METHOD, **changes), 1, 1), hyperparameters(METHOD, **changes)
    policy = algorithm.policy(train(algorithm, hypers, data, 800), None, hypers)
    act = jax.vmap(lambda state: algorithm.act(policy, (), state, jnp.float32(0))[0])
    np.testing.assert_allclose(act(jnp.array([[-1.0], [1.0]])), [[-0.5], [0.5]], atol=0.12)
