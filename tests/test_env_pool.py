"""Environments in worker processes: the same results as in this one; a failure is survived once."""

import os
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from tiny import ID

from spot_jax.acting import environments, evaluation
from spot_jax.acting.env_pool import EnvPool
from spot_jax.acting.tasks import TASKS
from spot_jax.data.load import load
from spot_jax.methods import METHODS
from spot_jax.population.members import Member, Population
from spot_jax.run.finetuning import Collector
from spot_jax.run.policy import Scaling
from spot_jax.system.errors import InputError

UNIT = Scaling(np.zeros(1, np.float32), np.ones(1, np.float32), -np.ones(1, np.float32), np.ones(1, np.float32))


class Fragile(gym.Env):
    """Its observation is seed % 5 plus the sum of its actions; it fails when that passes 5, or its process ends.

    It fails once for each line that is missing in `path`, which counts the failures.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, path, failures, killed):
        self.path, self.failures, self.killed = path, failures, killed

    def reset(self, *, seed=None, options=None):
        self.total = float(seed % 5)
        return np.full(1, self.total, np.float32), {}

    def step(self, action):
        self.total += float(action[0])
        if self.total > 5 and len(self.path.read_text()) < self.failures:
            self.path.write_text(self.path.read_text() + 'x')
            if self.killed:
                os._exit(9)
            raise ValueError('the sum is above 5')
        done = self.total >= 7
        return np.full(1, self.total, np.float32), 1.0, done, False, {'success': done}


def pool_of(tmp_path, failures, killed=False, workers=2):
    path = tmp_path / 'failures'
    path.write_text('')
    return partial(Fragile, path, failures, killed), workers


def test_every_environment_gets_its_own_action(tmp_path):
    for workers in (0, 1, 2, 5):
        pool = EnvPool(pool_of(tmp_path, 0)[0], 3, workers)
        np.testing.assert_array_equal(pool.reset(np.arange(3), np.array([100, 201, 302]))[:, 0], [0, 1, 2])
        pool.send(np.array([2, 0]), np.array([[0.5], [0.25]]))
        steps = pool.receive()
        np.testing.assert_array_equal(steps.observations[:, 0], [2.5, 0.25])
        np.testing.assert_array_equal(pool.reset(np.array([1]), np.array([8]))[:, 0], [3])
        pool.send(np.arange(3), np.array([[1.0], [4.0], [3.0]]))
        steps = pool.receive()
        np.testing.assert_array_equal(steps.observations[:, 0], [1.25, 7, 5.5])
        np.testing.assert_array_equal(steps.terminated, [False, True, False])
        np.testing.assert_array_equal(steps.successes, [False, True, False])
        pool.close()


@pytest.mark.parametrize('killed', [False, True])
def test_evaluation_survives_one_failure(tmp_path, capfd, killed):
    make_env, workers = pool_of(tmp_path, 1, killed)
    evaluator = evaluation.Evaluator(make_env, 2, 3, 0, True, workers)
    episodes = evaluator(lambda observations, *_: np.ones_like(observations))
    evaluator.close()
    np.testing.assert_array_equal(episodes.lengths, [[7, 6, 5]] * 2)  # from 0, 1, 2 to 7
    assert episodes.successes.all()
    reason = 'its process ended with status 9' if killed else 'ValueError: the sum is above 5'
    assert capfd.readouterr().err.count(f'warning: an environment failed ({reason})') == 1


def test_second_failure_ends_it_with_its_own_words(tmp_path):
    make_env, workers = pool_of(tmp_path, 2)
    evaluator = evaluation.Evaluator(make_env, 1, 1, 0, True, workers)
    with pytest.raises(InputError, match=r'again and again \(ValueError: the sum is above 5'):
        evaluator(lambda observations, *_: np.ones_like(observations))
    evaluator.close()


def test_collector_goes_on_with_new_episodes_after_a_failure(tmp_path, capfd):
    make_env, workers = pool_of(tmp_path, 1)
    members = Population([Member(0, {}), Member(1, {})], (2, 1), METHODS['spot'])
    collector = Collector(make_env, members, TASKS['locomotion'], UNIT, 0, workers)
    for t in range(200):
        rows = collector.step(np.full((2, 1), 0.5, np.float32), t)
        np.testing.assert_allclose(rows[:, 4] - rows[:, 0], 0.5)  # never from one episode into another
        if (tmp_path / 'failures').read_text():
            break
    assert t > 0
    assert 'started again' in capfd.readouterr().err
    collector.close()


def test_collector_survives_a_worker_that_ends_before_a_reset(tmp_path, capfd):
    make_env, workers = pool_of(tmp_path, 0)
    members = Population([Member(0, {}), Member(1, {})], (2, 1), METHODS['spot'])
    collector = Collector(make_env, members, TASKS['locomotion'], UNIT, 0, workers)
    process = collector._pool._workers[1][0]
    process.kill()
    process.join()
    collector._begin(np.array([1]), 5)
    starts = [np.random.SeedSequence([seed, 5]).generate_state(1)[0] % 5 for seed in (0, 1)]
    np.testing.assert_array_equal(collector.observations[:, 0], starts)  # of new episodes of both
    assert 'its process ended with status -9' in capfd.readouterr().err
    for process, _ in collector._pool._workers:
        process.kill()
        process.join()
    with pytest.raises(InputError, match='again and again'):
        collector._begin(np.array([0]), 6)
    collector.close()


@pytest.mark.usefixtures('data')
def test_workers_change_no_result():
    spec = load(ID, TASKS['pointmaze']).environment
    make_env = environments.maker(spec, TASKS['pointmaze'])
    policy = lambda observations, *_: np.sin(5 * observations[..., :2] + np.arange(2.0)[:, None, None])
    alone, shared = (evaluation.Evaluator(make_env, 2, 3, 7, True, workers) for workers in (0, 2))
    np.testing.assert_equal(alone(policy), shared(policy))
    for evaluator in (alone, shared):
        evaluator.close()
