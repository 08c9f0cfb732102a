"""λ as a dual variable: a problem with a known solution, quantiles by hand, and whole runs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from one_member import one_step_episodes, pack
from tiny import tiny

from spot_jax.core.method import Algorithm
from spot_jax.core.train_state import TrainState
from spot_jax.methods import spot
from spot_jax.methods.constraint import Constraint, bound, constrained, measure
from spot_jax.methods.regularizers import Regularizer
from spot_jax.population import program
from spot_jax.run import restore, scoring, training
from spot_jax.run.build import build
from spot_jax.run.config import members
from spot_jax.run.workdir import read_run
from spot_jax.storage.metrics import parse
from spot_jax.system.errors import InputError

SHARED = {'density': 3.0, 'quantiles': jnp.linspace(0.0, 1.0, 101) ** 2}


class Hyperparameters(NamedTuple):
    regularizer_weight: jax.Array


def toy():
    """It maximises x, with penalties in states that are spread evenly from 0 to 2x², and a density that is 3."""
    states = jnp.linspace(0.0, 2.0, 1001)

    def loss_fn(x, weight):
        return -x + weight * x**2, {'penalty': states * x**2}

    def update(state, shared, drawn, hypers, step):
        assert shared == 3.0
        return state.minimize(loss_fn, 0.01, hypers.regularizer_weight)

    init = lambda key: TrainState.create(jnp.ones(()))
    return Algorithm(init, None, update, lambda state, shared, hypers: (state.params, shared), None, (1,))


@pytest.mark.parametrize('quantile', [0.5, 0.9])
def test_as_many_states_are_beyond_the_bound_as_of_the_data(quantile):
    """The bound is q², of the quantiles; 1 − q of the states lie beyond it if 1 − q² / 2x² is that, so x² = q / 2.

    There the slope −1 + 2·λ·x is 0 for λ = 1 / 2x.
    """
    algorithm = constrained(toy(), Constraint(quantile, 0.003))
    x = np.sqrt(quantile / 2)

    @jax.jit
    def run(weight):
        step = lambda state, _: algorithm.update(state, SHARED, None, Hyperparameters(weight), 0)
        return jax.lax.scan(step, algorithm.init(None), length=10_000)

    for weight in (0.1, 5.0):
        state, metrics = run(weight)
        np.testing.assert_allclose(algorithm.policy(state, SHARED, None), (x, 3.0), atol=1e-2)
        np.testing.assert_allclose(weight * metrics['multiplier'][-1], 1 / (2 * x), atol=2e-2)
        beyond = metrics['penalty'] > bound(SHARED['quantiles'], quantile)
        np.testing.assert_allclose(metrics['violation'], beyond - (1 - quantile), atol=1e-6)
        np.testing.assert_allclose(metrics['multiplier'][0], 1.0)  # the weight itself, at first
    assert algorithm.steps == (1, 1)


def test_the_bound_lies_between_levels():
    """Of quantiles q²: half way between 0.50² and 0.51²; the ends are the first and the last."""
    found = [bound(SHARED['quantiles'], q) for q in (0.0, 0.505, 1.0)]
    np.testing.assert_allclose(found, [0.0, (0.25 + 0.2601) / 2, 1.0], atol=1e-6)


def test_quantiles_of_the_datas_penalties():
    """Actions are 0, 1, ..., 100, and so are their penalties, but for β times the density."""

    def penalty(params, batch, actions, noise, beta):
        assert noise.shape == (len(actions), 2)
        return actions[:, 0] + beta * params

    stage = measure(Regularizer(penalty, (2,), uses_density=True), (1, 1))
    index = np.arange(101.0)[:, None]
    data = one_step_episodes(pack(index, index, np.zeros(101), np.zeros(101), index))
    hypers = type('H', (), {'beta': jnp.float32(0.5)})
    drawn = stage.draw(jax.random.key(0), data)
    quantiles, metrics = stage.update(stage.init(jax.random.key(0)), jnp.float32(20.0), drawn, hypers, jnp.int32(0))
    np.testing.assert_allclose(quantiles, np.arange(101) + 10, atol=4)  # of 4096 draws
    np.testing.assert_allclose(quantiles, np.quantile(drawn[0].actions[:, 0] + 10, np.linspace(0, 1, 101)), rtol=1e-5)
    np.testing.assert_allclose(metrics['data_penalty'], [drawn[0].actions.mean() + 10], rtol=1e-5)
    assert stage.result(quantiles, 'density') == {'density': 'density', 'quantiles': quantiles}


def test_what_is_0_is_not_bounded():
    """A multiple of 0 is 0."""
    bounded = lambda **changes: spot.make_spec(tiny(**{'regularizer.constraint': 0.5, **changes}), 2, 1).constraint
    assert bounded(**{'regularizer.weight': 0.0}) is None
    assert bounded(**{'regularizer.weight': 0.0, 'grid.regularizer_weight': (0.0, 0.1)}) is not None


def test_runs(finished, tmp_path):
    """It takes the CVAEs of a run without a bound, and gives its own to one with another quantile; it resumes."""
    changes = {'regularizer.constraint': 0.5, 'regularizer.multiplier_lr': 0.05, 'grid.regularizer_weight': (0.1, 1.0)}
    first = tiny(**changes, **{'cvae.restore': str(finished), 'online.steps': 8, 'log_interval': 4})
    assert training.run(first, tmp_path / 'first') == 0
    rows = parse((tmp_path / 'first' / 'metrics.csv').read_text())
    assert [row['phase'] for row in rows if row['training/data_penalty']] == ['bound'] * 4
    of_one = [row for row in rows if row['member'] == '1' and row['training/multiplier']]
    assert [(row['phase'], row['gradient_steps']) for row in of_one][-3:] == [
        ('offline', '40'),
        ('online', '44'),
        ('online', '48'),
    ]
    multipliers = [float(row['training/multiplier']) for row in of_one]
    assert max(multipliers) > 1.2 or min(multipliers) < 0.8
    shared = read_run(tmp_path / 'first')[1]['density_params']
    theirs = read_run(finished)[1]['density_params']
    np.testing.assert_equal(shared['density'], theirs)
    assert (np.diff(shared['quantiles']) >= 0).all()
    observations, actions = np.zeros((1, 4)), np.zeros((1, 2))
    scores = [scoring.load(folder)(observations, actions) for folder in (tmp_path / 'first', finished)]
    np.testing.assert_array_equal(*scores)

    other = {**changes, 'cvae.restore': str(tmp_path / 'first'), 'regularizer.constraint': 0.9}
    config = tiny(**other)
    sha256 = read_run(tmp_path / 'first')[1]['sha256']
    taken, number = restore.restored_stages(config, members(config), build(config, 4, 2).stages, sha256)
    assert number == 2
    np.testing.assert_equal(jax.device_get(taken), shared)
    with pytest.raises(InputError, match=r"its regularizer\.num_samples is 1, this run's 2"):
        training.run(tiny(**other, **{'regularizer.num_samples': 2}), tmp_path / 'bad')
    goes_on_as_what_it_is(tmp_path / 'first', finished, tmp_path / 'td3')
    config = tiny(**{'cvae.restore': str(tmp_path / 'first')})  # without a bound
    taken, number = restore.restored_stages(config, members(config), build(config, 4, 2).stages, sha256)
    assert number == 1
    np.testing.assert_equal(jax.device_get(taken), theirs)


def goes_on_as_what_it_is(first, finished, td3):
    """A run with a multiplier fine-tunes without one, as TD3 and at a fixed weight; the other way there is none."""

    def taken(source, **changes):
        config = restore.with_population(tiny(**{'online.restore': str(source), 'online.steps': 4, **changes}), td3)
        stages, init = build(config, 4, 2).stages, build(config, 4, 2).algorithm
        everyone = members(config)
        fresh = program.init_policies(everyone.seeds(), everyone.shape[1], init)
        sha256 = read_run(source)[1]['sha256']
        state, shared, _ = restore.restored_policies(config, sha256, fresh, stages)
        return serialization.to_state_dict(jax.device_get(state.learner)), jax.device_get(shared)

    before = read_run(first)[1]
    for changes in ({'regularizer.name': 'none'}, {}, {'regularizer.constraint': 0.9, 'actor.lr': 1.0}):
        learner, shared = taken(first, **changes)
        bounded = 'regularizer.constraint' in changes
        np.testing.assert_equal(learner, before['learner'] if bounded else before['learner']['learner'])
        of_stages = before['density_params'] if bounded else before['density_params']['density']
        np.testing.assert_equal(shared, {} if 'regularizer.name' in changes else of_stages)
    changes = {'regularizer.name': 'none', 'cvae.hidden_dims': (9,), 'online.steps': 4, 'evaluation.episodes': 0}
    assert training.run(tiny(**changes, **{'online.restore': str(first)}), td3) == 0
    with pytest.raises(InputError, match='has no CVAE: its method trains none'):
        scoring.load(td3)
    with pytest.raises(InputError, match='td3 has no CVAE of any seed'):
        training.run(tiny(**{'cvae.restore': str(td3)}), td3.parent / 'bad')
    with pytest.raises(InputError, match=r'it has no multiplier: regularizer.constraint is for runs that begin'):
        taken(finished, **{'regularizer.constraint': 0.5})
    with pytest.raises(InputError, match=r'has no CVAE of seed 0, beta 0\.7; seed 1, beta 0\.7$'):
        taken(finished, **{'cvae.beta': 0.7})
