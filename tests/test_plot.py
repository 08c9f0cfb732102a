"""Pictures of runs: what the curves say, where the walls are, and the whole command."""

import csv
import io
import json
import os
import shutil

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from PIL import Image, ImageColor

from spot_jax import evaluate, plot
from spot_jax.acting import environments
from spot_jax.acting.tasks import TASKS, Reference
from spot_jax.data.load import Selection
from spot_jax.data.positions import visited
from spot_jax.methods.spot import Hyperparameters
from spot_jax.pictures import curves, mazes, style
from spot_jax.system.errors import InputError

RETURN, SUCCESS = 'evaluation/return', 'evaluation/success_rate'


def rows(text):
    """Rows of metrics.csv from columns step, seed, weight, return, q; the other hyperparameters are 1."""
    common = dict.fromkeys(Hyperparameters._fields, '1.0') | {SUCCESS: ''}
    fields = ['gradient_steps', 'seed', 'regularizer_weight', RETURN, 'training/q']
    return [common | row for row in csv.DictReader(text.split(), fields)]


def check(curve, label, steps, mean, low, high, stopped=()):
    assert curve.label == label
    np.testing.assert_array_equal(curve.steps, steps)
    np.testing.assert_allclose([curve.mean, curve.low, curve.high], [mean, low, high])
    np.testing.assert_allclose(curve.stopped, np.reshape(stopped, (-1, 2)))


def test_mean_and_range_of_two_seeds_without_empty_cells():
    table = rows('10,0,1,,5  10,1,1,,7  10,0,1,2,  10,1,1,4,  20,0,1,3,  20,1,1,-1,')
    (curve,) = curves.learning_curves(table, RETURN)
    check(curve, '', [10, 20], [3, 1], [2, -1], [4, 3])
    assert curve.num_seeds == 2
    (curve,) = curves.learning_curves(table, 'training/q', 'a run')
    check(curve, 'a run', [10], [6], [5], [7])


def test_grid_gives_a_curve_per_setting():
    table = rows('10,0,0.1,1,  10,0,2.0,5,  10,1,0.1,3,  10,1,2.0,6,')
    first, second = curves.learning_curves(table, RETURN, 'umaze')
    check(first, 'umaze, regularizer_weight=0.1', [10], [2], [1], [3])
    check(second, 'umaze, regularizer_weight=2', [10], [5.5], [5], [6])


def test_where_fine_tuning_begins():
    table = rows('10,0,1,1,  20,0,1,2,  20,0,1,2,  30,0,1,4,')
    for row, phase in zip(table, ['offline', 'offline', 'online', 'online'], strict=True):
        row['phase'] = phase
    (curve,) = curves.learning_curves(table, RETURN)
    assert curve.online_from == 20
    assert curves.learning_curves(table[2:], RETURN)[0].online_from is None  # it begins there
    figure = curves.draw_curves([curve], RETURN, '')
    assert [20, 20] in [list(line.get_xdata()) for line in figure.axes[0].lines]
    assert 'fine-tuning begins' in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_metric_of_a_stage_and_of_the_policy_is_the_policys():
    """As `training/q_magnitude` of Onestep: both count their steps from 0."""
    table = rows('10,0,1,1,  20,0,1,2,  10,0,1,7,  20,0,1,8,')
    for row, phase in zip(table, ['critic', 'critic', 'offline', 'offline'], strict=True):
        row['phase'] = phase
    (curve,) = curves.learning_curves(table, RETURN)
    check(curve, '', [10, 20], [7, 8], [7, 8], [7, 8])
    (curve,) = curves.learning_curves(table[:2], RETURN)
    check(curve, '', [10, 20], [1, 2], [1, 2], [1, 2])


def test_a_label_has_one_colour_in_all_pictures_of_a_report():
    order = [f'method {i}' for i in range(7)]
    assert style.line_style(0, 'method 5', order) == style.line_style(3, 'method 5', order) == style.line_style(5)
    assert style.line_style(0, 'method 5', [*order, 'one more']) == style.line_style(0)  # too many for the colours
    assert style.line_style(4, 'another', order) == style.line_style(4)


def test_diverged_seed_counts_until_it_stopped():
    # Seed 1 stops at step 14: all its later evaluations are of that step.
    table = rows('10,0,1,2, 10,1,1,4,  20,0,1,3, 14,1,1,9,  30,0,1,5, 14,1,1,9,')
    (curve,) = curves.learning_curves(table, RETURN)
    check(curve, '', [10, 20, 30], [3, 3, 5], [2, 3, 5], [4, 3, 5], [14, 9])
    assert curve.num_seeds == 2


