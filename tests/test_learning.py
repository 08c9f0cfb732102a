"""What each regulariser is for, learned from scratch on a problem small enough to know the answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_member import of_spot

from spot_jax.benchmark.phases import data_of_rows
from spot_jax.core.networks import CVAE, Actor, DoubleCritic
from spot_jax.methods import spot
from spot_jax.methods.regularizers import REGULARIZERS
from spot_jax.population import program


@pytest.mark.parametrize(
    ('name', 'weight', 'low', 'high'),
    [
        ('none', 0.0, 0.9, 1.0),  # trusts the critic beyond the data
        ('bc', 1000.0, -0.15, 0.15),  # the mean of the modes, which the data does not contain
        ('support', 10.0, 0.4, 0.65),  # the better mode, and about 1 / (2 · λ · |Q|) = 0.1 beyond it
    ],
)
def test_learned_action(name, weight, low, high):
    """One step, the reward is the action, and the data's actions are about -0.5 or 0.5."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (4000, 2))
    actions = rng.choice([-0.5, 0.5], (4000, 1)) + 0.05 * rng.normal(size=(4000, 1))
    data = data_of_rows(np.hstack([states, actions, actions, np.zeros((4000, 1)), states]).astype(np.float32))
    cvae = CVAE(1, (64, 64))
    algorithm = spot.TD3(Actor(1, (64, 64)), DoubleCritic((64, 64)), REGULARIZERS[name](cvae, 'elbo', 1))
    spec = spot.Spec(cvae, algorithm, 2, 128, 1e-3)
    hypers = of_spot((1, 1), regularizer_weight=weight, actor_lr=1e-3, critic_lr=1e-3)
    seeds = jnp.array([0], jnp.uint32)
    params = None
    if algorithm.regularizer.uses_density:
        stage = spot.cvae_stage(spec)
        cvaes = program.init_stage(seeds, stage)
        cvaes, _ = program.stage_phase(stage, 1500)(cvaes, seeds, hypers, None, data)
        params = cvaes.learner.params
    state = program.init_policies(seeds, 1, spot.algorithm(spec))
    state, _ = program.policy_phase(spot.algorithm(spec), 1500)(state, seeds, hypers, params, data)
    params = jax.tree.map(lambda x: x[0, 0], state.learner.actor.params)
    learned = algorithm.actor.apply(params, data.rows[:200, :2])
    assert low <= learned.mean() <= high
