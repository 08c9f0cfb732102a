"""The update as it is compiled, beside a plain one: optax's Adam, jax's own gradients, one update after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spot_jax.benchmark.phases import data_of_rows
from spot_jax.core import xla
from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.core.types import unpack
from spot_jax.core.xla import correction_after
from spot_jax.methods import spot
from spot_jax.methods.density import kl_divergence
from spot_jax.methods.regularizers import support
from spot_jax.population import program

OBSERVATION, ACTION, BATCH, BLOCKS = 5, 3, 32, 50
ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
HYPERS = {'regularizer_weight': 0.25, 'actor_lr': 1e-4, 'critic_lr': 3e-4, 'discount': 0.99, 'beta': 0.5, 'tau': 0.005}


def mlp(layers, x):
    """Dense_0, Dense_1, ... with ReLU between them."""
    for i in range(len(layers)):
        x = x @ layers[f'Dense_{i}']['kernel'] + layers[f'Dense_{i}']['bias'][None]
        x = jnp.maximum(x, 0) if i + 1 < len(layers) else x
    return x


def policy(params, s):
    return jnp.tanh(mlp(params['params']['MLP_0'], s))


def values(params, s, a):
    x = jnp.concatenate([s, a], axis=-1)
    twin = params['params']['twin']
    return [mlp(jax.tree.map(lambda p, i=i: p[i], twin), x)[:, 0] for i in range(2)]


def penalty(params, s, a, noise, beta):
    """SPOT's loss form of −ELBO with one latent."""
    nets = params['params']
    mean, log_std = jnp.split(mlp(nets['encoder'], jnp.concatenate([s, a], axis=-1)), 2, axis=-1)
    std = jnp.exp(jnp.clip(log_std, -4, 15))
    decoded = jnp.tanh(mlp(nets['decoder'], jnp.concatenate([s, mean + std * noise], axis=-1)))
    return jnp.mean((decoded - a) ** 2) + beta * jnp.mean(kl_divergence(mean, std))


def adam(params, moments, grads, lr):
    updates, moments = ADAM.update(grads, moments)
    return jax.tree.map(lambda p, u: p - lr * u, params, updates), moments


@jax.jit
def plain_critic_step(nets, moments, batch, noise, h):
    def target():
        a = policy(nets['target_actor'], batch.next_observations)
        a = jnp.clip(a + jnp.clip(h.policy_noise * noise, -h.noise_clip, h.noise_clip), -1, 1)
        q = values(nets['target_critic'], batch.next_observations, a)
        return batch.rewards + h.discount * batch.masks * jnp.minimum(*q)

    y = target()
    loss_fn = lambda p: sum(jnp.mean((q - y) ** 2) for q in values(p, batch.observations, batch.actions))
    loss, grads = jax.value_and_grad(loss_fn)(nets['critic'])
    critic, moments_critic = adam(nets['critic'], moments['critic'], grads, h.critic_lr)
    return nets | {'critic': critic}, moments | {'critic': moments_critic}, loss


@jax.jit
def plain_actor_step(nets, moments, cvae, batch, noise, h):
    def loss_fn(p):
        a = policy(p, batch.observations)
        q = values(nets['critic'], batch.observations, a)[0]
        regularizer = penalty(cvae, batch.observations, a, noise, h.beta)
        return -jnp.mean(q) / jax.lax.stop_gradient(jnp.mean(jnp.abs(q))) + h.regularizer_weight * regularizer

    loss, grads = jax.value_and_grad(loss_fn)(nets['actor'])
    actor, moments_actor = adam(nets['actor'], moments['actor'], grads, h.actor_lr)
    nets = nets | {'actor': actor}
    for name in ('actor', 'critic'):
        move = lambda p, t: h.tau * p + (1 - h.tau) * t
        nets[f'target_{name}'] = jax.tree.map(move, nets[name], nets[f'target_{name}'])
    return nets, moments | {'actor': moments_actor}, loss