def test_diverged_setting_ends_where_its_last_seed_stopped():
    table = rows('10,0,1,2, 10,0,3,1, 10,1,3,2,  20,0,1,3, 20,0,3,4, 14,1,3,9,  30,0,1,5, 26,0,3,7, 14,1,3,9,')
    _, curve = curves.learning_curves(table, RETURN)
    check(curve, 'regularizer_weight=3', [10, 20, 26], [1.5, 4, 7], [1, 4, 7], [2, 4, 7], [[26, 7], [14, 9]])


def test_default_metric_is_one_that_every_run_has():
    both, only_return = rows('10,0,1,2,5'), rows('10,0,1,3,')
    both[0][SUCCESS] = '0.5'
    assert curves.choose_metric([both], None) == SUCCESS
    assert curves.choose_metric([both, only_return], None) == RETURN
    assert curves.choose_metric([both], 'training/q') == 'training/q'
    with pytest.raises(InputError, match=r'--metric=training/q: .*: evaluation/return$'):
        curves.choose_metric([both, only_return], 'training/q')
    with pytest.raises(InputError, match=r'no metric of evaluations: .*: training/q$'):
        curves.choose_metric([rows('10,0,1,,5')], None)


def test_walls_lie_on_the_cells_of_the_maze():
    env = environments.make(gym.spec('spot_jax/PointMaze-Large-v0'), TASKS['pointmaze'])
    maze = env.unwrapped.maze
    cells = [(i, j) for i, row in enumerate(maze.maze_map) for j, cell in enumerate(row) if cell == 1]
    centres = mazes.wall_corners(maze) + maze.maze_size_scaling / 2
    np.testing.assert_allclose(centres, [maze.cell_rowcol_to_xy(cell) for cell in cells])
    env.close()


def test_command(finished, tmp_path, capsys):
    command = [str(finished), f'--output={tmp_path / "a" / "b"}', '--episodes=3']
    assert plot.main(command) == 0
    paths = [tmp_path / 'a' / 'b' / name for name in ('learning_curves.png', 'rollouts.png')]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    assert sorted(paths[0].parent.iterdir()) == paths
    for path in paths:
        assert path.stat().st_size < 150_000
        with Image.open(path) as image:
            assert image.format == 'PNG'
            assert min(image.size) > 500
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(b'mine')
    assert plot.main(command) == 2
    assert capsys.readouterr().err == f'error: {paths[0]} exists: give --overwrite, or another --output\n'
    assert [path.read_bytes() for path in paths] == [b'mine', b'mine']
    assert plot.main([*command, '--overwrite']) == 0
    assert [path.read_bytes() for path in paths] == before


def test_rollouts_are_the_episodes_of_evaluate(finished, monkeypatch, capsys):
    run = plot.read_run(finished, 'tiny')
    recorded = json.loads((finished / 'results.json').read_text())['members'][1]['evaluation']['lengths']
    with monkeypatch.context() as patch:
        patch.setattr(plot, 'EVALUATION_SEED', 10_000)  # the run's own
        assert [len(path) - 1 for path in plot.roll_out(run, 1, len(recorded)).paths] == recorded
    played = plot.roll_out(run, 1, 12)
    assert evaluate.main([str(finished), '--episodes=12', '--member=1']) == 0
    lengths = [len(path) - 1 for path in played.paths]
    words = f'length {np.mean(lengths):.1f}, success_rate {played.reached.mean():.2f}'
    assert words in capsys.readouterr().out
    outcome = f'{played.reached.sum()} of 12 episodes reach the goal'
    outside = f'{mazes.share_outside(played):.0%} of steps outside the data'
    assert played.title == f'tiny, seed 1\n{outcome}\n{outside}'
    starts = np.array([path[0] for path in played.paths])
    assert np.abs(starts - played.maze.cell_rowcol_to_xy((1, 1))).max() <= 0.25  # the reset's jitter
    assert len(np.unique(starts, axis=0)) == 12
    np.testing.assert_allclose(played.goals, np.tile(played.maze.cell_rowcol_to_xy((3, 1)), (12, 1)))
    for number in (1, 2, 4):
        figure = mazes.draw_rollouts([played] * number)
        style.png(figure)
        assert all(axes.title.get_window_extent().y1 < figure.bbox.height for axes in figure.axes)


