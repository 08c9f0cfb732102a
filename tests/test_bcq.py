"""BCQ: parity with the authors' code at recorded weights, data and noise, its pieces by hand, a learned answer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods_golden import GOLDEN, TOLERANCE, torch_cvae, torch_mlp, torch_twin, under
from one_member import hyperparameters, one_step_episodes, options, pack, recorded_batch, train

from spot_jax.core.losses import critic_loss_fn
from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.core.train_state import TargetTrainState, TrainState
from spot_jax.methods import bcq, cvae_methods
from spot_jax.methods.bcq import BCQ, METHOD, BCQState, Noise

NET = BCQ(CVAE(3, (16, 16)), Actor(3, (16, 16)), DoubleCritic((16, 16)))
ALGORITHM = METHOD.make(options(METHOD, hidden_dims=(16, 16), cvae_hidden_dims=(16, 16)), 5, 3)
META = under('bcq/meta')
HYPERS = hyperparameters(
    METHOD,
    **dict.fromkeys(('actor_lr', 'critic_lr', 'cvae_lr'), META['lr']),
    **{name: META[name] for name in ('discount', 'tau', 'phi')},
    beta=META['kl_weight'],
    min_weight=META['lmbda'],
)


def cvae(prefix):
    return {'params': torch_cvae(f'{prefix}/vae')}


def actor(prefix):
    return {'params': {'MLP_0': torch_mlp(prefix, ['l1', 'l2', 'l3'])}}


def critic(prefix):
    return {'params': {'twin': torch_twin(prefix)}}


def learner(part):
    """The recorded networks, with fresh optimisers."""
    make = lambda of, name: TargetTrainState.create(
        of(f'bcq/{part}/{name}'), target_params=of(f'bcq/{part}/{name}_target')
    )
    return BCQState(TrainState.create(cvae(f'bcq/{part}')), make(actor, 'actor'), make(critic, 'critic'))


def networks(state):
    return [state.cvae.params, *((net.params, net.target_params) for net in (state.actor, state.critic))]


def recorded(step):
    noise = under(f'bcq/step{step}/noise')
    return recorded_batch(f'bcq/step{step}'), Noise(noise['vae'], noise['target'].reshape(32, 10, 6), noise['actor'])


def test_updates_are_the_authors():
    update, state = jax.jit(ALGORITHM.update), learner('before')
    for step in (1, 2):
        state, metrics = update(state, None, recorded(step), HYPERS, jnp.int32(step - 1))
        after = learner(f'step{step}/after')
        chex.assert_trees_all_close(networks(state), networks(after), **TOLERANCE)
        # Tighter, since with the networks from before their step they would differ by τ·lr = 5e-6.
        targets = lambda state: (state.actor.target_params, state.critic.target_params)
        chex.assert_trees_all_close(targets(state), targets(after), rtol=0, atol=3e-7)
        value = under(f'bcq/step{step}/value')
        named = {'cvae_loss': 'vae_loss'} | {n: n for n in ('recon_loss', 'kl_loss', 'critic_loss', 'actor_loss')}
        for mine, theirs in named.items():
            np.testing.assert_allclose(metrics[mine].mean(), value[theirs], **TOLERANCE)
        chex.assert_shape(list(metrics.values()), (32,))
    assert set(metrics) == set(METHOD.metrics)


def test_gradients_are_the_authors():
    """Of the first update: the target takes the new CVAE, the actor's loss the new critics, too."""
    batch, noise = recorded(1)

    @jax.jit
    def gradients(state, new_critic):
        target_q = bcq.target_values(state, NET, batch, noise.target, HYPERS)
        critic_grads, _ = jax.grad(critic_loss_fn, has_aux=True)(state.critic.params, NET.critic, batch, target_q)
        state = state.replace(critic=state.critic.replace(params=new_critic))
        actor_grad = jax.grad(bcq.actor_loss_fn, has_aux=True)
        return target_q, critic_grads, actor_grad(state.actor.params, NET, state, batch, noise.actor, HYPERS.phi)[0]

    before = learner('before')
    state = before.replace(cvae=before.cvae.replace(params=cvae('bcq/step1/after')))
    target_q, critic_grads, actor_grads = gradients(state, critic('bcq/step1/after/critic'))
    np.testing.assert_allclose(target_q, GOLDEN['bcq/step1/value/target_Q'][:, 0], **TOLERANCE)
    chex.assert_trees_all_close(critic_grads, critic('bcq/step1/grad/critic'), **TOLERANCE)
    chex.assert_trees_all_close(actor_grads, actor('bcq/step1/grad/actor'), **TOLERANCE)


