"""Datasets and environments share one rule; what is generated is what is evaluated."""

import itertools

import gymnasium as gym
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from spot_jax.acting import environments
from spot_jax.acting.tasks import TASKS, normalized_score, reference
from spot_jax.behavior import planner
from spot_jax.core.types import unpack
from spot_jax.data.load import load
from spot_jax.datasets.__main__ import main
from spot_jax.recipes import generate
from spot_jax.system.errors import InputError

POINT = 'spot_jax/pointmaze/umaze-v0'


@pytest.fixture(autouse=True)
def _store(tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))


def episode(length=3, **changes):
    arrays = {
        'observations': np.arange(2.0 * (length + 1)).reshape(length + 1, 2),
        'actions': np.linspace(-2, 2, length, dtype=np.float32)[:, None],
        'rewards': np.arange(1.0, length + 1),
        'terminations': np.arange(length) == length - 1,
        'truncations': np.zeros(length, bool),
    }
    return EpisodeBuffer(**(arrays | changes))


def store(*episodes, dataset_id='toy/set-v0'):
    spaces = {
        'observation_space': gym.spaces.Box(-np.inf, np.inf, (2,)),
        'action_space': gym.spaces.Box(-2, 2, (1,)),
    }
    minari.create_dataset_from_buffers(dataset_id, list(episodes), **spaces)
    return dataset_id


