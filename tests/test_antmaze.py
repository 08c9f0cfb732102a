"""AntMaze sets made on the spot: what is generated is what is evaluated, whatever the number of processes."""

import shutil

import gymnasium as gym
import minari
import numpy as np
import pytest

from spot_jax import behavior
from spot_jax.acting import environments
from spot_jax.acting.environments import ANT_MAZES
from spot_jax.acting.tasks import TASKS
from spot_jax.behavior import driver, planner
from spot_jax.behavior import policy as policies
from spot_jax.behavior.driver import trips
from spot_jax.core.types import unpack
from spot_jax.data.load import load
from spot_jax.datasets.__main__ import main
from spot_jax.recipes import antmaze, generate
from spot_jax.system.errors import InputError

TASK = TASKS['antmaze']
PLAY = 'spot_jax/antmaze/medium-play-v2'


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    """A folder with the first 1500 transitions of medium-play."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp('store')
    patch.setenv('MINARI_DATASETS_PATH', str(folder))
    generate(PLAY, 1500, seed=1, workers=1)
    yield folder
    patch.undo()


def centre(maze, cell):
    """A cell's centre in metres, by hand: cells of 4 m, the map around the origin."""
    cells = environments.maze_map(maze)
    return np.array([4 * (cell[1] + 0.5) - 2 * len(cells[0]), 2 * len(cells) - 4 * (cell[0] + 0.5)])


def test_one_and_two_workers_give_the_same_data(store):
    first = load(PLAY, TASK)
    assert first.transitions.shape == (1500, 2 * 29 + 8 + 2)
    generate(PLAY, 1500, seed=1, overwrite=True, workers=2)
    assert load(PLAY, TASK).sha256 == first.sha256
    one, other = (antmaze.play(antmaze.KINDS['medium-play'], 1, number)['actions'] for number in (0, 1))
    assert one[:5].tolist() != other[:5].tolist()


def test_rewards_and_ends_follow_from_the_positions(store):
    data = minari.load_dataset(PLAY)
    fixed = centre(ANT_MAZES['Medium'], ANT_MAZES['Medium'].goal)
    goals = [centre(ANT_MAZES['Medium'], cell) for cell in antmaze.KINDS['medium-play'].goals]
    stays = []
    for number, episode in enumerate(data.iterate_episodes()):
        position, own = episode.observations['achieved_goal'], episode.infos['goal'][0]
        near = np.linalg.norm(position[1:] - fixed, axis=1) <= 0.45
        np.testing.assert_array_equal(episode.rewards, near)
        np.testing.assert_array_equal(episode.observations['desired_goal'], np.tile(fixed, (len(position), 1)))
        assert any(np.abs(own - goal).max() <= 0.75 for goal in goals)
        assert not any(np.array_equal(own, goal) for goal in goals)
        np.testing.assert_array_equal(episode.infos['goal'], np.tile(own, (len(position), 1)))
        length = 1000 if number < data.total_episodes - 1 else 500  # the last one is cut off
        np.testing.assert_array_equal(episode.truncations, np.arange(length) == length - 1)
        assert not episode.terminations.any()
        away = np.linalg.norm(position[1:] - own, axis=1)
        since = away[np.argmax(away <= 0.45) :]
        stays.append(away.min() <= 0.45 and len(since) > 100 and since.max() < 3)
        assert np.abs(episode.actions).max() <= 1
    assert any(stays)


def test_evaluation_has_the_same_maze_start_and_goal(store):
    data = load(PLAY, TASK)
    env = environments.make(data.environment, TASK)
    environments.check(env, data.transitions, data.action_low, data.action_high)
    starts = np.array([env.reset(seed=seed)[0][:2] for seed in range(5)])
    assert len(np.unique(starts, axis=0)) == 5
    assert np.abs(starts - centre(ANT_MAZES['Medium'], (1, 1))).max() <= 1
    np.testing.assert_array_equal(env.unwrapped.goal, centre(ANT_MAZES['Medium'], (6, 6)))
    rows = unpack(data.transitions, 29, 8)
    assert set(np.unique(rows.rewards)) <= {-1, 0}
    np.testing.assert_array_equal(rows.masks, rows.rewards == -1)
    mirrored = data.transitions.copy()
    mirrored[:, 0] *= -1
    with pytest.raises(InputError, match='walls'):
        environments.check(env, mirrored, data.action_low, data.action_high)


def test_recorded_actions_replayed_in_the_evaluation_give_the_recorded_states(store):
    episode = next(minari.load_dataset(PLAY).iterate_episodes())
    env = gym.make('spot_jax/AntMaze-Medium-v1')
    env.reset(seed=0)
    env.unwrapped.ant_env.set_state(episode.infos['qpos'][0], episode.infos['qvel'][0])
    for step, action in enumerate(episode.actions[:50]):
        observation, *_ = env.step(action)
        expected = episode.observations['observation'][step + 1]
        np.testing.assert_allclose(observation['observation'], expected, atol=1e-6)


@pytest.mark.parametrize('name', ANT_MAZES)
def test_evaluation_pins_the_goal_and_ends_there(name):
    maze = ANT_MAZES[name]
    env = gym.make(f'spot_jax/AntMaze-{name}-v1')
    assert env.spec.max_episode_steps == (700 if name == 'UMaze' else 1000)
    observation, _ = env.reset(seed=3)
    assert observation['observation'].shape == (27,)
    np.testing.assert_array_equal(observation['desired_goal'], centre(maze, maze.goal))
    state = env.unwrapped.ant_env.init_qpos.copy()
    state[:2] = centre(maze, maze.goal) + np.array([0.3, 0])
    env.unwrapped.ant_env.set_state(state, np.zeros(14))
    _, reward, terminated, _, info = env.step(np.zeros(8))
    assert (reward, terminated, info['success']) == (1.0, True, True)