def test_acting_is_the_authors():
    """The best of the recorded candidates; by itself it has a hundred of its own, the same for every member."""
    policy = ALGORITHM.policy(learner('before'), None, HYPERS)
    act = lambda policy: ALGORITHM.act(policy, (), jnp.asarray(GOLDEN['bcq/select/observation']), jnp.float32(0))
    action, memory = act(policy | {'latents': jnp.asarray(GOLDEN['bcq/select/noise'])})
    np.testing.assert_allclose(action, GOLDEN['bcq/select/action'], **TOLERANCE)
    assert memory == ()
    assert policy['latents'].shape == (100, 6)
    np.testing.assert_array_equal(act(policy)[0], act(ALGORITHM.policy(learner('before'), None, HYPERS))[0])


def test_the_best_of_a_softened_minimum_by_hand():
    q = jnp.array([[[1.0, 8.0]], [[5.0, -4.0]]])  # two critics, a state, two proposals
    np.testing.assert_allclose(
        cvae_methods.soft_min(q, jnp.float32(0.75)), [[0.75 * 1 + 0.25 * 5, 0.75 * -4 + 0.25 * 8]]
    )
    np.testing.assert_allclose(cvae_methods.soft_min(q, jnp.float32(1.0)), [[1.0, -4.0]])


def test_proposals_by_hand():
    """A decoder that hands on one latent, clipped to ±1/2, and a perturbation that is a bias alone."""
    net = BCQ(CVAE(1, (), 1), Actor(1, ()), DoubleCritic(()))
    moved = {'kernel': jnp.zeros((2, 1)), 'bias': jnp.arctanh(jnp.array([0.5]))}
    decoder = {'Dense_0': {'kernel': jnp.array([[0.0], [1.0]]), 'bias': jnp.zeros(1)}}
    noise = jnp.array([[[-3.0], [0.1], [0.7]]])
    actions = bcq.proposals(
        net,
        {'params': {'decoder': decoder}},
        {'params': {'MLP_0': {'Dense_0': moved}}},
        jnp.ones((1, 3, 1)),
        noise,
        jnp.float32(0.2),
    )
    np.testing.assert_allclose(actions[0, :, 0], np.tanh([-0.5, 0.1, 0.5]) + 0.1, rtol=1e-6)


@pytest.mark.parametrize('phi', [0.0, 0.1])
def test_it_picks_the_better_of_two_modes(phi):
    """The data goes ±0.5 alike, and the reward is the action times the state's sign: the best is ±(0.5 + φ)."""
    rng = np.random.default_rng(0)
    states, modes = rng.choice([-1.0, 1.0], (2, 1000, 1))
    actions = 0.5 * modes + rng.normal(0, 0.03, (1000, 1))
    data = one_step_episodes(pack(states, actions, (states * actions)[:, 0], np.zeros(1000), states))
    sizes = {'hidden_dims': (32,), 'cvae_hidden_dims': (32,), 'batch_size': 64, 'target_candidates': 2}
    changes = {'actor_lr': 3e-3, 'critic_lr': 3e-3, 'cvae_lr': 3e-3, 'beta': 0.05}
    algorithm, hypers = METHOD.make(options(METHOD, **sizes), 1, 1), hyperparameters(METHOD, **changes, phi=phi)
    policy = algorithm.policy(train(algorithm, hypers, data, 800), None, hypers)
    act = jax.vmap(lambda state: algorithm.act(policy, (), state, jnp.float32(0))[0])
    np.testing.assert_allclose(act(jnp.array([[-1.0], [1.0]])), [[-0.5 - phi], [0.5 + phi]], atol=0.08)