def test_alignment_masks_and_scaled_actions():
    truncated = episode(terminations=np.zeros(3, bool), truncations=np.array([False, False, True]))
    data = load(store(episode(), truncated), TASKS['locomotion'])
    rows = unpack(data.transitions, 2, 1)
    np.testing.assert_array_equal(rows.observations[:3], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(rows.next_observations[:3], [[2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(rows.actions[:3, 0], [-1, 0, 1])
    np.testing.assert_array_equal(rows.rewards, [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(rows.masks, [1, 1, 0, 1, 1, 1])  # a truncation is no terminal
    assert data.environment is None


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'observations': np.full((4, 2), np.nan)}, 'NaN'),
        ({'observations': np.zeros((3, 2))}, 'expected one more'),
        ({'actions': np.full((3, 1), 2.5, np.float32)}, 'outside the bounds'),
        ({'rewards': np.array([0, np.inf, 0])}, 'rewards contain NaN or infinity'),
    ],
)
def test_bad_data_is_one_clear_error(changes, message):
    with pytest.raises(InputError, match=message):
        load(store(episode(**changes)), TASKS['locomotion'])


def test_corrupt_file_and_unknown_id(tmp_path, capsys):
    name = store(episode())
    path = tmp_path / name / 'data' / 'main_data.hdf5'
    for content in (path.read_bytes()[:-1000], b'not hdf5'):
        path.write_bytes(content)
        with pytest.raises(InputError, match='toy/set-v0'):
            load(name, TASKS['locomotion'])
    assert main(['generate', 'spot_jax/nothing-v0']) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_maze_rule():
    task = TASKS['antmaze']
    rewards = np.array([0.0, 1.0, 0.0])
    np.testing.assert_array_equal(task.reward(rewards), [-1, 0, -1])
    np.testing.assert_array_equal(task.terminal(rewards, np.array([False, False, True])), [False, True, True])
    raw = {'achieved_goal': np.zeros((5, 2)), 'observation': np.ones((5, 27)), 'desired_goal': np.zeros((5, 2))}
    assert task.observation(raw).shape == (5, 29)


def test_scores(capsys):
    theirs = {'ref_min_score': -10.0, 'ref_max_score': 30.0}
    find = lambda name, metadata=theirs, is_maze=False: reference(name, metadata, is_maze)
    assert normalized_score(find('Hopper-v5'), [3234.3], None) == pytest.approx(100)
    assert normalized_score(find('AntMaze_UMaze-v4', is_maze=True), [7.0, 9.0], [1.0, 0.0]) == pytest.approx(50)
    assert normalized_score(find('spot_jax/PointMaze-UMaze-v0', is_maze=True), [1.0], [1.0]) is None
    assert normalized_score(find('Own-v0'), [0.0, 20.0], None) == pytest.approx(50)
    assert find('Own-v0').source == "the dataset's metadata"
    assert find('Hopper-v5').source == 'D4RL'
    assert find('Own-v0', {}) is None
    for wrong in ((1.0, 1.0), (2.0, 1.0), (float('nan'), 1.0), (None, 1.0), ('0', 1.0), (True, 3.0), ([0], 1.0)):
        capsys.readouterr()
        assert find('Own-v0', dict(zip(theirs, wrong, strict=True))) is None
        assert capsys.readouterr().err.count('\n') == 1


@pytest.mark.parametrize('maze', {**environments.POINT_MAZES, **environments.ANT_MAZES}.values())
def test_plans_go_through_free_neighbouring_cells(maze):
    cells = environments.maze_map(maze)
    free = planner.free_cells(cells)
    assert {maze.start, maze.goal} <= set(free)
    for start, goal in itertools.product(free, free):
        path = planner.plan(cells, start, goal)
        assert (path[0], path[-1]) == (start, goal)
        assert all(cells[i][j] != 1 for i, j in path)
        assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in itertools.pairwise(path))
        assert len(path) == len(planner.plan(cells, goal, start))  # a shortest one is as long both ways
    for goal in free:
        following = planner.towards(cells, goal)
        assert following[goal] == goal
        for cell, ahead in following.items():
            assert cells[ahead[0]][ahead[1]] != 1
            assert cell == goal or abs(cell[0] - ahead[0]) + abs(cell[1] - ahead[1]) == 1
            if cell in free:
                assert len(planner.plan(cells, ahead, goal)) == max(len(planner.plan(cells, cell, goal)) - 1, 1)
        assert set(free) < set(following)  # and walls beside them


def test_generated_set_is_reproducible_and_matches_its_environment(capsys):
    generate(POINT, 3000, seed=1)
    task = TASKS['pointmaze']
    data = load(POINT, task)
    assert data.transitions.shape == (3000, 12)
    rows = unpack(data.transitions, 4, 2)
    near = np.linalg.norm(rows.next_observations[:, :2] - [-1, -1], axis=1) <= 0.45  # the goal cell's centre
    np.testing.assert_array_equal(rows.rewards, np.where(near, 0, -1))
    np.testing.assert_array_equal(rows.masks, 1 - near)
    assert near.any()

    assert main(['generate', POINT, '--transitions=3000', '--seed=1']) == 2
    assert 'there already' in capsys.readouterr().err
    assert main(['generate', POINT, '--transitions=3000', '--seed=1', '--overwrite']) == 0
    assert load(POINT, task).sha256 == data.sha256
    assert main(['generate', POINT, '--transitions=3000', '--seed=2', '--overwrite']) == 0
    assert load(POINT, task).sha256 != data.sha256

    env = environments.make(data.environment, task)
    environments.check(env, data.transitions, data.action_low, data.action_high)
    starts = [env.reset(seed=s)[0][:2] for s in range(3)]
    np.testing.assert_array_equal(env.unwrapped.goal, [-1, -1])
    assert len({tuple(s) for s in starts}) == 3
    assert np.abs(np.array(starts) - [-1, 1]).max() <= 0.25 + 1e-6
    env.unwrapped.point_env.set_state(np.array([-1.0, -1.0]), np.zeros(2))
    _, reward, terminated, _, info = env.step(np.zeros(2))
    assert (reward, terminated, info['success']) == (1.0, True, True)
    mirrored = data.transitions.copy()
    mirrored[:, 0] *= -1
    with pytest.raises(InputError, match='walls'):
        environments.check(env, mirrored, data.action_low, data.action_high)
