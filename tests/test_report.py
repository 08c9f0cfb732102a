"""The report over made-up runs: what is in its tables, what is not compared, and that it says so."""

import csv
import json
import os
import re
import shlex
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up import make_run, results_of
from tiny import tiny

from spot_jax import main
from spot_jax.report import __main__ as report
from spot_jax.report import runs as runs_of_report
from spot_jax.report import scores, tables, tuning
from spot_jax.report.collect import collect
from spot_jax.report.compare import compare
from spot_jax.report.rows import Row
from spot_jax.report.runs import command, run_table
from spot_jax.run.config import lookup
from spot_jax.run.effects import read_paths

UMAZE, MEDIUM = 'spot_jax/pointmaze/umaze-v0', 'spot_jax/pointmaze/medium-v0'


def rows_of(*folders):
    collected = collect(folders)
    rows, problems = compare(collected)
    return rows, [*collected.problems, *problems]


@pytest.fixture
def runs(tmp_path):
    """Two tasks and three methods; IQL lacks one task, and a seed of BC has diverged on it."""
    top = tmp_path / 'runs'
    make_run(top / 'umaze' / 'spot', [1.0, 0.5])
    make_run(top / 'umaze' / 'bc', [0.0, 0.5], method='bc')
    make_run(top / 'umaze' / 'iql', [1.0, 0.5], method='iql')
    make_run(top / 'medium' / 'spot', [0.5, 0.5], dataset_id=MEDIUM, **{'regularizer.weight': 0.05})
    make_run(top / 'medium' / 'bc', [1.0, 0.5], dataset_id=MEDIUM, method='bc', diverged=[0])
    make_run(top / 'medium' / 'iql', [1.0, 0.5], dataset_id=MEDIUM, method='iql', finished=False)
    return top


def test_scores_are_the_posters_table(runs):
    rows, problems = rows_of(runs)
    assert problems == ['medium/iql is in no table of scores: unfinished: offline 20 of 40']
    table = scores.score_table(rows)
    std = '35.4'  # of 100 and 50: 50 / sqrt(2)
    assert table.columns == ['task', 'BC', 'IQL', 'SPOT']
    assert table.rows == [
        [f'{UMAZE} (success, %)', f'25.0 ± {std}', f'75.0 ± {std}', f'75.0 ± {std}'],
        [f'{MEDIUM} (success, %)', '50.0 (1 of 2 diverged)', '–', '50.0 ± 0.0'],
        ['total', '–', '–', '125.0'],
    ]
    assert table.best == {(0, 2), (0, 3)}  # with the others' cells missing or of some seeds, nothing is best
    assert tables.markdown(table).splitlines()[2] == (
        f'| {UMAZE} (success, %) | 25.0 ± {std} | **75.0 ± {std}** | **75.0 ± {std}** |'
    )
    tex = tables.latex(table)
    assert rf'spot\_jax/pointmaze/umaze-v0 (success, \%) & 25.0 $\pm$ {std} & \textbf{{75.0 $\pm$ {std}}}' in tex
    assert tex.count('\\\\\n') == 4
    assert list(csv.reader(tables.comma_separated(table).splitlines()))[3] == ['total', '–', '–', '125.0']
    over = [(len(tasks), labels) for tasks, labels in scores.common_tasks(rows)]
    assert over == [(1, ['BC', 'IQL', 'SPOT'])]  # on both tasks only SPOT is whole
    aggregates, improvement = scores.aggregates(*scores.common_tasks(rows)[0], '', ['IQL', 'SPOT']).tables
    assert [row[2] for row in aggregates.rows] == ['25.0 [0.0, 50.0]', '75.0 [50.0, 100.0]', '75.0 [50.0, 100.0]']
    assert improvement.rows[2] == ['SPOT', '0.88 [0.50, 1.00]', '0.50 [0.00, 1.00]', '–']  # 3.5 of 4 pairs


