"""A run over two hosts is the run of one."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny

from spot_jax.config import members
from spot_jax.errors import InputError

ROOT = Path(__file__).parents[1]
FIELDS = {
    'batch_size': 16,
    'log_interval': 20,
    'cvae.steps': 20,
    'cvae.hidden_dims': '(8,)',
    'offline.steps': 40,
    'evaluation.interval': 40,
    'evaluation.episodes': 2,
    'checkpoint.interval': 20,
    'seeds': '0,1,2',
}


@pytest.mark.parametrize(
    ('changes', 'count', 'expected'),
    [
        ({'seeds': (0, 1, 2)}, 2, [[0, 2], [1]]),
        ({'seeds': (0, 1), 'grid.discount': (0.9, 0.99)}, 2, [[0, 1], [2, 3]]),
        ({'seeds': (0,), 'grid.discount': (0.9, 0.95, 0.99)}, 2, [[0, 2], [1]]),
        ({'seeds': (0, 1), 'grid.discount': (0.9, 0.95, 0.99)}, 3, [[0, 2], [3, 4, 5], [1]]),
    ],
)
def test_parts_make_up_the_whole(changes, count, expected):
    whole = members(tiny(**changes)).members
    for index, numbers in enumerate(expected):
        part = members(tiny(**changes, part=(index, count)))
        assert part.members == [whole[number] for number in numbers]
        assert len({(m.seed, m.hyperparameters['beta']) for m in part.members}) == part.shape[0]  # no CVAE twice


def test_more_hosts_than_members_is_refused():
    with pytest.raises(InputError, match='there are 2 members to share out'):
        members(tiny(seeds=(0, 1), part=(2, 3)))


def command(workdir, *arguments):
    options = [f'--config.{name}={value}' for name, value in FIELDS.items()]
    main = [sys.executable, '-m', 'spot_jax.main', '--config=experiments/pointmaze.py', f'--workdir={workdir}']
    return [*main, *options, *arguments]


@pytest.mark.usefixtures('data')
def test_two_hosts_give_the_results_of_one(tmp_path):
    with socket.socket() as s:
        s.bind(('localhost', 0))
        address = f'localhost:{s.getsockname()[1]}'
    start = lambda *arguments: subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    processes = [start(tmp_path / 'two', f'--distributed={address},2,{host}') for host in (0, 1)]
    processes.append(start(tmp_path / 'one'))
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    two, alone = (json.loads((tmp_path / name / 'results.json').read_text()) for name in ('two', 'one'))
    assert [m['seed'] for m in two['members']] == [0, 1, 2]
    assert two['members'] == alone['members']
    assert said[0].count('SPOT on') == 2  # its own members, then all
    rows = (tmp_path / 'two' / 'host_1' / 'metrics.csv').read_text().splitlines()
    assert {row.split(',')[2] for row in rows[1:]} == {'1'}


def test_bad_address_is_one_line_and_status_2(tmp_path):
    bad = command(tmp_path, '--distributed=nowhere')
    done = subprocess.run(bad, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert 'COORDINATOR:PORT,HOSTS,HOST' in done.stderr
