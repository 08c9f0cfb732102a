"""Parity with the authors' code at recorded weights, data and noise."""

import chex
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import GOLDEN

from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.core.train_state import TargetTrainState
from spot_jax.core.types import Transition
from spot_jax.methods import density, spot
from spot_jax.methods.regularizers import support

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
NET = CVAE(3, (16, 16))
BETA = jnp.float32(GOLDEN['meta/beta'])


def test_cvae_loss_and_gradients():
    zeros = jnp.zeros(32)
    batch = Transition(GOLDEN['cvae_in/observations'], GOLDEN['cvae_in/actions'], zeros, zeros, zeros)
    loss = lambda p: density.cvae_loss_fn(p, NET, batch, GOLDEN['cvae_in/noise'], BETA)
    grads, metrics = jax.grad(loss, has_aux=True)(golden.cvae('before/cvae'))
    for name, key in (('recon_loss', 'recon_loss'), ('kl_loss', 'kl_loss'), ('cvae_loss', 'loss')):
        np.testing.assert_allclose(metrics[name], GOLDEN[f'cvae_out/{key}'], **TOLERANCE)
    chex.assert_trees_all_close(grads, golden.cvae('cvae_out/grad'), **TOLERANCE)


@pytest.mark.parametrize('name', ['elbo_loss', 'elbo', 'importance_weighted'])
@pytest.mark.parametrize('num_samples', [1, 4])
def test_log_densities_and_action_gradients(name, num_samples):
    params, noise = golden.cvae('before/cvae'), GOLDEN['density_in/noise'][:, :num_samples]
    observations, actions = GOLDEN['cvae_in/observations'], GOLDEN['cvae_in/actions']

    def estimate(actions):
        values = getattr(density, name)(NET, params, observations, actions, noise, BETA)
        return values.sum(), values

    grad, values = jax.grad(estimate, has_aux=True)(jnp.array(actions))
    np.testing.assert_allclose(values, GOLDEN[f'density_out/{name}/L{num_samples}'], **TOLERANCE)
    np.testing.assert_allclose(grad, GOLDEN[f'density_out/{name}/L{num_samples}/action_grad'], **TOLERANCE)


def state(prefixes):
    nets = {'actor': golden.actor, 'critic': golden.critic}
    make = lambda n: TargetTrainState.create(
        nets[n](f'{prefixes}/{n}'), target_params=nets[n](f'{prefixes}/target_{n}')
    )
    return spot.TD3State(make('actor'), make('critic'))


def params_of(s):
    return s.actor.params, s.critic.params, s.actor.target_params, s.critic.target_params


def test_two_updates():
    algorithm = spot.TD3(Actor(3, (16, 16)), DoubleCritic((16, 16)), support(NET, 'elbo', 1))
    meta = {k: jnp.float32(GOLDEN[f'meta/{k}']) for k in spot.Hyperparameters._fields if f'meta/{k}' in GOLDEN}
    hypers = spot.Hyperparameters(**meta, policy_noise=jnp.float32(0.2), noise_clip=jnp.float32(0.5))
    batches = Transition(*(np.stack([GOLDEN[f'step{i}/batch/{f}'] for i in (1, 2)]) for f in Transition._fields))
    noise = spot.Noise(
        np.stack([GOLDEN[f'step{i}/target_noise'] for i in (1, 2)]),
        GOLDEN['step2/cvae_noise'][:, None],
        jax.random.key(0),
        jax.random.key(0),
    )
    before, density_params = state('before'), golden.cvae('before/cvae')

    targets = spot.target_values(before, algorithm, batches, noise, hypers)
    first = jax.tree.map(lambda x: x[0], batches)
    middle, metrics = spot.update_critic(before, algorithm, first, targets[0], hypers)
    np.testing.assert_allclose(metrics['critic_loss'].mean(), GOLDEN['step1/critic_loss'], **TOLERANCE)
    chex.assert_trees_all_close(params_of(middle), params_of(state('step1/after')), **TOLERANCE)
    chex.assert_trees_all_equal(middle.actor, before.actor)  # parameters *and* optimiser state

    after, metrics = spot.update(before, algorithm, density_params, batches, noise, hypers)
    np.testing.assert_allclose(metrics['actor_q'].mean(), GOLDEN['step2/Q'], **TOLERANCE)
    np.testing.assert_allclose(metrics['actor_loss'].mean(), GOLDEN['step2/actor_loss'], **TOLERANCE)
    np.testing.assert_allclose(metrics['penalty'].mean(), GOLDEN['step2/neg_log_beta'], **TOLERANCE)
    chex.assert_trees_all_close(params_of(after), params_of(state('step2/after')), **TOLERANCE)