def test_what_differs_is_kept_apart(tmp_path):
    make_run(tmp_path / 'a', [1.0, 1.0])
    make_run(tmp_path / 'online', [1.0], **{'online.steps': 40})  # in a table of its own
    make_run(tmp_path / 'longer', [0.5], **{'offline.steps': 60})
    make_run(tmp_path / 'more_episodes', [0.5], **{'evaluation.episodes': 4})
    make_run(tmp_path / 'other_data', [0.5], sha256='e' * 64)
    rows, problems = rows_of(tmp_path)
    assert [row.label for row in rows if row.fine_tuned] == [UMAZE]
    rows = [row for row in rows if not row.fine_tuned]
    assert len(rows) == 4
    assert problems == [f'runs on {UMAZE} differ in data, evaluation.episodes, offline.steps: they are in 4 rows, '
                        'not compared']  # fmt: skip
    assert rows[0].label == f'{UMAZE}, data=dddddddd, evaluation.episodes=2, offline.steps=40'
    assert [len(group.entries) for row in rows for group in row.groups.values()] == [2, 1, 1, 1]
    assert scores.common_tasks(rows) == []
    table = scores.score_table(rows)
    assert len(table.rows) == 4  # and no totals
    assert 'No totals' in table.note


def test_rows_of_one_dataset_are_never_pooled(tmp_path):
    """They have one method in common, of other lengths."""
    for name in ('spot', 'bc'):
        make_run(tmp_path / name, [1.0, 1.0], method=name)
        make_run(tmp_path / 'longer' / name, [0.5, 0.5], method=name, **{'offline.steps': 60})
        make_run(tmp_path / 'medium' / name, [0.0, 0.5], method=name, dataset_id=MEDIUM)
    rows, _ = rows_of(tmp_path)
    table = scores.score_table(rows)
    assert [row[0].split(',')[0] for row in table.rows] == [UMAZE, UMAZE, f'{MEDIUM} (success']
    assert [(len(tasks), labels) for tasks, labels in scores.common_tasks(rows)] == [(1, ['BC', 'SPOT'])]
    assert rows[2] is scores.common_tasks(rows)[0][0][0]


def test_runs_of_one_name_are_told_apart(tmp_path):
    for host, success in (('a', 1.0), ('b', 0.0)):
        make_run(tmp_path / host / 'runs' / 'x', [success], method='bc' if host == 'a' else 'iql')
    make_run(tmp_path / 'a' / 'runs' / 'x' / 'x', [0.5], method='td3_bc')
    rows, problems = rows_of(tmp_path / 'a' / 'runs', tmp_path / 'b' / 'runs')
    assert problems == []
    found = {label: (entry.run.name, entry.policy.scores['success_rate']) for label, group in rows[0].groups.items()
             for entry in group.entries}  # fmt: skip
    assert found == {'BC': ('a/runs/x', 1.0), 'TD3+BC': ('a/runs/x/x', 0.5), 'IQL': ('b/runs/x', 0.0)}
    assert [run.name for run in collect([tmp_path / 'a' / 'runs' / 'x']).runs] == ['x', 'x (2)']  # and x/x
    shutil.copytree(tmp_path / 'a' / 'runs' / 'x', tmp_path / 'c' / 'x')
    _, problems = rows_of(tmp_path / 'a' / 'runs' / 'x', tmp_path / 'c' / 'x')
    assert problems == ['c/x is a copy of runs/x', 'c/x/x is a copy of runs/x/x']


