"""BEAR: parity with the D4RL paper's code for both kernels, its pieces by hand, a learned answer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_golden import GOLDEN, TOLERANCE, stacked, torch_cvae, torch_mlp, under
from one_member import hyperparameters, one_step_episodes, options, pack, recorded_batch, train

from spot_jax.core.losses import critic_loss_fn
from spot_jax.core.networks import CVAE, MLP, DoubleCritic
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.methods import bear
from spot_jax.methods.bear import BEAR, METHOD, BEARState, Noise
from spot_jax.methods.mmd import mmd

NAMES = ['bear_gaussian', 'bear_laplacian']
LAYERS = ['fc0', 'fc1', 'last_fc']


def algorithm(name):
    return METHOD.make(
        options(METHOD, hidden_dims=(16, 16), cvae_hidden_dims=(16, 16), kernel=name.removeprefix('bear_')), 5, 3
    )


def parts(name):
    sizes = (16, 16)
    return BEAR(CVAE(3, sizes), MLP(sizes, 6), DoubleCritic(sizes), name.removeprefix('bear_'), 40_000)


def hypers(name):
    meta = under(f'{name}/meta')
    renamed = {'actor_lr': 'policy_lr', 'critic_lr': 'qf_lr', 'mmd_threshold': 'target_mmd_thresh'}
    same = {n: n for n in ('cvae_lr', 'alpha_lr', 'discount', 'tau', 'mmd_sigma')} | {'cvae_lr': 'vae_lr'}
    return hyperparameters(METHOD, **{mine: meta[theirs] for mine, theirs in (renamed | same).items()})


def cvae(prefix):
    return {'params': torch_cvae(f'{prefix}/vae')}


def actor(prefix):
    """The mean's layer and that of the log standard deviation side by side."""
    layers = torch_mlp(f'{prefix}/policy', [*LAYERS, 'last_fc_log_std'])
    mean, log_std = layers['Dense_2'], layers.pop('Dense_3')
    layers['Dense_2'] = {part: jnp.concatenate([mean[part], log_std[part]], axis=-1) for part in mean}
    return {'params': layers}


def critic(prefix, name='qf'):
    return {'params': {'twin': stacked(*(torch_mlp(f'{prefix}/{name}{i}', LAYERS) for i in (1, 2)))}}


def learner(prefix):
    """The recorded networks, with fresh optimisers."""
    return BEARState(
        TrainState.create(cvae(prefix)),
        TrainState.create(actor(prefix)),
        TargetTrainState.create(critic(prefix), target_params=critic(prefix, 'target_qf')),
        TrainState.create(jnp.asarray(GOLDEN[f'{prefix}/log_alpha'][0])),
    )


def networks(state):
    return [state.cvae.params, state.actor.params, state.critic.params, state.critic.target_params, state.alpha.params]


def recorded(name, step):
    noise = under(f'{name}/step{step}/noise')
    target, mmd_policy = noise['target'].reshape(32, 10, 3), noise['mmd_policy'].reshape(32, 4, 3)
    return recorded_batch(f'{name}/step{step}'), Noise(noise['vae'], target, noise['mmd_vae'], mmd_policy)


@pytest.mark.parametrize('name', NAMES)
def test_updates_are_the_d4rl_papers(name):
    """Without the values in the policy's loss in the first, the last of the warm-up, with them in the second."""
    update, state = jax.jit(algorithm(name).update), learner(f'{name}/before')
    for step in (1, 2):
        state, metrics = update(state, None, recorded(name, step), hypers(name), jnp.int32(39_998 + step))
        after = learner(f'{name}/step{step}/after')
        chex.assert_trees_all_close(networks(state), networks(after), **TOLERANCE)
        # Tighter, since with the critics from before their step they would differ by τ·lr = 1.5e-6.
        chex.assert_trees_all_close(state.critic.target_params, after.critic.target_params, rtol=0, atol=3e-7)
        value = under(f'{name}/step{step}/value')
        for mine, theirs in {'cvae_loss': 'vae_loss', 'recon_loss': 'recon_loss', 'actor_loss': 'policy_loss'}.items():
            np.testing.assert_allclose(metrics[mine].mean(), value[theirs], **TOLERANCE)
        np.testing.assert_allclose(metrics['critic_loss'].mean(), value['qf1_loss'] + value['qf2_loss'], **TOLERANCE)
        np.testing.assert_allclose(metrics['mmd'], value['mmd_loss'], **TOLERANCE)
        chex.assert_shape(list(metrics.values()), (32,))
    assert set(metrics) == set(METHOD.metrics)


