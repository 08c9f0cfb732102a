"""TD3+BC: parity with the authors' code, numbers by hand, a learned answer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from methods_golden import GOLDEN, TOLERANCE, stacked, torch_mlp
from one_member import hyperparameters, one_step_episodes, options, pack, recorded_rows, several_settings, train

from spot_jax.core.networks import Actor, DoubleCritic
from spot_jax.core.train_state import TargetTrainState
from spot_jax.core.types import Transition, unpack
from spot_jax.methods import spot, td3_bc
from spot_jax.methods.regularizers import bc, none

ALGORITHM = td3_bc.METHOD.make(options(td3_bc.METHOD, hidden_dims=(16, 16)), 5, 3)
PARTS = spot.TD3(Actor(3, (16, 16)), DoubleCritic((16, 16)), none())
META = {n: GOLDEN[f'td3bc/meta/{n}'] for n in ('alpha', 'discount', 'tau', 'policy_noise', 'noise_clip')}
HYPERS = hyperparameters(td3_bc.METHOD, actor_lr=GOLDEN['td3bc/meta/lr'], critic_lr=GOLDEN['td3bc/meta/lr'], **META)


def actor(prefix):
    return {'params': {'MLP_0': torch_mlp(prefix, ['l1', 'l2', 'l3'])}}


def critic(prefix):
    first, second = (torch_mlp(prefix, names) for names in (['l1', 'l2', 'l3'], ['l4', 'l5', 'l6']))
    return {'params': {'twin': stacked(first, second)}}


def recorded(part):
    """The recorded networks as a learner, with fresh optimisers."""
    make = lambda of, name: TargetTrainState.create(
        of(f'td3bc/{part}/{name}'), target_params=of(f'td3bc/{part}/{name}_target')
    )
    return spot.TD3State(make(actor, 'actor'), make(critic, 'critic'))


def networks(state):
    return [(net.params, net.target_params) for net in (state.actor, state.critic)]


def drawn():
    target = jnp.stack([GOLDEN[f'td3bc/step{i}/noise/target'] for i in (1, 2)])
    noise = spot.Noise(target, jnp.zeros((32, 0)), jax.random.key(0), jax.random.key(0))
    return jnp.stack([recorded_rows(f'td3bc/step{i}') for i in (1, 2)]), noise


def block(hypers=HYPERS):
    return ALGORITHM.update(recorded('before'), (), drawn(), hypers, jnp.int32(0))


JITTED = jax.jit(block)


def test_a_block_is_the_authors_two_updates():
    state, metrics = block()
    chex.assert_trees_all_close(networks(state), networks(recorded('step2/after')), **TOLERANCE)
    losses = [GOLDEN[f'td3bc/step{i}/value/critic_loss'] for i in (1, 2)]
    np.testing.assert_allclose(metrics['critic_loss'].mean(), np.mean(losses), **TOLERANCE)
    np.testing.assert_allclose(metrics['actor_loss'].mean(), GOLDEN['td3bc/step2/value/actor_loss'], **TOLERANCE)
    assert set(metrics) == set(td3_bc.METHOD.metrics)
    for value in metrics.values():
        chex.assert_shape(value, (32,))


def test_gradients_are_the_authors():
    batch = unpack(drawn()[0][1], 5, 3)
    critic_params = critic('td3bc/step2/after/critic')
    gradient = jax.grad(td3_bc.actor_loss_fn, has_aux=True)
    grads, _ = gradient(actor('td3bc/before/actor'), PARTS, critic_params, batch, HYPERS.alpha)
    chex.assert_trees_all_close(grads, actor('td3bc/step2/grad/actor'), **TOLERANCE)


def test_actor_loss_by_hand():
    parts = spot.TD3(Actor(2, (4,)), DoubleCritic((4,)), none())
    state = jax.tree.map(jnp.zeros_like, spot.init(jax.random.key(0), parts, 3))  # π = 0
    actions = jnp.array([[0.5, -0.5], [1.0, 0.0]])
    batch = Transition(jnp.ones((2, 3)), actions, *(jnp.zeros(2),) * 2, jnp.ones((2, 3)))
    params = state.critic.params
    for q1, normalised in ((2.0, 1.0), (-4.0, -1.0)):  # the second critic's 7 does not count
        params['params']['twin']['Dense_1']['bias'] = jnp.array([[q1], [7.0]])
        loss, metrics = td3_bc.actor_loss_fn(state.actor.params, parts, params, batch, jnp.float32(2.5))
        np.testing.assert_allclose(metrics['actor_loss'], -2.5 * normalised + np.array([0.25, 0.5]))
        np.testing.assert_allclose(metrics['q_magnitude'], abs(q1))
        np.testing.assert_allclose(loss, -2.5 * normalised + 0.375)


def test_a_block_is_that_of_td3_with_a_regularizer_of_weight_1_over_alpha():
    """But for the scale of the actor's loss, α, which Adam does not notice."""
    shared = {name: value for name, value in HYPERS._asdict().items() if name != 'alpha'}
    hypers = spot.Hyperparameters(regularizer_weight=1 / HYPERS.alpha, beta=jnp.zeros(()), **shared)
    rows, noise = drawn()
    parts = PARTS._replace(regularizer=bc())
    state, metrics = jax.jit(spot.update, static_argnums=1)(
        recorded('before'), parts, None, unpack(rows, 5, 3), noise, hypers
    )
    mine, mine_metrics = JITTED(HYPERS)
    chex.assert_trees_all_close(networks(mine), networks(state), **TOLERANCE)
    np.testing.assert_allclose(mine_metrics['actor_loss'], HYPERS.alpha * metrics['actor_loss'], **TOLERANCE)


