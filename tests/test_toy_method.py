"""What methods may need beyond SPOT, shown by a toy whose every number is known.

A step number, stages that see those before them, windows of several steps, next actions, returns to go, and acting that
remembers its episode and needs more than a network.
"""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tiny import tiny

from spot_jax.acting.scaling import Scaling
from spot_jax.acting.tasks import TASKS
from spot_jax.core.method import Algorithm, Stage
from spot_jax.core.sampling import uniform_indices
from spot_jax.data.load import Dataset
from spot_jax.methods.regularizers import REGULARIZERS, Regularizer
from spot_jax.population import program
from spot_jax.run import effects, training
from spot_jax.run.build import data_of, discounted_returns_to_go, prepare
from spot_jax.run.policy import Actors

K = 3  # steps of a window


class Hyperparameters(NamedTuple):
    rate: jax.Array


def dataset():
    """Two episodes, of 4 and 2 steps; the observation is the row's number, the action a tenth of it, the reward 1."""
    index = np.arange(6, dtype=np.float32)[:, None]
    rows = np.concatenate([index, index / 10, np.ones((6, 1)), np.ones((6, 1)), index + 1], axis=1)
    box = np.ones(1, np.float32)
    return Dataset(rows.astype(np.float32), 1, 1, -box, box, 'toy', '', None, None, None, np.array([4, 2]))


DATA = data_of(dataset())