@pytest.mark.parametrize('name', NAMES)
def test_gradients_are_the_d4rl_papers(name):
    """Of the second update, compiled: of the critics, whose target takes the old policy, and of the policy."""
    batch, noise = recorded(name, 2)
    before = learner(f'{name}/step1/after')
    before = before.replace(cvae=before.cvae.replace(params=cvae(f'{name}/step2/after')))

    @jax.jit
    def gradients(state):
        net, setting = parts(name), hypers(name)
        target_q = bear.target_values(state, net, batch, noise.target, setting)
        critic_grads = jax.grad(critic_loss_fn, has_aux=True)
        actor_grads = jax.grad(bear.actor_loss_fn, has_aux=True)
        return (
            target_q,
            critic_grads(state.critic.params, net.critic, batch, target_q)[0],
            actor_grads(state.actor.params, net, state, batch, noise, setting, jnp.int32(40_000))[0],
        )

    target_q, critic_grads, actor_grads = gradients(before)
    np.testing.assert_allclose(target_q, GOLDEN[f'{name}/step2/value/target_q'][:, 0], **TOLERANCE)
    chex.assert_trees_all_close(critic_grads, critic(f'{name}/step2/grad'), **TOLERANCE)
    chex.assert_trees_all_close(actor_grads, actor(f'{name}/step2/grad'), **TOLERANCE)


@pytest.mark.parametrize(('kernel', 'near', 'far'), [('gaussian', 5.0, 25.0), ('laplacian', 3.0, 7.0)])
def test_mmd_by_hand(kernel, near, far):
    """Of {0, (1, 2)} to {(3, 4)} twice, by their distances: to itself 0, `near` and `far`."""
    other = {'gaussian': 2.0**2 + 2.0**2, 'laplacian': 2.0 + 2.0}[kernel]
    x, y = jnp.array([[[0.0, 0.0], [1.0, 2.0]]]), jnp.array([[[3.0, 4.0]] * 2])
    k = lambda distance: np.exp(-distance / (2 * 10.0))
    squared = (1 + k(near)) / 2 + 1 - 2 * (k(far) + k(other)) / 2
    np.testing.assert_allclose(mmd(x, y, kernel, jnp.float32(10.0)), [np.sqrt(squared + 1e-6)], rtol=1e-5)
    np.testing.assert_allclose(mmd(x, x, kernel, jnp.float32(10.0)), [1e-3], rtol=1e-2)


def test_alpha_keeps_to_its_range():
    """It rises while the MMD is over its bound, up to e^10, and falls to e^−5 below it."""
    update, drawn, setting = jax.jit(algorithm('bear_gaussian').update), recorded('bear_gaussian', 1), hypers(NAMES[0])
    for start, threshold, expected in ((9.9, 0.0, 10.0), (-4.9, 99.0, -5.0), (0.0, 0.0, 0.5), (0.0, 99.0, -0.5)):
        state = learner('bear_gaussian/before').replace(alpha=TrainState.create(jnp.float32(start)))
        changed = setting._replace(alpha_lr=jnp.float32(0.5), mmd_threshold=jnp.float32(threshold))
        state, metrics = update(state, None, drawn, changed, jnp.int32(0))
        np.testing.assert_allclose(state.alpha.params, expected, rtol=1e-5)
        np.testing.assert_allclose(metrics['alpha'], np.exp(start), rtol=1e-5)


def test_acting_is_the_sample_that_the_first_critic_values_most():
    name = 'bear_gaussian'
    policy = algorithm(name).policy(learner(f'{name}/before'), None, hypers(name))
    observation = recorded(name, 1)[0].observations[0]
    action, memory = algorithm(name).act(policy, (), observation, jnp.float32(0))
    mean, log_std = np.split(np.asarray(parts(name).actor.apply(policy['actor'], observation)), 2)
    actions = np.tanh(mean + np.exp(np.clip(log_std, -5, 2)) * np.asarray(policy['noise']))
    q = DoubleCritic((16, 16)).apply(policy['critic'], jnp.tile(observation, (100, 1)), jnp.asarray(actions))[0]
    np.testing.assert_allclose(action, actions[np.argmax(q)], rtol=1e-5)
    assert memory == ()
    again = algorithm(name).policy(learner(f'{name}/before'), None, hypers(name))
    np.testing.assert_array_equal(again['noise'], policy['noise'])


def test_its_bound_keeps_it_with_the_data():
    """The data's action is −0.3, and the reward is the action: under a small bound it stays there, else not."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (1000, 1))
    actions = -0.3 + rng.normal(0, 0.03, (1000, 1))
    data = one_step_episodes(pack(states, actions, actions[:, 0], np.zeros(1000), states))
    sizes = {'hidden_dims': (32,), 'cvae_hidden_dims': (32,), 'batch_size': 64, 'target_candidates': 1}
    rates = {'actor_lr': 1e-2, 'critic_lr': 1e-2, 'cvae_lr': 1e-2, 'alpha_lr': 1e-2}
    chosen = options(METHOD, **sizes, warmup_steps=0)
    settings = hyperparameters(METHOD, **rates, mmd_sigma=1.0, mmd_threshold=jnp.array([0.05, 99.0]))
    state = train(METHOD.make(chosen, 1, 1), settings, data, 400)
    mean = jax.vmap(lambda params: jnp.tanh(MLP((32,), 2).apply(params, data.rows[:100, :1])[:, 0]).mean())
    kept, free = mean(state.actor.params)
    assert -0.4 < kept < -0.15
    assert free > 0