@pytest.mark.parametrize('kind', antmaze.KINDS.values())
def test_hand_picked_cells_are_free_and_paths_pass_the_evaluations_goal(kind):
    maze = ANT_MAZES[kind.maze]
    cells = environments.maze_map(maze)
    free = set(antmaze.free_cells(cells))
    assert set(kind.starts) | set(kind.goals) <= free
    goals = kind.goals or free
    assert maze.start in (kind.starts or free)
    assert any(maze.goal in planner.plan(cells, maze.start, goal) for goal in goals)
    if len(kind.goals) > 1:
        assert maze.goal not in kind.goals


def test_waypoints_are_noisy_and_actions_are_samples(monkeypatch):
    """An ant that stands where it was put is sent to the next cell, or to its goal if that is in it."""
    seen, noises = [], []
    monkeypatch.setattr(driver, 'bearing', lambda position, waypoint: seen.append((position, waypoint)) or 0.0)
    env, limit = driver.ant_maze('UMaze'), 300

    def still(features, noise):
        assert features.shape == (28,)
        noises.append(noise)
        return np.zeros(8)

    def walked(cell, goal):
        seen.clear()
        env.reset(seed=0, options={'reset_cell': np.array(cell)})
        walk = driver.walk(env, still, goal, limit, np.random.default_rng(0))
        assert len(walk.actions) == limit
        np.testing.assert_array_equal([position for position, _ in seen], walk.qpos[:-1, :2])
        return walk, np.array([waypoint for _, waypoint in seen])

    goal = centre(ANT_MAZES['UMaze'], (3, 1)) + np.array([0.6, -0.7])
    walk, waypoints = walked((1, 2), goal)
    offsets = waypoints - centre(ANT_MAZES['UMaze'], (1, 3))
    assert len(np.unique(offsets, axis=0)) == limit
    np.testing.assert_allclose(np.abs(offsets).max(axis=0), 0.5, atol=0.02)  # uniform over a square metre
    np.testing.assert_allclose(offsets.std(axis=0), 1 / np.sqrt(12), rtol=0.1)
    assert np.std(walk.actions) == pytest.approx(0.2, rel=0.05)
    assert np.std(noises) == pytest.approx(1, rel=0.05)
    for cell in ((3, 2), (3, 1)):  # beside the goal's cell, and in it
        np.testing.assert_array_equal(walked(cell, goal)[1], np.tile(goal, (limit, 1)))


def test_the_ant_goes_by_the_middle_of_every_cell_on_its_way():
    """So data that lead past the evaluation's goal go over it, and do not cut its corner."""
    env = driver.ant_maze('UMaze')
    env.reset(seed=0, options={'reset_cell': np.array((1, 1))})
    goal = centre(ANT_MAZES['UMaze'], (3, 2))
    walk = driver.walk(env, behavior.load('ant'), goal, 400, np.random.default_rng(0))
    passed = [np.abs(walk.qpos[:, :2] - centre(ANT_MAZES['UMaze'], c)).max(1) for c in ((1, 2), (1, 3), (2, 3), (3, 3))]
    assert max(distances.min() for distances in passed) <= 0.5
    assert sorted(firsts := [np.argmax(distances <= 0.5) for distances in passed]) == firsts
    assert walk.near(goal).any()


@pytest.mark.parametrize('version', ['-v0', '-v1'])
def test_sets_of_older_recipes_are_used_but_no_more_are_made(version, store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
    old = PLAY.replace('-v2', version)
    for command, message in ((['generate', old], f'generate {PLAY}'), (['show', old], 'put the old set back')):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error
        assert PLAY in error
        assert error.count('\n') == 1
    assert not list(tmp_path.iterdir())
    shutil.copytree(store / PLAY, tmp_path / old)
    metadata = tmp_path / old / 'data' / 'metadata.json'
    metadata.write_text(metadata.read_text().replace(PLAY, old))
    assert main(['show', old]) == 0
    out, error = capsys.readouterr()
    assert f'{old}: 1500 transitions' in out
    assert error.count('\n') == 1
    assert PLAY in error


def test_the_card_is_kept(store):
    card = policies.card('ant')
    assert set(card['mazes']) == set(ANT_MAZES)
    assert all(facts['success_rate'] >= 0.85 for facts in card['mazes'].values())
    reached, lengths = trips(behavior.load('ant'), 'UMaze', range(5))
    assert reached.sum() >= 4
    assert abs(lengths[reached].mean() - card['mazes']['UMaze']['steps_of_successes']) < 60


def test_show_draws_mazes_and_returns_apart(store, tmp_path, capsys):
    file = tmp_path / 'picture.png'
    assert main(['show', PLAY, PLAY, f'--plot={file}']) == 0
    printed = capsys.readouterr().out
    assert '1500 transitions' in printed
    assert 'actions at their bounds' in printed
    assert file.read_bytes()[:4] == b'\x89PNG'
    assert main(['show', PLAY, f'--plot={file / "a.png"}']) == 2
    assert capsys.readouterr().err.count('\n') == 1