def test_the_data_lie_behind_the_paths(finished):
    run = plot.read_run(finished, 'tiny')
    played = plot.roll_out(run, 0, 2)
    episodes = minari.load_dataset(run.dataset_id).iterate_episodes()
    np.testing.assert_array_equal(played.visited, np.concatenate([e.observations['achieved_goal'] for e in episodes]))
    centre = played.maze.x_map_center, played.maze.y_map_center
    played = played._replace(visited=np.array([[0.01, 0.01], [0.02, 0.02], [-0.01, 0.01]]))
    (mesh,) = [c for c in mazes.draw_rollouts([played]).axes[0].collections if isinstance(c, QuadMesh)]
    counts = np.ma.filled(mesh.get_array(), 0)  # [rows of y, columns of x]
    row, column = (round(c * mazes.BINS / played.maze.maze_size_scaling) for c in centre[::-1])
    assert (counts.sum(), counts[row, column], counts[row, column - 1]) == (3, 2, 1)
    played = played._replace(paths=[np.array([[0.015, 0.03], [0.06, 0.01]]), np.array([[-0.04, 0.04]])])
    assert mazes.share_outside(played) == pytest.approx(1 / 3)
    without = mazes.draw_rollouts([played._replace(visited=None, title='a run in c$\\_$d')])
    style.png(without)
    assert not any(isinstance(c, QuadMesh) for c in without.axes[0].collections)
    with pytest.raises(InputError, match='spot_jax/pointmaze/none-v0 is not in '):
        visited('spot_jax/pointmaze/none-v0')


def test_data_of_chosen_episodes_are_shown_alone(finished):
    """As %BC learns from: the best episodes, whose number of transitions is checked, too."""
    run = plot.read_run(finished, 'tiny')
    episodes = list(minari.load_dataset(run.dataset_id).iterate_episodes())
    best = sorted(sorted(range(len(episodes)), key=lambda i: -episodes[i].rewards.sum())[: len(episodes) // 2])
    half = Selection(best_percent=100 * len(best) / len(episodes))
    expected = np.concatenate([episodes[i].observations['achieved_goal'] for i in best])
    steps = sum(len(episodes[i].rewards) for i in best)
    assert steps < run.transitions
    np.testing.assert_array_equal(visited(run.dataset_id, steps, half), expected)
    with pytest.raises(InputError, match=f'other data than it learned from: {steps} transitions'):
        visited(run.dataset_id, run.transitions, half)


def test_pictures_in_256_colours_keep_rare_ones():
    """A few thin lines before shades of one colour, as the paths in a maze."""
    figure, axes = style.sheet()
    axes.imshow(np.linspace(0, 1, 250_000).reshape(500, 500), cmap=mazes.DATA, extent=(0, 100, 0, 100))
    for i, color in enumerate(style.COLORS):
        axes.plot([0, 100], [13 * i, 14 * i], color=color, linewidth=0.8, alpha=0.7)
        axes.plot([0, 5], [13 * i, 14 * i], color=color, linewidth=1.5, label=str(i))
    style.legend(figure, axes.get_legend_handles_labels()[0], 7)
    full = io.BytesIO()
    figure.savefig(full, format='png', dpi=150)
    expected = np.array(Image.open(full).convert('RGB')).astype(int)
    found = np.array(Image.open(io.BytesIO(style.png(figure))).convert('RGB')).astype(int)
    distance = np.linalg.norm(found - expected, axis=-1)
    assert distance.max() < 25  # of 441; 39 by median cut alone
    assert distance.mean() < 1
    for color in [*style.COLORS, '#ffffff']:
        exact = np.all(expected == ImageColor.getrgb(color), axis=-1)
        assert exact.any()
        np.testing.assert_array_equal(found[exact], expected[exact])


def test_damaged_data_are_told_of_and_left_out(finished, tmp_path, monkeypatch, capsys):
    """The policy is played where the results say; a picture has the data's places only if it learned from these."""
    run = plot.read_run(finished, 'tiny')
    shutil.copytree(os.environ['MINARI_DATASETS_PATH'], tmp_path / 'datasets')
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'datasets'))
    folder = tmp_path / 'datasets' / run.dataset_id
    visited(run.dataset_id, run.transitions)
    with pytest.raises(InputError, match=f'other data than it learned from: {run.transitions} transitions, not 7'):
        visited(run.dataset_id, 7)

    def refused(words):
        with pytest.raises(InputError, match=words):
            visited(run.dataset_id)

    file = folder / 'data' / 'main_data.hdf5'
    with h5py.File(file, 'r+') as data:
        del data['episode_0/observations']
    refused(f'{run.dataset_id} cannot be read: ')
    file.write_bytes(file.read_bytes()[:2000])
    refused('is damaged')
    assert evaluate.main([str(finished), '--episodes=2']) == 0
    assert capsys.readouterr().err.startswith("played where the run's results say: ")
    assert plot.main([str(finished), '--episodes=2', f'--output={tmp_path / "pictures"}']) == 0
    _, line = capsys.readouterr().err.splitlines()
    assert line.startswith('rollouts.png does not show where the data have been: ')
    assert (tmp_path / 'pictures' / 'rollouts.png').exists()