def test_jitted_and_vmapped_as_alone():
    both = HYPERS._replace(alpha=jnp.array([0.5, 2.5]), critic_lr=jnp.array([1e-3, 3e-4]))
    many = jax.jit(jax.vmap(block, (several_settings(both),)))(both)
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], many)
        hypers = both._replace(alpha=both.alpha[i], critic_lr=both.critic_lr[i])
        chex.assert_trees_all_close(one, JITTED(hypers), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(block(), JITTED(HYPERS), rtol=1e-4, atol=1e-5)


def test_draws_and_explores():
    rows = jnp.arange(140.0).reshape(10, 14)
    found, noise = ALGORITHM.draw(jax.random.key(0), one_step_episodes(rows))
    assert found.shape == (2, 256, 14)
    assert noise.target.shape == (2, 256, 3)
    assert set(np.unique(found[..., 0]).tolist()) == set(rows[:, 0].tolist())
    params, observation = recorded('before').actor.params, jnp.ones(5)
    action, _ = ALGORITHM.act(params, ALGORITHM.memory(), observation, jnp.zeros(()))
    noise = jnp.array([1.0, -1.0, 99.0])
    explored = ALGORITHM.explore(params, observation, noise, jnp.float32(0.1))
    np.testing.assert_allclose(explored, np.clip(action + 0.1 * noise, -1, 1), rtol=1e-5)
    assert explored[2] == 1


def test_learned_action():
    """One step, the reward is the action, the data's are uniform: −α·π/|Q| + π² + 1/3 is least at π = √(α / 2)."""
    rng = np.random.default_rng(0)
    states, actions = rng.uniform(-1, 1, (4000, 2)), rng.uniform(-1, 1, (4000, 1))
    rows = pack(states, actions, actions[:, 0], np.zeros(4000), states)
    alphas = jnp.array([0.08, 0.5, 100.0])
    algorithm = td3_bc.METHOD.make(options(td3_bc.METHOD, hidden_dims=(32, 32), batch_size=128), 2, 1)
    hypers = hyperparameters(td3_bc.METHOD, alpha=alphas, actor_lr=1e-3, critic_lr=3e-3)
    state = train(algorithm, hypers, one_step_episodes(rows), 1500)
    act = lambda params, observation: algorithm.act(params, (), observation, jnp.zeros(()))[0]
    learned = jax.vmap(jax.vmap(act, (None, 0)), (0, None))(state.actor.params, rows[:100, :2])
    np.testing.assert_allclose(learned.mean(axis=(1, 2)), [0.2, 0.5, 1.0], atol=0.06)
