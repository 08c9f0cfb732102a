"""The ant seen from its goal: symmetries hold in the mathematics and in MuJoCo."""

from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.envs import mujoco as gymnasium_mujoco

from spot_jax.acting.environments import ANT_FRAME_SKIP, ant_maze, as_d4rl
from spot_jax.behavior import ant

MODEL = mujoco.MjModel.from_xml_path(str(Path(gymnasium_mujoco.__file__).parent / 'assets' / 'ant.xml'))
as_d4rl(MODEL)
SIGNS = np.array([1, 1, 1, -1, 1, -1, 1, 1])


def product(a, b):
    result = np.zeros(4)
    mujoco.mju_mulQuat(result, a, b)
    return result


def about_z(angle):
    return np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])


def rotated(vector, angle):
    x, y, *rest = vector
    return np.array([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, *rest])


def random_state(seed):
    """A moving, tilted ant near the ground, its joints within their limits."""
    rng = np.random.default_rng(seed)
    tilt = np.array([1, *rng.uniform(-0.2, 0.2, 2), 0])
    quaternion = product(about_z(rng.uniform(-3, 3)), tilt / np.linalg.norm(tilt))
    joints = SIGNS * np.stack([rng.uniform(-0.4, 0.4, 4), rng.uniform(0.6, 1.1, 4)], 1).ravel()
    return np.concatenate([[0.3, -0.2, 0.5], quaternion, joints]), rng.uniform(-1, 1, 14)


def turned_world(qpos, qvel, angle):
    """The same ant in a world turned by `angle` about the vertical."""
    position = rotated(qpos[:3], angle)
    quaternion = product(about_z(angle), qpos[3:7])
    return np.concatenate([position, quaternion, qpos[7:]]), np.concatenate([rotated(qvel[:3], angle), qvel[3:]])


def renumbered(qpos, qvel):
    """The same shape and motion, described with each leg called by the next one's name."""

    def joints(values):
        return SIGNS * np.roll(SIGNS * values, -2)

    quaternion = product(qpos[3:7], about_z(np.pi / 2))
    qpos = np.concatenate([qpos[:3], quaternion, joints(qpos[7:])])
    return qpos, np.concatenate([qvel[:3], rotated(qvel[3:6], -np.pi / 2), joints(qvel[6:])])


def features(qpos, qvel, direction):
    return ant.goal_features(np.concatenate([qpos[2:], qvel]), direction)


def stepped(qpos, qvel, torques):
    data = mujoco.MjData(MODEL)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, torques
    mujoco.mj_step(MODEL, data, ANT_FRAME_SKIP)
    return data.qpos.copy(), data.qvel.copy()


def test_features_by_hand():
    quaternion = about_z(np.pi / 2 + 0.1)
    observation = np.concatenate([[0.7], quaternion, np.arange(8), [1, 2, 3, 4, 5, 6], np.arange(10, 18)])
    seen, quarters = ant.goal_features(observation, 0.0)
    assert quarters == 1
    np.testing.assert_allclose(seen[:6], [0.7, 0, 0, 1, np.cos(0.1), np.sin(0.1)], atol=1e-6)
    np.testing.assert_allclose(seen[6:14], [6, 7, 0, 1, 2, -3, 4, -5])  # leg 4 stands where leg 1 was
    np.testing.assert_allclose(seen[14:20], [1, 2, 3, -5, 4, 6], atol=1e-6)
    np.testing.assert_allclose(seen[20:], [16, 17, 10, 11, 12, -13, 14, -15])
    np.testing.assert_allclose(ant.goal_features(observation, np.pi / 2)[0][14:17], [2, -1, 3], atol=1e-6)
    action = np.arange(1.0, 9)
    # actuators: hip 4, ankle 4, hip 1, ...; leg 4 in place 1, leg 1 in place 2
    np.testing.assert_array_equal(ant.torques(action, 1), [1, 2, 3, 4, 5, -6, 7, -8])
    np.testing.assert_array_equal(ant.torques(action, 0), [7, 8, 1, 2, 3, -4, 5, -6])


@pytest.mark.parametrize('seed', range(5))
def test_a_turned_world_changes_nothing(seed):
    state = random_state(seed)
    seen, quarters = features(*state, 0.4)
    for angle in np.linspace(-3, 3, 7):
        again, same = features(*turned_world(*state, angle), 0.4 + angle)
        np.testing.assert_allclose(again, seen, atol=1e-5)
        assert same == quarters


