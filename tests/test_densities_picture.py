"""The picture of how likely the data's policy is to take actions: whose they are, where they are, what is drawn."""

import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny import ID

from spot_jax import plot
from spot_jax.acting.scaling import Scaling
from spot_jax.acting.tasks import TASKS
from spot_jax.data.load import load
from spot_jax.pictures.densities import Densities, draw_densities, histogram
from spot_jax.pictures.style import png
from spot_jax.population import program
from spot_jax.run import policy, scoring, support
from spot_jax.run.config import members
from spot_jax.run.workdir import read_run
from spot_jax.system.errors import InputError


def test_histogram_by_hand():
    spread, narrow = np.arange(0.0, 201), np.array([200.0, 200, 101, 1])
    edges, shares = histogram({'spread': spread, 'narrow': narrow}, bins=2)
    np.testing.assert_allclose(edges, [2, 101, 200])  # of 201 values, 2 (1%) lie below
    np.testing.assert_allclose(shares['spread'] * 99, [101 / 201, 100 / 201])  # 0 and 1 are counted, too
    np.testing.assert_allclose(shares['narrow'] * 99, [1 / 4, 3 / 4])


def test_other_data_are_refused(finished, monkeypatch):
    """Of as many numbers, but not those that the run learned from."""
    monkeypatch.setattr(scoring, 'load', lambda workdir, member: None)
    loaded = support.load
    monkeypatch.setattr(support, 'load', lambda *arguments: loaded(*arguments)._replace(sha256='0' * 64))
    with pytest.raises(InputError, match=f'^{ID} is other data than the run in .* learned from$'):
        support.densities(finished, 'tiny')


def test_what_is_scored(finished, monkeypatch):
    """A density that is known, -a₀² - 3a₁, of the data's, the policy's and random actions in the same states."""
    asked = []

    def log_prob(observations, actions):
        asked.append((observations, actions))
        return -(actions[:, 0] ** 2) - 3 * actions[:, 1]

    monkeypatch.setattr(scoring, 'load', lambda workdir, member: log_prob)
    found = support.densities(finished, 'tiny', member=1)
    rows = load(ID, TASKS['pointmaze']).transitions[:, :6]
    kinds = ('dataset', 'random', 'policy before training', 'policy after training')
    assert tuple(found.log_prob) == kinds
    scored = {name: asked[i - 4][1][: support.STATES] for i, name in enumerate(kinds)}  # after those of the slices
    observations = asked[-1][0][: support.STATES]
    pairs = np.concatenate([observations, scored['dataset']], axis=1).astype(np.float32)
    known = {row.tobytes() for row in rows.astype(np.float32)}
    assert sum(pair.tobytes() in known for pair in pairs) > 0.99 * len(pairs)  # the rest differ by rounding
    assert np.abs(scored['random'].mean(0)).max() < 0.1
    np.testing.assert_allclose(scored['random'].var(0), 1 / 3, atol=0.03)
    np.testing.assert_allclose(scored['policy after training'], policy.load(finished, 1)(observations), atol=1e-6)
    assert np.abs(scored['policy before training'] - scored['policy after training']).max() > 0.01
    for name in kinds:
        actions = scored[name]
        np.testing.assert_allclose(found.log_prob[name], -(actions[:, 0] ** 2) - 3 * actions[:, 1])
    values = np.linspace(-1, 1, support.GRID)
    for i, part in enumerate(found.slices):
        assert part.title == f'at x = {observations[i, 0]:.2f} m, y = {observations[i, 1]:.2f} m'
        np.testing.assert_allclose(part.log_prob, -(values[None] ** 2) - 3 * values[:, None], atol=1e-6)
        np.testing.assert_allclose(part.extent, [-1.025, 1.025, -1.025, 1.025])
        assert set(part.marks) == {*kinds} - {'random'}
        np.testing.assert_allclose(part.marks['policy before training'], scored['policy before training'][i])


def test_before_training_are_the_weights_of_the_members_own_seed(finished):
    config, state = read_run(finished)
    config = ConfigDict(config)
    _, algorithm, begun = policy.trained(config, policy.untrained(config, state))
    alone = members(ConfigDict({**config, 'seeds': (1,)}))
    expected = program.init_policies(alone.seeds(), 1, algorithm).learner
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), begun, expected)


def test_slice_of_more_dimensions_keeps_the_rest_as_the_policy_has_them():
    scaling = Scaling(np.zeros(1), np.ones(1), np.array([-1.0, 0, 0]), np.array([1.0, 4, 9]))
    acted = {'dataset': np.array([0.5, 1, 2]), 'policy after training': np.array([-0.5, 3, 7])}
    part = support._slice(lambda o, a: a @ [1, 10, 100] + o[:, 0], scaling, 'here', np.array([1000.0]), acted)
    first, second = np.linspace(-1, 1, support.GRID), np.linspace(0, 4, support.GRID)
    np.testing.assert_allclose(part.log_prob, 1700 + first[None] + 10 * second[:, None])
    assert list(part.marks) == ['policy after training']
    np.testing.assert_array_equal(part.marks['policy after training'], [-0.5, 3])
    one = Densities('one dimension: $', {'dataset': np.zeros(3), 'random': np.array([-1.0, 2, 0])}, [])
    for runs in ([Densities('three', one.log_prob, [part])], [one], [one, Densities('three', one.log_prob, [part])]):
        figure = draw_densities(runs)
        png(figure)
        assert all(axes.get_xlabel() or axes.get_ylabel() == 'log-density (nats)' for axes in figure.axes)


def test_command(finished, tmp_path, capsys):
    command = [str(finished), '--density', f'--output={tmp_path / "new"}']
    assert plot.main(command) == 0
    path = tmp_path / 'new' / 'densities.png'
    assert capsys.readouterr().out == f'{path}\n'
    assert [*path.parent.iterdir()] == [path]
    assert path.stat().st_size < 150_000
    with Image.open(path) as image:
        assert image.format == 'PNG'
        assert min(image.size) > 500
    path.write_bytes(b'mine')
    assert plot.main(command) == 2
    assert capsys.readouterr().err == f'error: {path} exists: give --overwrite, or another --output\n'
    assert path.read_bytes() == b'mine'
    assert plot.main([*command, '--member=2', '--overwrite']) == 2
    assert 'has members 0 to 1' in capsys.readouterr().err


def test_a_run_without_a_checkpoint_is_told_of(finished, tmp_path, capsys):
    run = tmp_path / 'run'
    run.mkdir()
    for name in ('config.json', 'metrics.csv'):
        shutil.copy(finished / name, run)
    assert plot.main([str(run), '--density']) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert str(run) in err
    assert not (run / 'plots').exists()
