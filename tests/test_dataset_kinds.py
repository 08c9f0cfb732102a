"""Datasets as people have them: other kinds of spaces, numbers at the edge, parts of them, scores of their own."""

import json
from functools import partial

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Text, Tuple
from minari.data_collector import EpisodeBuffer
from tiny import tiny

from spot_jax import evaluate, plot
from spot_jax.acting import environments
from spot_jax.acting.tasks import TASKS, describe, flatten, layout, reference, vectorizer
from spot_jax.core.types import unpack
from spot_jax.data.checks import action_bounds, unit_actions
from spot_jax.data.load import Selection, load
from spot_jax.run import policy, training
from spot_jax.run.config import members
from spot_jax.run.finetuning import Collector
from spot_jax.run.workdir import read_run
from spot_jax.system.errors import InputError

TASK = TASKS['locomotion']
FLAT = TASK._replace(flatten=True)
VECTOR, ACTIONS = Box(-np.inf, np.inf, (2,), np.float32), Box(-2, 2, (1,), np.float32)
LOW, HIGH = np.array([-0.1, 0.5]), np.array([0.1, 0.5])  # float64, as float32 cannot hold them; the second is constant


class Cart(gym.Env):
    """A place and a speed, in a dict of a vector and a matrix; the action's second part has no choice."""

    observation_space = Dict(speed=Box(-9, 9, (1, 2), np.float64), place=Box(-9, 9, (1,), np.float32))
    action_space = Box(LOW, HIGH, dtype=np.float64)

    def _observe(self):
        return {'speed': np.array([[self.v, 0.25]]), 'place': np.array([self.p], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.p, self.v, self.t = self.np_random.uniform(-1, 1), 0.5, 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.v, self.t = self.v + float(action[0]), self.t + 1
        self.p += self.v
        return self._observe(), -abs(self.p), False, self.t == 5, {}


@pytest.fixture(autouse=True)
def _store(tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'minari'))


@pytest.fixture
def cart():
    gym.register('toy/Cart-v0', f'{__name__}:Cart')
    yield gym.spec('toy/Cart-v0')
    del gym.registry['toy/Cart-v0']


def buffer(observations, actions, rewards=None, **changes):
    ends = np.arange(len(actions)) == len(actions) - 1
    arrays = {
        'observations': observations,
        'actions': actions,
        'rewards': np.arange(len(actions), dtype=float) if rewards is None else rewards,
        'terminations': ends,
        'truncations': ends & False,
    }
    return EpisodeBuffer(**(arrays | changes))


def store(episodes, observation_space=VECTOR, action_space=ACTIONS, name='toy/set-v0', **labels):
    return minari.create_dataset_from_buffers(
        name, episodes, observation_space=observation_space, action_space=action_space, **labels
    )


def vectors(length=3, **changes):
    actions = np.linspace(-2, 2, length, dtype=np.float32)[:, None]
    arrays = {'observations': np.arange(2.0 * length + 2).reshape(-1, 2), 'actions': actions}
    return buffer(**(arrays | changes))


IMAGE = Box(0, 255, (16, 16, 3), np.uint8)
GOAL = Dict(achieved_goal=VECTOR, observation=VECTOR)


@pytest.mark.parametrize(
    ('space', 'words', 'flat_size'),
    [
        (IMAGE, r'images: a Box of shape \(16, 16, 3\), uint8; --config.flatten_observations=True', 768),
        (Tuple((VECTOR, Box(-1, 1, (3,)))), 'tuples of 2; --config.flatten', 5),
        (Dict(b=VECTOR, a=Dict(z=VECTOR, y=VECTOR)), r'dicts of a, b; .* in the order a.y, a.z, b$', 6),
        (Box(-1, 1, (4, 1)), r'a Box of shape \(4, 1\), float32; --config.flatten', 4),
        (Box(-1, 1, ()), r'a Box of shape \(\), float32; --config.flatten', 1),
        (MultiBinary(3), r'MultiBinary\(3\); --config.flatten', 3),
        (GOAL, 'dicts of achieved_goal, observation; .*; mazes whose rewards are 0 and 1 take config.task', 4),
        (Discrete(5), r'Discrete\(5\); supported are vectors', None),
        (Text(5), r'Text\(.*; supported are vectors', None),
        (Dict(a=VECTOR, b=Discrete(2)), r'dicts of a, b \(Discrete\(2\)\); supported are vectors', None),
        (Box(-1, 1, (0,)), r'a Box of shape \(0,\), float32; supported are vectors', None),
        (Box(-1, 1, (2,), np.int8), None, 2),
        (Box(-1, 1, (2,), np.float16), None, 2),
    ],
)
def test_kinds_of_observations(space, words, flat_size):
    if words is None:
        assert vectorizer(TASK, space, 'it')(space.sample()).dtype == np.float32
    else:
        with pytest.raises(InputError, match=f'^it: observations are {words}') as error:
            vectorizer(TASK, space, 'it')
        assert not any(word in str(error.value) for word in ('damaged', 'delete', '\n'))
    if flat_size is None:
        with pytest.raises(InputError, match='supported are'):
            vectorizer(FLAT, space, 'it')
    else:
        assert vectorizer(FLAT, space, 'it')(space.sample()).shape == (flat_size,)
    if space is not GOAL and space.shape != (2,):
        with pytest.raises(InputError, match='maze tasks take vectors'):
            vectorizer(TASKS['antmaze'], space, 'it')


def test_flattened_in_the_alphabetical_order_of_keys_row_by_row():
    space = Dict(b=Box(-9, 9, (2, 2)), a=Tuple((Box(-9, 9, (1,)), Box(-9, 9, ()))))
    raw = {'b': np.arange(8.0).reshape(2, 2, 2), 'a': (np.array([[-1.0], [-2.0]]), np.array([8.0, 9.0]))}
    np.testing.assert_array_equal(flatten(raw, space), [[-1, 8, 0, 1, 2, 3], [-2, 9, 4, 5, 6, 7]])
    assert layout(space) == [('a.0', (1,)), ('a.1', ()), ('b', (2, 2))]
    for wrong, words in (
        (raw | {'b': np.zeros((2, 3, 2))}, 'an array of shape'),
        ({'b': raw['b']}, "there is no 'a'"),
        ('abc', 'string indices'),
    ):
        with pytest.raises(InputError, match=f'observations are none of dicts of a, b: {words}'):
            flatten(wrong, space)
    with pytest.raises(InputError, match='NoneType is no space'):
        flatten(raw, None)


@pytest.mark.parametrize(
    ('space', 'words'),
    [
        (Discrete(3), r'Discrete\(3\); supported'),
        (Box(-1, 1, ()), 'supported'),
        (Box(-1, 1, (0,)), 'supported'),
        (Box(-1, 1, (2, 1)), 'supported'),
        (Box(0, 9, (2,), np.int64), 'int64; supported'),
        (Tuple((VECTOR,)), 'tuples of 1; supported'),
        (VECTOR, 'need finite bounds'),
        (Box(-1e300, 1e300, (1,), np.float64), 'need finite bounds'),
        (Box(-3e38, 3e38, (1,), np.float32), 'need finite bounds'),
    ],
)
def test_kinds_of_actions(space, words):
    with pytest.raises(InputError, match=f'^it: actions .*{words}'):
        action_bounds('it', space)
    assert '\n' not in describe(space)


def test_actions_are_scaled_by_float32_bounds_also_where_there_is_no_choice():
    low, high = action_bounds('it', Box(LOW, HIGH, dtype=np.float64))
    assert low.dtype == high.dtype == np.float32
    unit = unit_actions(np.array([[-0.1, 0.5], [0.05, 0.5]], np.float32), low, high)
    np.testing.assert_allclose(unit, [[-1, 0], [0.5, 0]], atol=1e-6)
    assert unit.dtype == np.float32
    scaling = policy.Scaling(np.zeros(1), np.ones(1), low, high)
    np.testing.assert_array_equal(
        scaling.bounded(np.array([[-1, -1], [1, 1]], np.float32))[:, 1], np.float32([0.5, 0.5])
    )


def _check(env_space, low, high):
    class Env(gym.Env):
        observation_space, action_space, spec = VECTOR, env_space, gym.spec('CartPole-v1')

    low, high = np.float32(low), np.float32(high)
    environments.check(Env(), np.zeros((1, 6 + len(low)), np.float32), low, high)


def test_bounds_are_compared_after_rounding():
    _check(Box(LOW, HIGH, dtype=np.float64), LOW, HIGH)
    _check(Box(np.float32([-1000.1]), np.float32([1000.1])), [-1000.1], [1000.1])
    for space, low, high, words in (
        (Box(-1, 1, (2,)), [-1, -1], [1, 1.001], 'action bounds differ .*: 1 for action 1 instead of 1.001'),
        (Box(-1, np.inf, (1,)), [-1], [1], 'inf for action 0 instead of 1'),
        (Box(-1, 1, (3,)), [-1], [1], 'action bounds differ .* vectors of 1'),
        (Discrete(2), [-1], [1], r'Discrete\(2\), not vectors of 1'),
    ):
        with pytest.raises(InputError, match=words):
            _check(space, low, high)


@pytest.mark.parametrize(
    ('episodes', 'words'),
    [
        (
            [vectors(rewards=np.array([0, 1e300, 0]))],
            'episode 0: rewards contain .* that float32 cannot hold.* at step 1$',
        ),
        ([vectors(), vectors(rewards=np.array([0, 0, np.nan]))], 'episode 1: rewards contain NaN .* at step 2$'),
        ([vectors(observations=np.full((4, 2), -1e39))], 'observations contain NaN .* at step 0$'),
        ([vectors(actions=np.array([[0], [np.nan], [0]], np.float32))], 'actions contain NaN .* at step 1$'),
        ([vectors(rewards=np.zeros((3, 2)))], r'rewards have the shape \(3, 2\), expected \(3,\)'),
        ([vectors(terminations=np.array([0, 7, 0]))], 'terminations must be 0 or 1'),
        ([vectors(terminations=np.zeros(2, bool))], 'terminations have the shape'),
        ([vectors(observations=np.zeros((4, 3)))], r'observations have the shape \(4, 3\), expected \[steps \+ 1, 2\]'),
        ([vectors(observations=np.zeros((5, 2)))], '5 observations for 3 actions; expected one more'),
        ([vectors(actions=np.zeros((3, 2), np.float32))], r'actions have the shape \(3, 2\), expected \(3, 1\)'),
        ([], 'is empty: it has no transitions'),
    ],
)
def test_wrong_data_are_one_line_that_says_where(episodes, words):
    with pytest.raises(InputError, match=words) as error:
        load(store(episodes).id, TASK)
    assert '\n' not in str(error.value)
    assert 'delete' not in str(error.value)


def test_actions_outside_their_bounds_are_an_error_or_clipped():
    far = vectors(actions=np.array([[0], [2.25], [-2.5]], np.float32))
    data = store([vectors(), far])
    with pytest.raises(InputError, match=r'bounds -2 to 2, by up to 0.5 .* in 1 of 2 episodes; --config.clip_actions'):
        load(data.id, TASK)
    np.testing.assert_array_equal(load(data.id, TASK, clip_actions=True).transitions[3:, 2], [0, 1, -1])
    thousand = Box(np.float32([-1000]), np.float32([1000]))
    rounded = store([vectors(actions=np.full((3, 1), 1000.0001))], action_space=thousand, name='toy/rounded-v0')
    assert load(rounded.id, TASK).transitions[:, 2].max() == 1


def _empty(data, indices):
    """Takes the steps of episodes away: Minari reads such, but does not write them."""
    with h5py.File(data.storage.data_path / 'main_data.hdf5', 'a') as file:
        for group in (file[f'episode_{i}'] for i in indices):
            for name in ('observations', 'actions', 'rewards', 'terminations', 'truncations'):
                values = group[name][: name == 'observations']
                del group[name]
                group[name] = values
    data.storage.update_metadata({'total_steps': data.storage.total_steps - 3 * len(indices)})


def test_more_transitions_than_fit_in_memory():
    data = store([vectors()])
    data.storage.update_metadata({'total_steps': 10**13})
    with pytest.raises(InputError, match=r'GiB of memory, .* for the 10000000000000 transitions of toy/set-v0; this'):
        load(data.id, TASK)


def test_empty_episodes_are_left_out_and_columns_are_rows(capsys):
    column = vectors(rewards=np.array([[1.0], [2.0], [3.0]]), terminations=np.array([[0], [0], [1]]))
    stored = store([vectors(), column, vectors()])
    _empty(stored, [0, 2])
    data = load(stored.id, TASK)
    rows = unpack(data.transitions, 2, 1)
    np.testing.assert_array_equal(rows.rewards, [1, 2, 3])
    np.testing.assert_array_equal(rows.masks, [1, 1, 0])
    assert len(data.lengths) == 1
    assert '2 episodes without steps are left out' in capsys.readouterr().err
    _empty(stored, [1])
    with pytest.raises(InputError, match='is empty: it has no transitions'):
        load(stored.id, TASK)


def test_a_mazes_rewards_are_0_and_1(capsys):
    data = store([vectors(rewards=np.array([-1.0, -1, 0]))])
    with pytest.raises(InputError, match=r'episode 0: a reward of -1, but mazes .* have 1 at the goal and 0 elsewhere'):
        load(data.id, TASKS['pointmaze'])
    np.testing.assert_array_equal(unpack(load(data.id, TASK).transitions, 2, 1).rewards, [-1, -1, 0])


def test_episodes_by_their_return(capsys):
    data = store([vectors(rewards=np.full(3, r)) for r in (1.0, 4.0, 2.0, 4.0)])  # returns 3, 12, 6, 12

    def kept(**selection):
        rows = unpack(load(data.id, TASK, selection=Selection(**selection)).transitions, 2, 1)
        return rows.rewards[::3].tolist()

    assert kept() == [1, 4, 2, 4]
    assert kept(min_return=6.0) == [4, 2, 4]
    assert kept(best_percent=25.0) == [4]
    assert kept(best_percent=26.0) == [4, 4]
    assert kept(best_percent=75.0, min_return=7.0) == [4, 4]
    assert kept(best_percent=1e-3) == [4]
    assert '1 of 4 episodes are kept, with 3 transitions' in capsys.readouterr().out
    with pytest.raises(InputError, match=r'no episode has config.episodes.min_return=12.5; the best one has 12'):
        kept(min_return=12.5)


def test_datasets_that_python_holds():
    data = store([vectors(rewards=np.full(3, r)) for r in (1.0, 4.0, 2.0)])
    good = data.filter_episodes(lambda episode: episode.rewards.sum() > 5)
    rewards = lambda dataset: unpack(load(dataset, TASK).transitions, 2, 1).rewards[::3].tolist()
    assert rewards(good) == [4, 2]
    parts = minari.split_dataset(data, [1, 2], seed=0)
    assert sorted(rewards(parts[0]) + rewards(parts[1])) == [1, 2, 4]
    assert load(data, TASK).sha256 == load(data.id, TASK).sha256 != load(good, TASK).sha256
    with pytest.raises(InputError, match='is empty'):
        load(data.filter_episodes(lambda _: False), TASK)
    with pytest.raises(InputError, match=r'is a minari.MinariDataset, but no list; the id of one'):
        training.run(tiny(), 'nowhere', dataset=[1])


def test_a_run_of_all_this(cart, tmp_path, capsys):
    """Flattened dicts, float64 bounds, a constant action, a filtered dataset, scores of its own."""
    rng = np.random.default_rng(0)

    def episode():
        actions = np.column_stack([rng.uniform(-0.1, 0.1, 5), np.full(5, 0.5)])
        speeds = np.cumsum([0.5, *actions[:, 0]])
        places = np.cumsum([rng.uniform(-1, 1), *speeds[1:]])
        observations = {
            'speed': np.stack([speeds, np.full(6, 0.25)], axis=1)[:, None],
            'place': places[:, None].astype(np.float32),
        }
        return buffer(observations, actions, -np.abs(places[1:]))

    data = store(
        [episode() for _ in range(20)],
        Cart.observation_space,
        Cart.action_space,
        env=cart,
        ref_min_score=-20.0,
        ref_max_score=0.0,
    )
    half = data.filter_episodes(lambda episode: episode.id % 2 == 0)
    small = {'seeds': (0,), 'regularizer.name': 'none', 'actor.hidden_dims': (8,), 'critic.hidden_dims': (8,)}
    config = tiny(**small, **{'dataset_id': None, 'task': 'locomotion', 'flatten_observations': True})
    assert training.run(config, tmp_path / 'run', dataset=half) == 0
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['dataset_id'] == data.id
    assert (results['dataset_episodes'], results['dataset_transitions']) == (10, 50)
    assert results['reference_returns'] == {'random': -20, 'expert': 0, 'source': "the dataset's metadata"}
    for member in results['members']:
        assert member['status'] == 'completed'
        returns = np.mean(member['evaluation']['returns'])
        assert member['evaluation']['normalized_score'] == pytest.approx(100 * (returns + 20) / 20)
    assert 'normalized_score' in (tmp_path / 'run' / 'metrics.csv').read_text()

    assert training.run(config, tmp_path / 'run', dataset=half) == 0  # the same data: resumed
    with pytest.raises(InputError, match='has changed since the run'):
        training.run(config, tmp_path / 'run', dataset=data)

    observations = flatten(half[0].observations, data.observation_space)  # place, then speed
    np.testing.assert_array_equal(observations[:, 2], 0.25)
    np.testing.assert_allclose(read_run(tmp_path / 'run')[1]['scaling']['action_high'], [0.1, 0.5])
    actions = policy.load(tmp_path / 'run')(observations)
    np.testing.assert_array_equal(actions[:, 1], np.float32(0.5))
    for wrong in (half[0].observations, observations[:, :2], 0.0):
        with pytest.raises(InputError, match=r'^observations'):
            policy.load(tmp_path / 'run')(wrong)
    assert plot.read_run(tmp_path / 'run', 'run').reference == "by the returns -20 and 0 of the dataset's metadata"
    assert "score: by the returns -20 and 0 of the dataset's metadata" in capsys.readouterr().out
    assert evaluate.main([str(tmp_path / 'run'), '--episodes=1', '--member=0']) == 0
    assert "(by the returns -20 and 0 of the dataset's metadata)" in capsys.readouterr().out

    scaling = policy.Scaling(np.zeros(3, np.float32), np.ones(3, np.float32), np.float32(LOW), np.float32(HIGH))
    collector = Collector(partial(environments.make, cart, FLAT), members(config), FLAT, scaling, 0)
    row = unpack(collector.step(np.ones((1, 2), np.float32), 1), 3, 2)
    collector.close()
    np.testing.assert_allclose([row.observations[0, 1:], row.next_observations[0, 1:]], [[0.5, 0.25], [0.6, 0.25]])

    env = environments.make(cart, FLAT)
    loaded = load(half, FLAT)
    facts = (loaded.transitions, loaded.action_low, loaded.action_high)
    environments.check(env, *facts, loaded.layout)
    with pytest.raises(InputError, match=r"observations are place \(1,\), speed \(1, 2\); the dataset's x"):
        environments.check(env, *facts, [('x', (3,))])
    assert reference('toy/Cart-v0', data.storage.metadata, is_maze=True) is None