@pytest.mark.parametrize('seed', range(5))
def test_a_quarter_turn_renumbers_the_legs(seed):
    state = random_state(seed)
    action = np.random.default_rng(seed).uniform(-1, 1, 8)
    seen, quarters = features(*state, 0.4)
    torques = ant.torques(action, quarters)
    after, _ = features(*stepped(*state, torques), 0.4)
    assert abs(seen[5]) <= np.sin(np.pi / 4) + 1e-6
    for turns in range(1, 4):
        state = renumbered(*state)
        again, k = features(*state, 0.4)
        np.testing.assert_allclose(again, seen, atol=1e-5)
        assert k == (quarters + turns) % 4
        # The same ant under another name moves the same in MuJoCo.
        moved, _ = features(*stepped(*state, ant.torques(action, k)), 0.4)
        np.testing.assert_allclose(moved, after, atol=1e-4)


def test_rotated_state_and_action_give_the_rotated_next_state():
    qpos, qvel = random_state(7)
    torques = np.random.default_rng(0).uniform(-1, 1, 8)
    turned = stepped(*renumbered(*turned_world(qpos, qvel, -np.pi / 2)), _renumbered_torques(torques))
    expected = renumbered(*turned_world(*stepped(qpos, qvel, torques), -np.pi / 2))
    np.testing.assert_allclose(turned[0], expected[0], atol=1e-8)
    np.testing.assert_allclose(turned[1], expected[1], atol=1e-7)
    assert np.abs(turned[1] - qvel).max() > 0.1


def _renumbered_torques(torques):
    joints = SIGNS * np.roll(torques, -2)  # in the joints' order, of one sign
    return np.roll(SIGNS * np.roll(joints, -2), 2)


def test_waypoint_environment():
    env = gym.make('spot_jax/AntWaypoint-v0')
    observation, _ = env.reset(seed=3)
    inner = env.unwrapped
    inner._waypoint = inner._data.qpos[:2] + np.array([0.6, 0])
    before = inner._distance()
    action = np.full(8, 0.5, np.float32)
    observation, reward, terminated, truncated, _ = env.step(action)
    progress = (before - inner._distance()) / 0.1
    w, _, _, z = inner._data.qpos[3:7]
    offset = inner._waypoint - inner._data.qpos[:2]
    heading = 2 * np.arctan2(z, w) - np.arctan2(offset[1], offset[0])  # any number of quarter turns is as good
    assert np.sin(2 * heading) ** 2 > 0.1
    expected = min(progress, 2) * (1 - 0.8 * np.sin(2 * heading) ** 2) + 0.2
    assert reward == pytest.approx(expected, abs=1e-5)
    assert env.observation_space.contains(observation)
    assert not terminated
    assert not truncated
    inner._waypoint = inner._data.qpos[:2] + np.array([0.1, 0])
    env.step(action)
    assert inner._distance() > 0.9  # a new one
    turns = []
    for _ in range(400):
        before = inner._direction
        inner._move_waypoint()
        turns.append((inner._direction - before + np.pi / 4) % (np.pi / 2) - np.pi / 4)
    assert 0.70 < np.mean(np.abs(turns) < 0.4) < 0.98  # 3/4 of them within two deviations, and 1/2 of the others
    inner._data.qpos[3:7] = 0, 1, 0, 0
    assert env.step(action)[2]
    assert {env.reset(seed=s)[0][0] < 0.6 for s in range(10)} == {True, False}


def test_the_mazes_ant_is_d4rls_and_the_one_the_policy_learns_with():
    env = ant_maze('UMaze', d4rl=True)
    ant_env, learner = env.unwrapped.ant_env, ant.AntWaypoint()
    assert ant_env.dt == pytest.approx(0.1)
    assert env.metadata['render_fps'] == 10
    env.reset(seed=0)
    env.step(np.linspace(-1, 1, 8))
    np.testing.assert_allclose(ant_env.data.qfrc_actuator[6:], np.roll(30 * np.linspace(-1, 1, 8), -2))
    # Left alone at the same height, both ants fall alike: ground and masses are the same, too.
    learner.reset(seed=1)
    for model, data in ((ant_env.model, ant_env.data), (learner._model, learner._data)):
        mujoco.mj_resetData(model, data)
        data.qpos[:3] = -4, 4, 0.75  # in a free cell of the maze
        mujoco.mj_step(model, data, 20 * ANT_FRAME_SKIP)
    np.testing.assert_allclose(ant_env.data.qpos[2:], learner._data.qpos[2:], atol=1e-6)
    assert ant_maze('UMaze').unwrapped.ant_env.dt == pytest.approx(0.05)  # older sets' stays as it was