def test_settings_that_read_alike_are_columns_of_their_own(tmp_path):
    near = 0.1 + 1e-16  # the next number after 0.1: both are written 0.1
    assert near != 0.1
    for name, weight in (('a', 0.1), ('b', 0.10000001), ('c', near)):
        make_run(tmp_path / name, [1.0], **{'regularizer.weight': weight})
    make_run(tmp_path / 'd', [0.0], **{'regularizer.weight': 0.1, 'cvae.restore': 'one'})
    make_run(tmp_path / 'e', [0.0], seeds=(1,), **{'regularizer.weight': 0.1, 'cvae.restore': 'other'})
    ((row,), _) = rows_of(tmp_path)
    found = sorted(entry.run.name for group in row.groups.values() for entry in group.entries)
    assert found == ['a', 'b', 'c', 'd', 'e']
    assert len(row.groups) == 5
    assert list(row.groups) == [group.label for group in row.groups.values()]
    assert any(label.endswith('regularizer.weight=0.10000001') for label in row.groups)


def test_environments_made_otherwise_and_older_runs(tmp_path):
    for name, size in (('a', 1), ('b', 2), ('c', None)):
        more = {} if size is None else {'environment': {'max_episode_steps': 9, 'kwargs': {'size': size}}}
        make_run(tmp_path / name, [1.0], seeds=(ord(name),), more=more)
    names = lambda rows: [[e.run.name for g in row.groups.values() for e in g.entries] for row in rows]
    rows, (problem,) = rows_of(tmp_path)
    assert sorted(names(rows)) == [['a'], ['b'], ['c']]
    assert problem.startswith(f'runs on {UMAZE} differ in environment_made_as: they are in 3 rows')
    rows, problems = rows_of(tmp_path / 'a', tmp_path / 'c')
    assert names(rows) == [['a', 'c']]
    assert problems == []


def test_a_score_that_a_run_lacks_is_told_of(tmp_path):
    make_run(tmp_path / 'a', [1.0])
    make_run(tmp_path / 'b', [1.0], method='bc')
    broken(lambda found: found['members'][0]['evaluation'].update(success_rate=None))(tmp_path / 'b')
    (row,), (problem,) = rows_of(tmp_path)
    assert row.metric == 'return'
    assert problem == f'{UMAZE} is compared by return, not success, %: there is none of b'


