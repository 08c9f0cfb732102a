"""How raw observations become the networks', and their actions the environment's."""

from typing import NamedTuple

import numpy as np


def finite(unit: np.ndarray) -> np.ndarray:
    """Actions in [-1, 1] with 0 where those of a member that has diverged are NaN, which environments fail at."""
    return np.nan_to_num(unit, posinf=1, neginf=-1)


class Scaling(NamedTuple):
    """How raw observations become the network's, and its actions the environment's."""

    mean: np.ndarray  # [O]
    std: np.ndarray  # [O], with the 1e-3 already added
    action_low: np.ndarray  # [A]
    action_high: np.ndarray  # [A]

    def normalized(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `[..., O]` as the networks see them."""
        return ((observations - self.mean) / self.std).astype(np.float32)

    def bounded(self, unit: np.ndarray) -> np.ndarray:
        """Actions `[..., A]` in [-1, 1] as the environment takes them, also after rounding within its bounds."""
        actions = self.action_low + (finite(unit) + 1) / 2 * (self.action_high - self.action_low)
        return np.clip(actions, self.action_low, self.action_high)