def test_how_data_are_prepared_by_hand():
    """Observations 0 to 5, next ones 1 to 6; returns of 4 and 2, so that a range of 1000 is 500 times theirs."""
    wanted = {'normalize_observations': True, 'action_clip': 0.25, 'reward_scale': 3.0, 'reward_shift': 0.5}
    data = dataset()
    scaling, rewards = prepare(data, ConfigDict(wanted | {'normalize_rewards': True}))
    mean, std = 2.5, (35 / 12) ** 0.5 + 1e-3
    np.testing.assert_allclose(data.transitions[:, 0], (np.arange(6) - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(data.transitions[:, 4], (np.arange(1, 7) - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(data.transitions[:, 1], [0.0, 0.1, 0.2, 0.25, 0.25, 0.25], rtol=1e-6)
    np.testing.assert_allclose(data.transitions[:, 2], 3 * 500 * (1 + 0.5))
    np.testing.assert_array_equal(data.transitions[:, 3], 1)  # masks
    np.testing.assert_allclose(rewards.of(np.array([-0.5, 0.0])), [0.0, 750.0])  # of new transitions
    np.testing.assert_allclose(scaling.normalized(np.array([mean + std])), [1.0], rtol=1e-6)
    same, plain = dataset(), dataset()
    _, unchanged = prepare(same, ConfigDict({'normalize_observations': False}))
    np.testing.assert_array_equal(same.transitions, plain.transitions)
    assert unchanged.of(np.array([2.0])) == 2.0


def draw(key, data):
    """Windows of up to K steps of one episode, [1, K, D], which of them are real, and the actions that follow."""
    start = uniform_indices(key, (4,), len(data.rows))
    index = start[:, None] + jnp.arange(K)[None]
    last = data.last[start][:, None]
    following = data.rows[jnp.minimum(index + 1, last), 1]
    return data.rows[jnp.minimum(index, last)], index <= last, following, data.returns_to_go[start], data.first[start]


def update(learner, shared, drawn, hypers, step):
    windows, real, following, returns_to_go, first = drawn
    inside = windows[..., 0] >= first[:, None]
    steps_left = jnp.where(windows[:, 0, 0] < 4, 4, 6) - windows[:, 0, 0]
    is_last = (windows[..., 0] == 3) | (windows[..., 0] == 5)
    expected = jnp.where(is_last, windows[..., 1], windows[..., 1] + 0.1)
    metrics = {
        'inside': jnp.all(inside, axis=1).astype(jnp.float32),
        'real': jnp.sum(real, axis=1) - jnp.minimum(steps_left, K),
        'following': jnp.max(jnp.abs(following - expected), axis=1),
        'returns_to_go': returns_to_go - steps_left,
    }
    return learner + hypers.rate * step, metrics


ALGORITHM = Algorithm(
    init=lambda key: jnp.zeros(()),
    draw=draw,
    update=update,
    policy=lambda learner, shared, hypers: {'w': learner, 'b': shared['b'], 'rate': hypers.rate},
    act=lambda policy, memory, observation, reward: (jnp.array([memory / 10]), memory + 1 + reward),
    memory=lambda: jnp.zeros(()),
    steps=(),
)


def counting(name, by, result):
    count = lambda learner, shared, drawn, hypers, step: (learner + by(shared), {'x': jnp.zeros(1)})
    return Stage(name, 4, lambda key: jnp.zeros(()), draw, count, result, ())


STAGES = (
    counting('a', lambda shared: 1.0, lambda learner, shared: {'a': learner}),
    counting('b', lambda shared: shared['a'], lambda learner, shared: {**shared, 'b': learner}),
)


def test_stages_steps_windows_and_returns_to_go():
    seeds, hypers = jnp.array([0, 1], jnp.uint32), Hyperparameters(jnp.array([[1.0, 2.0, 3.0]] * 2))
    shared = None
    for index, stage in enumerate(STAGES):
        state = program.init_stage(seeds, stage, index)
        state, _ = program.stage_phase(stage, 4, index)(state, seeds, hypers, shared, DATA)
        shared = stage.result(state.learner, shared)
    np.testing.assert_array_equal(shared['b'], [16.0, 16.0])  # four steps of four
    run, state = program.policy_phase(ALGORITHM, 4), program.init_policies(seeds, 3, ALGORITHM)
    for _ in range(2):
        state, metrics = run(state, seeds, hypers, shared, DATA)
    np.testing.assert_array_equal(state.learner, [[28.0, 56.0, 84.0]] * 2)  # 0 + 1 + ... + 7
    means = {name: np.unique(x).tolist() for name, x in metrics.items()}
    assert means == {'inside': [1], 'real': [0], 'following': [0], 'returns_to_go': [0]}

    policies = program.policies_of(ALGORITHM, state.learner, shared, hypers)
    assert {name: x.tolist() for name, x in policies.items()} == {
        'w': [28, 56, 84] * 2,
        'b': [16] * 6,
        'rate': [1, 2, 3] * 2,
    }


def test_a_terminal_ends_an_episode():
    """Also where the data go on after it."""
    rows = dataset().transitions.copy()
    rows[[1, 5], 3] = 0
    data = data_of(dataset()._replace(transitions=rows))
    np.testing.assert_array_equal(data.first, [0, 0, 2, 2, 4, 4])
    np.testing.assert_array_equal(data.last, [1, 1, 3, 3, 5, 5])
    np.testing.assert_array_equal(data.returns_to_go, [2, 1, 2, 1, 2, 1])


def test_acting_remembers_an_episode():
    box = np.ones(1, np.float32)
    act = Actors(ALGORITHM, TASKS['locomotion']).play({'w': jnp.zeros(2)}, Scaling(0 * box, box, -box, box))
    observations, rewards = np.zeros((2, 3, 1)), np.zeros((2, 3))
    starts = np.ones((2, 3), bool)
    np.testing.assert_allclose(act(observations, rewards, starts), 0)
    rewards[0, 1], starts[:] = 2.0, False
    np.testing.assert_allclose(act(observations, rewards, starts), 0.1, rtol=1e-6)
    starts[1, 2] = True
    expected = np.full((2, 3, 1), 0.2)
    expected[0, 1], expected[1, 2] = 0.4, 0.0
    np.testing.assert_allclose(act(observations, 0 * rewards, starts), expected, rtol=1e-6)


def test_acting_sees_the_rewards_of_the_task():
    """A maze's are 1 at the goal and 0 elsewhere, and learned from as 0 and -1; at an episode's start there is none."""
    box = np.ones(1, np.float32)
    act = Actors(ALGORITHM, TASKS['antmaze']).play({'w': jnp.zeros(1)}, Scaling(0 * box, box, -box, box))
    for starts, rewards, actions in ((True, 0, 0.0), (False, 0, 0.1), (False, 1, 0.1), (False, 0, 0.2), (True, 1, 0.0)):
        found = act(np.zeros((1, 1, 1)), np.full((1, 1), float(rewards)), np.full((1, 1), starts))
        np.testing.assert_allclose(found, actions, rtol=1e-6)


def largest(cvae, estimator, num_samples):
    """A regulariser of two noise numbers a state, which reads the CVAE's first bias."""

    def penalty(params, batch, actions, noise, beta):
        assert noise.shape[1:] == (2,)
        return (
            jnp.max(jnp.abs(actions - batch.actions), axis=-1) + 0 * params['params']['encoder']['Dense_0']['bias'][0]
        )

    return Regularizer(penalty, (2,), uses_density=True)


def test_a_regulariser_is_one_function_and_one_line(data, monkeypatch, tmp_path):
    monkeypatch.setitem(REGULARIZERS, 'largest', largest)
    config = tiny(**{'regularizer.name': 'largest', 'evaluation.episodes': 0})
    assert effects.without_effect(config, ['cvae.steps']) == []
    assert training.run(config, tmp_path) == 0
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['algorithm'] == 'TD3 with largest'
    assert [m['status'] for m in results['members']] == ['completed', 'completed']


def test_discounted_returns_to_go():
    """Of an episode that ends, one that is cut off (its last reward goes on), one with a terminal in its midst."""
    rewards, masks = np.array([1.0, 2, 1, 3, 5, 7, 9]), np.array([1.0, 0, 1, 1, 0, 1, 0])
    last = np.array([1, 1, 3, 3, 6, 6, 6])
    returns_to_go = discounted_returns_to_go(rewards, masks, last, 0.5)
    np.testing.assert_allclose(returns_to_go, [2, 2, 1 + 0.5 * 6, 6, 5, 7 + 4.5, 9])
    np.testing.assert_allclose(data_of(dataset(), 0.5).returns_to_go, 2)  # 1 + 1/2 + 1/4 + ...
