"""PLAS: parity with the authors' code, with and without perturbation, its pieces by hand, a learned answer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_golden import GOLDEN, TOLERANCE, torch_cvae, torch_mlp, torch_twin
from one_member import hyperparameters, one_step_episodes, options, pack, recorded_batch, train

from spot_jax.core.losses import critic_loss_fn
from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.methods import plas
from spot_jax.methods.plas import METHOD, PLAS, PLASState

NAMES = ['plas', 'plas_perturbation']
SIZES = {'hidden_dims': (16, 16), 'cvae_hidden_dims': (16, 16)}


def own(name, **changes):
    return options(METHOD, **{**SIZES, 'perturbation': name == 'plas_perturbation', **changes})


def hypers(name):
    recorded = {n: GOLDEN[f'{name}/meta/{n}'] for n in ('discount', 'tau', 'actor_lr', 'critic_lr', 'phi')}
    renamed = {'min_weight': 'lmbda', 'max_latent': 'max_latent_action', 'beta': 'kl_weight'}
    recorded |= {mine: GOLDEN[f'{name}/meta/{theirs}'] for mine, theirs in renamed.items()}
    return hyperparameters(METHOD, **recorded)


def actor(name, prefix):
    params = {'latent': {'params': {'MLP_0': torch_mlp(prefix, ['l1', 'l2', 'l3'])}}}
    if name == 'plas_perturbation':
        params['perturbation'] = {'params': {'MLP_0': torch_mlp(prefix, ['l4', 'l5', 'l6'])}}
    return params


def critic(prefix):
    return {'params': {'twin': torch_twin(prefix)}}


def cvae(name, part='vae_step/after'):
    return {'params': torch_cvae(f'{name}/{part}/vae')}


def learner(name, part):
    """The recorded networks, with fresh optimisers."""
    start = f'{name}/{part}'
    return PLASState(
        TargetTrainState.create(actor(name, f'{start}/actor'), target_params=actor(name, f'{start}/actor_target')),
        TargetTrainState.create(critic(f'{start}/critic'), target_params=critic(f'{start}/critic_target')),
    )


def networks(state):
    return [(net.params, net.target_params) for net in (state.actor, state.critic)]


def parts(name):
    perturbation = Actor(3, (16, 16)) if name == 'plas_perturbation' else None
    return PLAS(CVAE(3, (16, 16)), Actor(6, (16, 16)), perturbation, DoubleCritic((16, 16)))


@pytest.mark.parametrize('name', NAMES)
def test_the_cvaes_step_is_the_authors(name):
    (stage,) = METHOD.stages(own(name, cvae_lr=float(GOLDEN[f'{name}/meta/vae_lr'])), 5, 3)
    drawn = recorded_batch(f'{name}/vae_step'), jnp.asarray(GOLDEN[f'{name}/vae_step/noise/vae'])
    before = TrainState.create(cvae(name, 'before'))
    state, metrics = jax.jit(stage.update)(before, (), drawn, hypers(name), jnp.int32(0))
    chex.assert_trees_all_close(stage.result(state, ()), cvae(name), **TOLERANCE)
    for mine, theirs in (('cvae_loss', 'vae_loss'), ('recon_loss', 'recon_loss'), ('kl_loss', 'kl_loss')):
        np.testing.assert_allclose(metrics[mine][0], GOLDEN[f'{name}/vae_step/value/{theirs}'], **TOLERANCE)


@pytest.mark.parametrize('name', NAMES)
def test_updates_and_acting_are_the_authors(name):
    algorithm, state = METHOD.make(own(name), 5, 3), learner(name, 'before')
    update = jax.jit(algorithm.update)
    for step in (1, 2):
        drawn = recorded_batch(f'{name}/step{step}')
        state, metrics = update(state, cvae(name), drawn, hypers(name), jnp.int32(step - 1))
        after = learner(name, f'step{step}/after')
        chex.assert_trees_all_close(networks(state), networks(after), **TOLERANCE)
        # Tighter, since with the networks from before their step they would differ by τ·lr = 5e-7.
        targets = lambda state: (state.actor.target_params, state.critic.target_params)
        chex.assert_trees_all_close(targets(state), targets(after), rtol=0, atol=2e-7)
        for loss in ('critic_loss', 'actor_loss'):
            np.testing.assert_allclose(metrics[loss].mean(), GOLDEN[f'{name}/step{step}/value/{loss}'], **TOLERANCE)
        chex.assert_shape(list(metrics.values()), (32,))
    assert {'cvae_loss', 'recon_loss', 'kl_loss'} | set(metrics) == set(METHOD.metrics)
    policy = algorithm.policy(state, cvae(name), hypers(name))
    observation = jnp.asarray(GOLDEN[f'{name}/select/observation'])
    action, memory = algorithm.act(policy, algorithm.memory(), observation, jnp.float32(0))
    np.testing.assert_allclose(action, GOLDEN[f'{name}/select/action'], **TOLERANCE)
    assert memory == ()


@pytest.mark.parametrize('name', NAMES)
def test_gradients_are_the_authors(name):
    """Of the first update: the critics' at the old weights, the actor's with the new critics."""
    batch, before, net = recorded_batch(f'{name}/step1'), learner(name, 'before'), parts(name)
    new_critic = critic(f'{name}/step1/after/critic')

    @jax.jit
    def gradients(state, cvae_params):
        target_q = plas.target_values(state, net, cvae_params, batch, hypers(name))
        critic_grads, _ = jax.grad(critic_loss_fn, has_aux=True)(state.critic.params, net.critic, batch, target_q)
        actor_grad = jax.grad(plas.actor_loss_fn, has_aux=True)
        actor_grads, _ = actor_grad(state.actor.params, net, new_critic, cvae_params, batch, hypers(name))
        return target_q, critic_grads, actor_grads

    target_q, critic_grads, actor_grads = gradients(before, cvae(name))
    np.testing.assert_allclose(target_q, GOLDEN[f'{name}/step1/value/target_Q'][:, 0], **TOLERANCE)
    chex.assert_trees_all_close(critic_grads, critic(f'{name}/step1/grad/critic'), **TOLERANCE)
    chex.assert_trees_all_close(actor_grads, actor(name, f'{name}/step1/grad/actor'), **TOLERANCE)


def test_actions_by_hand():
    """A decoder that hands on one latent, a policy and a perturbation that are biases alone."""
    net = PLAS(CVAE(1, (), 1), Actor(1, ()), Actor(1, ()), DoubleCritic(()))
    bias = lambda inputs, value: {'kernel': jnp.zeros((inputs, 1)), 'bias': jnp.array([value])}
    actor = lambda inputs, value: {'params': {'MLP_0': {'Dense_0': bias(inputs, np.arctanh(value))}}}
    params = {'latent': actor(2, 0.4), 'perturbation': actor(3, -0.5)}
    decoder = {'Dense_0': {'kernel': jnp.array([[0.0], [0.0], [1.0]]), 'bias': jnp.zeros(1)}}
    of = lambda net, **changes: plas.actions_of(
        net, params, {'params': {'decoder': decoder}}, jnp.ones((4, 2)), hyperparameters(METHOD, **changes)
    )
    np.testing.assert_allclose(of(net, phi=0.1), np.full((4, 1), np.tanh(2 * 0.4) - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_allclose(of(net, phi=9.0), -1.0)
    np.testing.assert_allclose(of(net._replace(perturbation=None), max_latent=1.0), np.tanh(0.4), rtol=1e-6)


def test_it_goes_as_far_as_the_data():
    """One step, the reward is the action, the data's are between −1/2 and 1/2: the best of them; TD3 would go to 1."""
    rng = np.random.default_rng(0)
    states, actions = rng.uniform(-1, 1, (2000, 2)), rng.uniform(-0.5, 0.5, (2000, 1))
    data = one_step_episodes(pack(states, actions, actions[:, 0], np.zeros(2000), states))
    changes = {'hidden_dims': (32,), 'cvae_hidden_dims': (32,), 'batch_size': 64, 'beta': 0.02}
    chosen = options(METHOD, **changes, cvae_lr=3e-3)
    (stage,), algorithm = METHOD.stages(chosen, 2, 1), METHOD.make(chosen, 2, 1)
    settings = hyperparameters(METHOD, **changes, actor_lr=3e-3, critic_lr=3e-3)
    shared = train(stage, settings, data, 500).params
    policy = algorithm.policy(train(algorithm, settings, data, 400, shared=shared), shared, settings)
    act = lambda observation: algorithm.act(policy, (), observation, jnp.float32(0))[0]
    assert 0.4 < jax.vmap(act)(data.rows[:100, :2]).mean() < 0.6
