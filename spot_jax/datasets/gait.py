"""How an ant moves in a maze's dataset: what a policy must find there, whether it turns, stands or has fallen over."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spot_jax.acting.environments import GOAL_RADIUS

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
SLOW = 0.26  # m/s
BINS = 24  # of headings


class Gait(NamedTuple):
    """Of an episode of T steps, at the state that each one starts in."""

    speed: np.ndarray  # [T] horizontal, m/s
    heading: np.ndarray  # [T] bins of the torso's turn about the vertical
    place: np.ndarray  # [T, 2] squares of a metre
    fallen: np.ndarray  # [T] whether it is upside down
    reached: bool | None  # its own goal; None if that is not recorded


def gait(episode: Any) -> Gait | None:
    """What a Minari episode's `infos` tell of an ant; None if they hold no ant's `qpos` and `qvel`."""
    infos = episode.infos if isinstance(episode.infos, Mapping) else {}
    qpos, qvel = (np.asarray(infos.get(name, ())) for name in ('qpos', 'qvel'))
    if qpos.shape[1:] != (15,) or qvel.shape[1:] != (14,) or not len(qpos) == len(qvel) > len(episode.actions):
        return None
    goal, steps = np.asarray(infos.get('goal', ())), len(episode.actions)
    known = goal.ndim == 2 and goal.shape[1] == 2 and len(goal) > 0
    near = np.linalg.norm(qpos[1:, :2] - goal[0], axis=1) <= GOAL_RADIUS if known else None
    w, x, y, z = qpos[:steps, 3:7].T
    turn = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y**2 + z**2)) / (2 * np.pi)
    return Gait(
        np.linalg.norm(qvel[:steps, :2], axis=1),
        np.floor(BINS * turn).astype(int) % BINS,
        np.floor(qpos[:steps, :2]).astype(int),
        x**2 + y**2 > 0.5,
        None if near is None else bool(near.any()),
    )


def entropy(counts: np.ndarray) -> np.ndarray:
    """In nats, of each row of counts `[..., K]`."""
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    return -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), -1)


def heading_entropy(heading: np.ndarray, place: np.ndarray) -> tuple[float, float]:
    """The headings' entropy in nats, of all steps and at a place: the mean over the steps of that at their place."""
    _, where = np.unique(place, axis=0, return_inverse=True)
    counts = np.zeros((where.max() + 1, BINS))
    np.add.at(counts, (where.ravel(), heading), 1)
    return float(entropy(counts.sum(0))), float(np.average(entropy(counts), weights=counts.sum(1)))


def describe_gait(gaits: Sequence[Gait | None]) -> list[str]:
    """The ant's gait in words; none unless every episode tells of it."""
    found = [g for g in gaits if g is not None]
    if len(found) < len(gaits) or not sum(len(g.speed) for g in found):
        return []
    speed, heading, place, fallen = (np.concatenate(values) for values in list(zip(*found, strict=True))[:4])
    names = ', '.join(f'{100 * q:g}' for q in QUANTILES)
    speeds = ', '.join(f'{q:.2f}' for q in np.quantile(speed, QUANTILES))
    overall, local = heading_entropy(heading, place)
    lines = [
        f'speed in m/s: quantiles {names}%: {speeds}; slower than {SLOW}: {100 * np.mean(speed < SLOW):.1f}%',
        f"heading's entropy of {np.log(BINS):.2f} nats: {overall:.2f}, at a place (1 m²) {local:.2f}",
        f'upside down: {100 * fallen.mean():.1f}%',
    ]
    reached = [g.reached for g in found if g.reached is not None]
    return [*lines, *([f'episodes that reach their own goal: {100 * np.mean(reached):.1f}%'] if reached else [])]
