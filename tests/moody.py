"""A small environment that misbehaves, in a file of its own: the processes that import it start quickly."""

import time
from functools import partial

import gymnasium as gym
import numpy as np

FOREVER = 10**6  # seconds
OBSERVATION = np.zeros(2, np.float32)
hang = partial(time.sleep, FOREVER)


class Moody(gym.Env):
    """It does what `mood` says where `place` says: in its constructor, reset, step or close."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, place, mood):
        self.place, self.mood, self.n = place, mood, 0
        self.at('constructor')

    def at(self, place):
        if place == self.place:
            self.mood()

    def reset(self, *, seed=None, options=None):
        self.n = 0
        self.at('reset')
        return OBSERVATION, {}

    def step(self, action):
        self.n += 1
        self.at('step')
        return OBSERVATION, 1.0, self.n == 3, False, {}

    def close(self):
        self.at('close')