@pytest.mark.parametrize('num_members', [1, 3])
def test_losses_of_the_first_100_updates(num_members):
    """To 1e-6, relative to their size, from the same weights, minibatches and noise."""
    net = CVAE(ACTION, (32, 32))
    algorithm = spot.TD3(Actor(ACTION, (32, 32)), DoubleCritic((32, 32)), support(net, 'elbo', 1))
    spec = spot.Spec(net, algorithm, OBSERVATION, BATCH, 1e-3)
    rows = jnp.array(np.random.default_rng(0).uniform(-1, 1, (500, 2 * OBSERVATION + ACTION + 2)).astype(np.float32))
    seeds = jnp.arange(num_members, dtype=jnp.uint32)
    shape = (num_members, 1)
    hypers = spot.Hyperparameters(
        **{k: jnp.full(shape, v) for k, v in HYPERS.items()},
        policy_noise=jnp.full(shape, 0.2),
        noise_clip=jnp.full(shape, 0.5),
    )
    cvaes = program.init_stage(seeds, spot.cvae_stage(spec)).learner.params
    run = program.policy_phase(spot.algorithm(spec), 2)
    first = program.init_policies(seeds, 1, spot.algorithm(spec))
    start = jax.tree.map(np.asarray, first.learner)

    ours = []
    state = first
    for _ in range(BLOCKS):
        state, metrics = run(state, seeds, hypers, cvaes, data_of_rows(rows))
        ours.append([metrics['critic_loss'][:, 0], metrics['actor_loss'][:, 0]])

    for member in range(num_members):
        pick = lambda tree, i=member: jax.tree.map(lambda leaf: jnp.asarray(leaf[i, 0]), tree)
        nets = {name: pick(getattr(start, name).params) for name in ('actor', 'critic')}
        nets |= {f'target_{name}': nets[name] for name in ('actor', 'critic')}
        moments = {name: ADAM.init(nets[name]) for name in ('actor', 'critic')}
        cvae, h = jax.tree.map(lambda x, i=member: x[i], cvaes), pick(hypers)
        key = program.stream_keys(seeds, program.POLICY_TRAIN)[member]
        for block in range(BLOCKS):
            drawn, noise = spot.draw_block(jax.random.fold_in(key, block), data_of_rows(rows), spec)
            batches = unpack(drawn, OBSERVATION, ACTION)
            losses = []
            for i in range(2):
                batch = jax.tree.map(lambda x, i=i: x[i], batches)
                nets, moments, loss = plain_critic_step(nets, moments, batch, noise.target[i], h)
                losses.append(loss)
            nets, moments, actor_loss = plain_actor_step(nets, moments, cvae, batch, noise.regularizer[:, 0], h)
            expected = [(losses[0] + losses[1]) / 2, actor_loss]
            np.testing.assert_allclose([x[member] for x in ours[block]], expected, rtol=1e-6, atol=1e-6)


def test_what_a_block_draws_does_not_depend_on_the_group():
    """Uniform rows, and the same whether one block draws or 64 together."""
    net = CVAE(ACTION, (8,))
    algorithm = spot.TD3(Actor(ACTION, (8,)), DoubleCritic((8,)), support(net, 'elbo', 1))
    spec = spot.Spec(net, algorithm, OBSERVATION, BATCH, 1e-3)
    rows = jnp.broadcast_to(jnp.arange(100.0)[:, None], (100, 2 * OBSERVATION + ACTION + 2))
    keys = jax.random.split(jax.random.key(0), 64)
    together, _ = jax.jit(jax.vmap(lambda key: spot.draw_block(key, data_of_rows(rows), spec)))(keys)
    alone, _ = spot.draw_block(keys[7], data_of_rows(rows), spec)
    np.testing.assert_array_equal(together[7], alone)
    rewards = unpack(together, OBSERVATION, ACTION).rewards
    counts = np.bincount(np.asarray(rewards, int).ravel(), minlength=100)
    assert counts.shape == (100,)
    expected = rewards.size / 100
    assert ((counts - expected) ** 2 / expected).sum() < 160  # chi² with 99 degrees of freedom: 1 in 10 000


def test_corrections_ahead_are_those_of_one_step_after_the_other():
    first = correction_after(3, jnp.zeros((4, 1, 2)))
    np.testing.assert_allclose(first[0, 0], [1 - 0.9**3, 1 - 0.999**3], rtol=2e-5)  # 0.999 is a float32
    ahead = correction_after(xla.counted(5, 2, 3), first[None, ..., None, :])
    assert ahead.shape == (5, 4, 1, 2, 2)
    for block in range(5):
        for step in range(2):
            first = correction_after(1, first)
            np.testing.assert_allclose(ahead[block, :, :, step], first, rtol=1e-6)