def test_a_folder_that_cannot_be_read_is_told_of(tmp_path, monkeypatch):
    make_run(tmp_path / 'a', [1.0])
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith('/a'):
            raise PermissionError(13, 'Permission denied', os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    assert collect([tmp_path]).problems == [f'cannot read {tmp_path / "a"}: Permission denied']


def test_a_limit_that_the_environment_has_itself_does_not_keep_runs_apart(tmp_path):
    for name, limit, own in (('a', 1000, 300), ('b', 50, 300), ('c', 50, None), ('d', 1000, None)):
        more = {'environment': {'max_episode_steps': own}}
        make_run(tmp_path / name, [1.0], seeds=(ord(name),), more=more, **{'evaluation.max_episode_steps': limit})
    rows, _ = rows_of(tmp_path)
    found = [[entry.run.name for group in row.groups.values() for entry in group.entries] for row in rows]
    assert sorted(found) == [['a', 'b'], ['c'], ['d']]


def test_what_lacks_a_seed_is_marked_and_never_the_best(tmp_path):
    make_run(tmp_path / 'bc', [1.0, 1.0], method='bc')
    evaluation(returns=None)(tmp_path / 'bc')
    make_run(tmp_path / 'iql', [1.0], method='iql', seeds=(0, 1), part=(0, 2))
    make_run(tmp_path / 'dt', [0.0, 1.0, 1.0], method='dt', diverged=[0])
    evaluation(returns=None)(tmp_path / 'dt')
    make_run(tmp_path / 'awac', [0.5, 0.5], method='awac')
    make_run(tmp_path / 'td3_bc', [0.0, 0.5], method='td3_bc')
    make_run(tmp_path / 'td3_bc' / 'inner', [0.5, 0.0], method='plas')  # below another run
    (row,), problems = rows_of(tmp_path)
    assert problems == []
    table = scores.score_table([row])
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert cells['BC'] == '100.0 (1 of 2 without a score)'
    assert cells['IQL'] == '100.0 (1 of 2 seeds are not there)'
    assert cells['DT'] == '100.0 (1 of 3 diverged, 1 of 3 without a score)'
    assert cells['PLAS'] == '25.0 ± 35.4'
    assert table.best == {(0, table.columns.index('AWAC'))}
    ((_, labels),) = scores.common_tasks([row])
    assert labels == ['AWAC', 'TD3+BC', 'PLAS']
    shown = {row[0]: row[4:] for row in run_table(collect([tmp_path]).runs).rows}
    assert shown['iql'] == ['1', '40', '–', '100.0 (success, %)', 'finished']
    assert shown['dt'][3] == '100.0 (success, %)'  # that of the diverged seed, 0, does not count


def test_only_seeds_that_diverged_have_a_cross(tmp_path):
    """Whatever the lengths of their metrics.csv; one that ends before its run has no curve."""
    make_run(tmp_path / 'a', [0.5, 0.5], diverged=[0, 1])
    make_run(tmp_path / 'b', [0.5, 0.5], seeds=(2, 3))
    (row,), _ = rows_of(tmp_path)
    (curve,) = runs_of_report._curve(row.groups['SPOT'], 'evaluation/success_rate')
    np.testing.assert_array_equal(curve.stopped, [[40, 0.5], [40, 0.5]])
    path = tmp_path / 'b' / 'metrics.csv'
    path.write_text('\n'.join([*path.read_text().splitlines()[:-1], '']))
    _, (problem,) = rows_of(tmp_path)
    assert problem == f'no learning curves of b: {path} ends before the run did'


def test_settings_of_a_method_are_not_averaged_and_seeds_of_one_are(tmp_path):
    make_run(tmp_path / 'grid', [0.0, 1.0, 0.5, 1.0], seeds=(0, 1), **{'grid.regularizer_weight': (0.5, 0.1)})
    make_run(tmp_path / 'more_seeds', [0.5, 1.0], seeds=(1, 2), **{'regularizer.weight': 0.5})
    make_run(tmp_path / 'means', [1.0], seeds=(3,), **{'regularizer.weight': 0.5, 'log_interval': 4, 'bc.actor_lr': 1})
    (row,), _ = rows_of(tmp_path / 'grid')
    assert list(row.compared) == ['SPOT, regularizer.weight=0.1', 'SPOT, regularizer.weight=0.5']
    (row,), problems = rows_of(tmp_path)
    assert list(row.groups) == ['SPOT, regularizer.weight=0.1', 'SPOT']  # the others' setting stands for the method
    assert list(row.compared) == ['SPOT']
    np.testing.assert_array_equal(row.groups['SPOT, regularizer.weight=0.1'].scores('success_rate'), [100, 100])
    found = row.groups['SPOT']
    assert [e.policy.member.seed for e in found.entries] == [0, 1, 2, 3]
    np.testing.assert_array_equal(found.scores('success_rate'), [0, 50, 100, 100])
    assert problems == ['more_seeds: seed 1 of SPOT is in grid already, with the same settings']
    (section,) = tuning.budget([row])
    # of 0 50 100 100 100 100, fourteen of the fifteen pairs have a 100, and the best of one is 50
    assert section.tables[0].rows[0][1:3] == ['75.0', f'{100 * 14 / 15 + 50 / 15:.1f}']
    (pictures,) = tuning.sensitivity([row])
    assert list(pictures.pictures) == ['sensitivity_1_spot_regularizer_weight']
    assert pictures.tables[0].rows == [
        [UMAZE, 'SPOT', 'regularizer.weight=0.1', '2', '100.0 ± 0.0'],
        [UMAZE, 'SPOT', 'regularizer.weight=0.5', '4', '62.5 ± 47.9'],
    ]
    make_run(tmp_path / 'latents', [1.0], **{'regularizer.weight': 0.1, 'cvae.latent_dim': 8})
    (row,), _ = rows_of(tmp_path)  # the others' latent_dim is None, which is no place on an axis
    assert [list(s.pictures) for s in tuning.sensitivity([row])] == [['sensitivity_1_spot_regularizer_weight']]
    shutil.rmtree(tmp_path / 'latents')
    make_run(tmp_path / 'another', [1.0], **{'regularizer.weight': 1.0})
    (row,), _ = rows_of(tmp_path)
    assert list(row.compared) == ['SPOT, regularizer.weight=0.5', 'SPOT, regularizer.weight=1']


def test_parts_of_a_run_are_one(tmp_path):
    for k in (0, 1):
        make_run(tmp_path / 'run' / f'host_{k}', [0.5 * k], seeds=(0, 1), part=(k, 2))
    (tmp_path / 'run' / 'results.json').write_text('{}')  # of all hosts: theirs say the same
    make_run(tmp_path / 'td3_bc', [1.0], method='td3_bc')
    make_run(tmp_path / 'bc', [1.0], **{'regularizer.name': 'bc'})
    (row,), problems = rows_of(tmp_path)
    assert problems == []
    assert list(row.groups) == ['TD3+BC (spot)', 'TD3+BC (td3_bc)', 'SPOT']  # not settings of one method
    np.testing.assert_array_equal(row.groups['SPOT'].scores('success_rate'), [0, 50])
    assert [r[3] for r in run_table(collect([tmp_path]).runs).rows] == ['0', '0', '1', '0']


def test_runs_that_choose_episodes_are_beside_the_others(tmp_path):
    make_run(tmp_path / 'bc', [1.0, 0.5], method='bc')
    make_run(tmp_path / 'percent_bc', [0.5, 0.5], method='percent_bc', sha256='e' * 64)  # of the episodes it chose
    make_run(tmp_path / 'other', [0.5, 0.5], method='percent_bc', sha256='f' * 64)
    (row,), _ = rows_of(tmp_path)
    assert list(row.groups) == ['BC', '%BC, data=eeeeeeee', '%BC, data=ffffffff']


def test_fine_tuning_has_a_table_of_its_own(tmp_path):
    online = {'online.steps': 40, 'online.workers': 0}
    config = make_run(tmp_path / 'a', [1.0, 0.5], **online)
    found = results_of(config, [1.0, 0.5])
    for member, before, regret in zip(found['members'], (0.0, 0.5), (0.25, 0.5), strict=True):
        member['offline'] = {'returns': [before] * 2, 'success_rate': before, 'normalized_score': None}
        member |= {'regret': regret}
    (tmp_path / 'a' / 'results.json').write_text(json.dumps(found))
    rows, _ = rows_of(tmp_path)
    (section,) = scores.score_sections(rows)
    (table,) = section.tables
    assert table.columns == ['task', 'environment steps', 'SPOT, offline', 'SPOT, online', 'SPOT, regret']
    assert table.rows[0][1:] == ['40', '25.0 ± 35.4', '75.0 ± 35.4', '37.5 ± 17.7']
    assert '2 seeds where nothing else is said' in table.note


def test_published_numbers_are_a_block_of_their_own_of_the_tasks_that_there_are():
    row = lambda task, steps: Row('', {'task': task, 'online.steps': steps}, 'return', {})
    names = lambda *rows: [table.name for section in scores.published(rows) for table in section.tables]
    assert names(row('pointmaze', 0), row('pointmaze', 40)) == []
    assert names(row('antmaze', 0)) == ['published_antmaze']
    assert names(row('antmaze', 40)) == ['published_antmaze', 'published_online']
    (section,) = scores.published([row('locomotion', 0), row('antmaze', 40)])
    mujoco, antmaze, online = section.tables
    for table in (mujoco, antmaze, online):  # the printed totals are the sums of the columns
        columns = [[float(cell.split(' ')[0]) for cell in column] for column in zip(*table.rows, strict=True) if
                   column[-1] != 'total']  # fmt: skip
        for column in columns:
            assert sum(column[:-1]) == pytest.approx(column[-1], abs=0.15)
    assert mujoco.rows[-1][-1] == '773.0 ± 30.2'
    assert (4, 8) in mujoco.best
    assert antmaze.rows[0][1:3] == ['78.9', '73.0']
    assert online.rows[0][-1] == '99.2'


def broken(change):
    """A kind of damage: `change` of what results.json has."""

    def damage(run):
        found = json.loads((run / 'results.json').read_text())
        change(found)
        (run / 'results.json').write_text(json.dumps(found))

    return damage


def edited(name, old, new):
    return lambda run: (run / name).write_text((run / name).read_text().replace(old, new, 1))


def member(**values):
    return broken(lambda found: found['members'][1].update(values))


def evaluation(**values):
    return broken(lambda found: found['members'][1]['evaluation'].update(values))


BAD = {
    'not there': (shutil.rmtree, 'bad is not there'),
    'a file': (lambda run: (shutil.rmtree(run), run.write_text('x')), 'bad is no folder'),
    'empty': (lambda run: [path.unlink() for path in run.iterdir()], 'bad has no runs in it'),
    'no config': (lambda run: (run / 'config.json').unlink(), 'bad has no config.json'),
    'half a config': (edited('config.json', '}', ''), 'cannot read'),
    'a config that is none': (lambda run: (run / 'config.json').write_text('[1]'), 'it is no JSON object'),
    'an unknown field': (edited('config.json', '"tau"', '"tao"'), 'tao is unknown here'),
    'a bad value': (edited('config.json', '"batch_size": 16', '"batch_size": "x"'), 'batch_size'),
    'a link to itself': (lambda run: (shutil.rmtree(run), run.symlink_to(run)), 'bad is no folder'),
    'half of results': (lambda run: (run / 'results.json').write_text('{"members": ['), 'cannot read'),
    'a folder': (lambda run: ((run / 'results.json').unlink(), (run / 'results.json').mkdir()), 'it is no file'),
    'no members': (broken(lambda found: found.pop('members')), 'no list of members'),
    'a member less': (broken(lambda found: found['members'].pop()), 'it has 1 members, the config 2'),
    'another seed': (member(seed=7), 'member 1 has seed 7'),
    'other settings': (member(hyperparameters={'actor_lr': 0.5}), "has other hyperparameters than the config's"),
    'no such status': (member(status='fine'), "member 1 has status 'fine'"),
    'no number': (evaluation(success_rate='high'), "is 'high', which is no such number"),
    'not finite': (evaluation(returns=[float('nan'), 1.0]), 'is nan'),
    'over one': (evaluation(success_rate=1.5), 'is 1.5'),
    'fewer episodes': (evaluation(returns=[1.0]), "has 1 episodes, the config's are 2"),
    'other data': (broken(lambda found: found.update(dataset_id='x')), "its dataset is 'x'"),
    'no checksum': (broken(lambda found: found.pop('dataset_sha256')), 'no dataset_sha256'),
    'other scores than metrics.csv': (
        evaluation(success_rate=0.5),
        'do not belong together: the success_rate of member 1',
    ),
    'another length': (member(gradient_steps=20), 'its members made [20, 40] updates'),
    'longer than its config': (
        broken(lambda found: [m.update(gradient_steps=60) for m in found['members']]),
        "is of 60 updates, the config's are 40",
    ),
    'a score less': (evaluation(success_rate=None), 'some of its members lack scores'),
    'huge references': (
        broken(lambda found: found.update(reference_returns={'random': 0, 'expert': 10**400, 'source': 'x'})),
        'its reference_returns make no sense',
    ),
    'seconds': (broken(lambda found: found.update(wall_clock_s={'offline': 'long'})), 'wall_clock_s make no sense'),
    'references': (broken(lambda found: found.update(reference_returns={'random': 0})), 'reference_returns'),
    'a ragged table': (lambda run: (run / 'metrics.csv').write_text('a,b\n1\n'), 'no learning curves of bad'),
    'no table': (lambda run: (run / 'metrics.csv').write_bytes(b'\xff\xfe'), 'no learning curves of bad'),
    'no metrics': (lambda run: (run / 'metrics.csv').unlink(), 'metrics.csv is missing'),
    'a copy': (lambda run: (shutil.rmtree(run), shutil.copytree(run.parent / 'good', run)), 'bad is a copy of good'),
}


@pytest.mark.parametrize('kind', BAD)
def test_a_bad_run_is_one_line_and_the_rest_is_reported(tmp_path, kind):
    make_run(tmp_path / 'good', [1.0, 0.5])
    make_run(tmp_path / 'bad', [0.0, 0.0], method='bc')
    change, words = BAD[kind]
    change(tmp_path / 'bad')
    (row,), problems = rows_of(tmp_path / 'good', tmp_path / 'bad')
    (line,) = problems
    assert words in line
    assert 'bad' in line
    assert '\n' not in line
    np.testing.assert_array_equal(row.groups['SPOT'].scores('success_rate'), [100, 50])
    assert ('BC' in row.groups) == line.startswith('no learning curves')


class Page(HTMLParser):
    """What a page loads, and its text."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.text = [], ''
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.loads += [(tag, value) for name, value in attributes if name in ('src', 'href', 'srcset', 'data')]

    def handle_data(self, data):
        self.text += data


def test_command(runs, tmp_path, capsys):
    make_run(runs / '<b>&|', [0.5, 0.5], method='td3_bc')
    make_run(runs / 'torn', [0.5, 0.5], method='awac')
    odd = runs / os.fsdecode(b'\xff$\\odd$')
    make_run(odd, [0.5, 0.5], method='dt', more={'versions': {'a': '\ud800\n'}, 'environment_id': 'spot_jax/\ud800'})
    make_run(runs / 'inf', [0.5, 0.5], method='bcq')
    edited('metrics.csv', ',0.5,\n', ',inf,\n')(runs / 'inf')
    for name, folder in (('a', '$x'), ('b', '$\\y_$')):
        make_run(runs / name, [0.5, 0.5], **{'online.steps': 40, 'online.restore': folder})
    (runs / 'torn' / 'results.json').write_text('{')
    (runs / 'again').symlink_to(runs)
    out = tmp_path / 'a' / 'out'
    arguments = [str(runs), f'--out={out}']
    assert report.main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out == f'{out / "index.html"}\n'
    unfinished, line, *others = printed.err.splitlines()
    assert unfinished == 'medium/iql is in no table of scores: unfinished: offline 20 of 40'
    assert line.startswith('torn: cannot read')
    assert len(others) == 2
    assert 'differ in environment' in others[0]
    assert others[1].startswith('no learning curve of BCQ')
    assert others[1].endswith('metrics.csv of inf is damaged')
    files = {path: path.read_bytes() for path in out.rglob('*') if path.is_file()}
    text = (out / 'index.html').read_text()
    page = Page(text)
    for tag, value in page.loads:
        assert value.startswith('data:image/png;base64,' if tag == 'img' else '#')
    assert 'http' not in re.sub(r'base64,[^"]*', '', text)
    assert line in page.text
    assert '<b>&|: TD3+BC' in page.text
    assert 'unfinished: offline 20 of 40' in page.text
    markdown = (out / 'report.md').read_text()
    for name in re.findall(r'\((pictures/.*?)\)', markdown):
        assert out / name in files
    assert (out / 'tables' / 'scores.md').read_text().strip() in markdown
    assert f'```\n{command(collect([runs / "umaze"]).runs[0])}\n```'.replace('runs/bc', 'runs/umaze/bc') in markdown
    policies = list(csv.DictReader((out / 'tables' / 'policies.csv').read_text().splitlines()))
    assert [(p['setting'], p['seed'], p['success_rate']) for p in policies if p['run'] == 'umaze/bc'] == [
        ('BC', '0', '0.0'),
        ('BC', '1', '0.5'),
    ]
    (out / 'report.md').write_text('mine')
    assert report.main(arguments) == 2
    assert 'exists: give --overwrite, or another --out' in capsys.readouterr().err
    assert (out / 'report.md').read_text() == 'mine'
    assert report.main([*arguments, '--overwrite']) == 0
    assert {path: path.read_bytes() for path in files} == files  # the same runs, the same bytes
    assert report.main([str(tmp_path / 'missing'), *arguments, '--overwrite']) == 1  # the rest is reported
    assert f'{tmp_path / "missing"} is not there' in (out / 'index.html').read_text()
    other = tmp_path / 'other'
    (other / 'tables').mkdir(parents=True)
    (other / 'tables' / 'files.txt').write_text('tables/mine.csv')
    (other / 'tables' / 'mine.csv').write_text('mine')
    assert report.main([str(runs), f'--out={other}']) == 2
    assert (other / 'tables' / 'mine.csv').read_text() == 'mine'
    (out / 'pictures' / 'mine.png').touch()
    assert report.main([str(runs / 'umaze' / 'bc'), f'--out={out}', '--overwrite']) == 0  # no statistics over methods
    left = {str(path.relative_to(out)) for path in out.rglob('*') if path.is_file()}
    assert left == {*(out / 'tables' / 'files.txt').read_text().splitlines(), 'tables/files.txt', 'pictures/mine.png'}
    assert 'pictures/budget_4.png' in {str(path.relative_to(out)) for path in files} - left


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['nowhere', '--out=out'], 'nothing to report'),
        ([], 'required: DIR, --out'),
        (['good'], 'required: --out'),
        (['good', '--out=good/config.json'], 'cannot write in good/config.json: give another --out'),
    ],
)
def test_bad_command_writes_nothing(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / 'good', [1.0])
    before = sorted(tmp_path.rglob('*'))
    assert report.main(arguments) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.rglob('*')) == before


def test_a_full_disk_leaves_the_report_that_was_there_and_no_half_of_one(runs, tmp_path, monkeypatch, capsys):
    out, fresh = tmp_path / 'out', tmp_path / 'fresh' / 'out'
    assert report.main([str(runs / 'umaze'), f'--out={out}']) == 0
    before = {path: path.read_bytes() for path in out.rglob('*') if path.is_file()}
    real, written = os.fsync, []

    def fsync(descriptor):
        written.append(descriptor)
        if len(written) > 5:
            raise OSError(28, 'No space left on device')
        real(descriptor)

    monkeypatch.setattr(os, 'fsync', fsync)
    for place in (out, fresh):
        written.clear()
        assert report.main([str(runs), f'--out={place}', '--overwrite']) == 2
        assert 'No space left on device' in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in out.rglob('*') if path.is_file()} == before
    assert not fresh.parent.exists()


def test_no_command_names_data_that_python_held(tmp_path):
    make_run(tmp_path / 'named', [0.5])
    make_run(tmp_path / 'held', [0.5], more={'dataset_held': True}, sha256='e' * 64)
    held, named = (command(run) for run in collect([tmp_path]).runs)
    first, rest = held.split('\n', 1)
    assert first.startswith('# It learned from data that Python held')
    assert rest == named.replace('runs/named', 'runs/held')


def test_real_run_and_the_command_that_makes_it_again(finished):
    (row,), problems = rows_of(finished)
    assert problems == []
    (group,) = row.groups.values()
    found = json.loads((finished / 'results.json').read_text())['members']
    np.testing.assert_allclose(group.scores('return'), [np.mean(m['evaluation']['returns']) for m in found])
    again, _ = main.parse(shlex.split(command(group.entries[0].run).replace('\\\n', ''))[2:])
    ours = tiny()
    for path in read_paths(ours):
        assert lookup(again, path) == lookup(ours, path), path