def test_an_older_run_without_its_number_of_transitions_keeps_its_reference(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / 'older')
    results = json.loads((copy / 'results.json').read_text())
    del results['dataset_transitions']
    results['reference_returns'] = {'random': 1.0, 'expert': 2.0, 'source': 'here'}
    (copy / 'results.json').write_text(json.dumps(results))
    run = plot.read_run(copy, 'older')
    assert (run.reference, run.transitions) == (str(Reference(1.0, 2.0, 'here')), None)


def test_unfinished_run_beside_a_finished_one(finished, tmp_path, capsys):
    unfinished = tmp_path / 'unfinished'
    unfinished.mkdir()
    shutil.copy(finished / 'config.json', unfinished)
    text = (finished / 'metrics.csv').read_text()
    (unfinished / 'metrics.csv').write_text(text[: text.rindex('offline') + 20])  # cut off within a line
    assert plot.main([str(unfinished), str(finished), '--episodes=2', f'--metric={SUCCESS}']) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.splitlines()[-1].startswith('unfinished is not in rollouts.png: the run in ')
    assert (unfinished / 'plots' / 'rollouts.png').exists()


def test_run_without_a_policy_has_learning_curves_only(finished, tmp_path, capsys):
    run = tmp_path / 'run'
    run.mkdir()
    shutil.copy(finished / 'config.json', run)
    lines = (finished / 'metrics.csv').read_text().splitlines(keepends=True)
    (run / 'metrics.csv').write_text(''.join(line for line in lines if not line.startswith('offline')))
    assert plot.main([str(run)]) == 2
    assert 'no metric of evaluations: choose a --metric' in capsys.readouterr().err
    assert not (run / 'plots').exists()
    assert plot.main([str(run), '--metric=training/cvae_loss']) == 0
    assert [path.name for path in (run / 'plots').iterdir()] == ['learning_curves.png']


def test_a_finished_run_without_its_checkpoints(finished, tmp_path, capsys):
    run = tmp_path / 'run'
    run.mkdir()
    for name in ('config.json', 'metrics.csv', 'results.json'):
        shutil.copy(finished / name, run)
    assert evaluate.main([str(run)]) == 2
    assert capsys.readouterr().err == (
        f'error: the run in {run} has ended, but its checkpoints are not there: put them back\n'
    )


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--metric=q'], '--metric=q: choose a --metric that every run has values of: training/cvae_loss, '),
        (['--member=2'], 'has members 0 to 1'),
        (['--episodes=0'], "--episodes: '0' is not a whole number from 1 to 1000000"),
        (['nowhere'], 'nowhere is no run: it has no config.json'),
        (['empty'], 'empty has no metrics yet'),
        (['damaged'], 'cannot read damaged/config.json'),
        (['torn'], 'torn/metrics.csv is damaged'),
        (['endless'], 'endless/metrics.csv is damaged: 1e+30 gradient steps'),
        (['--output=empty/config.json/x'], 'cannot write in empty/config.json: give another --output'),
    ],
)
def test_bad_command_is_one_line_and_status_2(finished, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name in ('empty', 'damaged', 'torn', 'endless'):
        (tmp_path / name).mkdir()
        shutil.copy(finished / 'config.json', name)
    (tmp_path / 'damaged' / 'config.json').write_text(json.dumps({'seeds': 1})[:-1])
    text = (finished / 'metrics.csv').read_text()
    phase, _, *rest = text.splitlines()[-1].split(',')
    (tmp_path / 'endless' / 'metrics.csv').write_text(text + ','.join([phase, str(10**30), *rest]) + '\n')
    (tmp_path / 'torn' / 'metrics.csv').write_text(text + text.splitlines()[-1].replace('0.0003', 'x') + '\n')
    assert plot.main(['--episodes=1', *arguments, str(finished)]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert words in err
    assert not (finished / 'plots').exists()
    assert not list(tmp_path.rglob('*.png'))
