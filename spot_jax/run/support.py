"""What SPOT is about: whether a policy's actions lie where the data's do, by the density that the run has learned."""

from pathlib import Path
from typing import Any

import numpy as np

from spot_jax.acting.scaling import Scaling
from spot_jax.acting.tasks import task_of
from spot_jax.data.load import load
from spot_jax.pictures.densities import Densities, Slice
from spot_jax.recipes import provide
from spot_jax.run import policy, scoring
from spot_jax.run.build import selection_of
from spot_jax.run.scoring import LogProb
from spot_jax.run.workdir import read_config, read_run
from spot_jax.system.errors import InputError

STATES = 1000  # of the data, that histograms are of
SLICES = 2  # states whose actions are shown
GRID = 41  # values of each of a slice's two dimensions
BATCH = 1024


def _scored(log_prob: LogProb, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Log-densities [N] in nats, a batch at a time: each row takes as many decoded samples."""
    wrapped = np.arange(-(-len(actions) // BATCH) * BATCH) % len(actions)  # full batches: compiled once
    parts = [log_prob(observations[rows], actions[rows]) for rows in wrapped.reshape(-1, BATCH)]
    return np.concatenate(parts)[: len(actions)]


def _slice(
    log_prob: LogProb, scaling: Scaling, title: str, observation: np.ndarray, acted: dict[str, np.ndarray]
) -> Slice:
    """The actions that differ from the trained policy's in the first two dimensions; `acted` are those there [A]."""
    bounds = [(float(scaling.action_low[i]), float(scaling.action_high[i])) for i in (0, 1)]
    actions = np.tile(acted['policy after training'], (GRID, GRID, 1))
    actions[..., 0], actions[..., 1] = np.meshgrid(*(np.linspace(*pair, GRID) for pair in bounds))
    actions = actions.reshape(GRID * GRID, -1)
    values = _scored(log_prob, np.tile(observation, (len(actions), 1)), actions).reshape(GRID, GRID)
    if actions.shape[1] > 2:  # the others differ in the rest, too: they are not in this slice
        acted = {name: action for name, action in acted.items() if name == 'policy after training'}
        title += ',\nthe other dimensions as the policy has them'
    margins = [(high - low) / (GRID - 1) / 2 for low, high in bounds]
    (left, right), (bottom, top) = ((pair[0] - m, pair[1] + m) for pair, m in zip(bounds, margins, strict=True))
    return Slice(title, (left, right, bottom, top), values, {name: action[:2] for name, action in acted.items()})


def densities(workdir: Path, label: str, member: int = 0, seed: int = 0) -> Densities:
    """Log-densities, under a member's CVAE, of actions in states of the data: theirs, random ones, and its policy's.

    The policy's before training are those of the same seed's initial weights. Raises InputError if there is no such
    run, member, CVAE or dataset.
    """
    log_prob = scoring.load(workdir, member)
    raw, state = read_run(workdir)
    config, scaling = read_config(workdir), Scaling(**state['scaling'])
    provide(config.dataset_id)
    dataset = load(config.dataset_id, task_of(config), config.clip_actions, selection_of(config))
    if dataset.sha256 != state['sha256']:
        raise InputError(f'{config.dataset_id} is other data than the run in {workdir} learned from')
    rng = np.random.default_rng(seed)
    rows = dataset.transitions[rng.integers(len(dataset.transitions), size=STATES)]
    observations, taken = (
        rows[:, : dataset.observation_dim],
        rows[:, dataset.observation_dim :][:, : dataset.action_dim],
    )

    def acted(checkpoint: dict[str, Any]) -> np.ndarray:
        act = policy.players(raw, checkpoint, [member])
        return act(observations[None], np.zeros((1, STATES)), np.ones((1, STATES), bool))[0]

    actions = {
        'dataset': scaling.bounded(taken),
        'random': scaling.bounded(rng.uniform(-1, 1, taken.shape)),
        'policy before training': acted(policy.untrained(config, state)),
        'policy after training': acted(state),
    }
    slices = []
    for i in range(SLICES if dataset.action_dim > 1 else 0):
        title = f'at state {i + 1} of the data'
        if task_of(config).is_maze:
            title = 'at x = {:.2f} m, y = {:.2f} m'.format(*observations[i])
        there = {name: action[i] for name, action in actions.items() if name != 'random'}
        slices.append(_slice(log_prob, scaling, title, observations[i], there))
    values = {name: _scored(log_prob, observations, action) for name, action in actions.items()}
    return Densities(label, values, slices)
