"""The ant that walks to waypoints: its state in the goal's frame, and the environment it learns in.

The ant looks the same after a quarter turn. With the waypoint along +x and the legs renumbered, all headings become
those within ±45 degrees, so a policy has little to learn.
"""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs import mujoco as gymnasium_mujoco

from spot_jax.acting.environments import ANT_FRAME_SKIP, ANT_TIME_STEP, as_d4rl

UPRIGHT = 0.1  # of the torso's up-vector; below it the ant counts as flipped
WAYPOINT_RADIUS = 0.5  # metres
MAX_SPEED = 2.0  # m/s: faster earns nothing
# An ant that keeps its heading walks alike at a place of the maze in all episodes: a policy can learn it from the data.
HEADING_WEIGHT = 0.8  # the share of the progress that counts for nothing at 45 degrees
AS_IN_MAZES = 0.75  # the share of waypoints that lie straight on, to a side or behind

# Legs 2 and 3 (of 1 to 4) bend with the other sign. Joints are in the order hip 1, ankle 1, ..., ankle 4.
_SIGNS = np.array([1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
# Row k: which joint stands in each place after k quarter turns.
_TURNED = np.stack([np.roll(np.arange(8), 2 * k) for k in range(4)])
# Actuators are in the order hip 4, ankle 4, hip 1, ..., ankle 3. Row k: which place drives each of them.
_DRIVEN_BY = np.stack([np.roll(np.argsort(turned), 2) for turned in _TURNED])
_ACTUATOR_SIGNS = np.roll(_SIGNS, 2)


def bearing(position: np.ndarray, goal: np.ndarray) -> float:
    """The direction of a goal [2] from a position [2], in radians from +x."""
    return math.atan2(goal[1] - position[1], goal[0] - position[0])


def up(observation: np.ndarray) -> float:
    """The height of the torso's unit up-vector: 1 upright, -1 on its back. `observation` [27] is gymnasium's."""
    return float(1 - 2 * (observation[2] ** 2 + observation[3] ** 2))


def goal_features(observation: np.ndarray, direction: float) -> tuple[np.ndarray, int]:
    """Gymnasium's observation [27] (height, torso, joints, velocities), with the goal's `direction` (radians) as +x.

    Returns features [28] float32 (height, up-vector, cosine and sine of the heading, joints, linear and angular
    velocity, joint velocities) and the quarter turns (0 to 3) that `torques` needs. Turning the whole world about the
    vertical changes neither; turning the ant by quarter turns within it, legs renumbered, changes the number only.
    """
    w, x, y, z = observation[1:5].tolist()
    # The turn about the vertical that is left when the tilt is split off: exact under turns before and after the tilt.
    heading = 2 * math.atan2(z, w) - direction
    quarters = round(heading / (math.pi / 2))
    rest = heading - quarters * (math.pi / 2)
    k = quarters % 4
    c, s = math.cos(direction), math.sin(direction)
    up_x, up_y = 2 * (x * z + w * y), 2 * (y * z - w * x)
    vx, vy, vz, wx, wy, wz = observation[13:19].tolist()
    for _ in range(k):  # the body's axes are renumbered with its legs
        wx, wy = -wy, wx
    joints, velocities = observation[5:13] * _SIGNS, observation[19:27] * _SIGNS
    features = np.empty(28, np.float32)
    features[:6] = observation[0], c * up_x + s * up_y, c * up_y - s * up_x, 1 - 2 * (x * x + y * y), 0, 0
    features[4:6] = math.cos(rest), math.sin(rest)
    features[6:14] = joints[_TURNED[k]]
    features[14:20] = c * vx + s * vy, c * vy - s * vx, vz, wx, wy, wz
    features[20:] = velocities[_TURNED[k]]
    return features, k


def torques(action: np.ndarray, quarters: int) -> np.ndarray:
    """The action [8] chosen at `goal_features`, in its order of joints, as the ant's torques [8] in the actuators'."""
    return action[_DRIVEN_BY[quarters]] * _ACTUATOR_SIGNS


class AntWaypoint(gym.Env):
    """D4RL's ant on the plane, walking to one waypoint after another; registered as `spot_jax/AntWaypoint-v0`.

    Observations are `goal_features` [28], actions [8] in [-1, 1] are for `torques`. The reward of a step is the
    progress to the waypoint in m/s, clipped above, times 1 - `HEADING_WEIGHT` sin^2(2 heading from the waypoint's
    direction), + 0.2. Only a flipped ant is terminal.
    """

    def __init__(self) -> None:
        path = Path(gymnasium_mujoco.__file__).parent / 'assets' / 'ant.xml'
        self._model = mujoco.MjModel.from_xml_path(str(path))
        as_d4rl(self._model)
        self._data = mujoco.MjData(self._model)
        self._waypoint, self._direction, self._quarters = np.zeros(2), 0.0, 0
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (28,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (8,), np.float32)

    def _observe(self) -> np.ndarray:
        observation = np.concatenate([self._data.qpos[2:], self._data.qvel])
        features, self._quarters = goal_features(observation, bearing(self._data.qpos[:2], self._waypoint))
        return features

    def _move_waypoint(self) -> None:
        turn = self.np_random.uniform(-np.pi, np.pi)
        if self.np_random.random() < AS_IN_MAZES:
            turn = self.np_random.integers(4) * np.pi / 2 + 0.2 * self.np_random.normal()
        self._direction += turn
        offset = np.array([np.cos(self._direction), np.sin(self._direction)])
        self._waypoint = self._data.qpos[:2] + self.np_random.uniform(1, 8) * offset

    def _distance(self) -> float:
        return float(np.hypot(*(self._waypoint - self._data.qpos[:2])))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Half of the episodes start as the mazes do, with all joints at zero, the others standing; see gymnasium."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self._model, self._data)
        if self.np_random.random() < 0.5:
            self._data.qpos[2] = 0.55
            self._data.qpos[8::2] = _SIGNS[1::2]
            self._data.qpos[7:] += self.np_random.uniform(-0.1, 0.1, 8)
            self._data.qvel[:] = 0.1 * self.np_random.normal(size=14)
        self._direction = self.np_random.uniform(-np.pi, np.pi)
        self._data.qpos[3:7] = np.cos(self._direction / 2), 0, 0, np.sin(self._direction / 2)
        mujoco.mj_forward(self._model, self._data)
        self._move_waypoint()
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See gymnasium."""
        action = np.clip(action, -1, 1)
        before = self._distance()
        self._data.ctrl[:] = torques(action, self._quarters)
        mujoco.mj_step(self._model, self._data, ANT_FRAME_SKIP)
        distance = self._distance()
        progress = (before - distance) / ANT_TIME_STEP
        observation = self._observe()
        cosine, sine = observation[4:6].tolist()
        progress = min(progress, MAX_SPEED) * (1 - HEADING_WEIGHT * (2 * sine * cosine) ** 2)
        reward = progress + 0.2
        if distance < WAYPOINT_RADIUS:
            self._move_waypoint()
            observation = self._observe()
        flipped = up(self._data.qpos[2:]) < UPRIGHT
        return observation, reward, flipped, False, {}


gym.register('spot_jax/AntWaypoint-v0', 'spot_jax.behavior.ant:AntWaypoint', max_episode_steps=300)
