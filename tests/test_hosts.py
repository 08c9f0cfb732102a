"""A run over two hosts is the run of one."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import tiny

from spot_jax.run import hosts
from spot_jax.run.config import members
from spot_jax.storage import folder
from spot_jax.system.errors import InputError

ROOT = Path(__file__).parents[1]
FIELDS = {
    'batch_size': 16,
    'log_interval': 20,
    'cvae.steps': 20,
    'cvae.hidden_dims': '(8,)',
    'offline.steps': 40,
    'evaluation.interval': 40,
    'evaluation.episodes': 2,
    'evaluation.workers': 0,
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
    main = [sys.executable, '-m', 'spot_jax.main', '--config=tests/nearby.py', f'--workdir={workdir}']
    return [*main, *options, *arguments]


def start(*arguments, **options):
    return subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)


def start_two(workdir, **options):
    """Two hosts that find each other."""
    with socket.socket() as s:
        s.bind(('localhost', 0))
        address = f'localhost:{s.getsockname()[1]}'
    return [start(workdir, f'--distributed={address},2,{host}', **options) for host in (0, 1)]


def finish(processes):
    """What they said, all of them ended well."""
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return said


def members_of(workdir):
    return json.loads((workdir / 'results.json').read_text())['members']


@pytest.fixture(scope='module')
def alone(data, tmp_path_factory):
    """The members' results of one process."""
    workdir = tmp_path_factory.mktemp('one')
    finish([start(workdir)])
    return members_of(workdir)


def test_two_hosts_give_the_results_of_one(tmp_path, alone):
    said = finish(start_two(tmp_path))
    assert [m['seed'] for m in members_of(tmp_path)] == [0, 1, 2]
    assert members_of(tmp_path) == alone
    assert said[0].count('SPOT on') == 2  # its own members, then all
    rows = (tmp_path / 'host_1' / 'metrics.csv').read_text().splitlines()
    assert {row.split(',')[2] for row in rows[1:]} == {'1'}


def test_a_killed_host_resumes(tmp_path, alone):
    """The other host waits for it, and is started again with it."""
    processes = start_two(tmp_path)
    deadline = time.monotonic() + 120
    while not list((tmp_path / 'host_1').glob('checkpoints/*.msgpack')):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[1].kill()
    assert processes[1].wait() == -9
    while not (tmp_path / 'host_0' / 'results.json').exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[0].kill()
    assert processes[0].wait() == -9
    assert not (tmp_path / 'host_1' / 'results.json').exists()
    assert not (tmp_path / 'results.json').exists()
    finish(start_two(tmp_path))
    assert members_of(tmp_path) == alone


def test_a_host_does_not_wait_for_one_that_has_ended(tmp_path):
    """The first host's folder cannot be made: it says so, and the other one does not wait for it."""
    (tmp_path / 'host_0').write_text('')
    processes = start_two(tmp_path, stderr=subprocess.PIPE)
    said = [process.communicate(timeout=120)[1].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert said == [
        [f'error: cannot write in --workdir={tmp_path / "host_0"}: File exists'],
        ['error: host 0 has ended with status 2: what it printed tells why'],
    ]


def test_a_longer_run_does_not_gather_what_another_host_had_before(tmp_path, monkeypatch):
    def report(host, steps):
        evaluation = {'returns': None, 'success_rate': None, 'normalized_score': None}
        member = {'seed': host, 'hyperparameters': {'regularizer_weight': 1}, 'status': 'completed', 'steps': steps}
        whole = {
            'algorithm': 'SPOT',
            'dataset_id': 'x',
            'wall_clock_s': {},
            'members': [member | {'evaluation': evaluation}],
        }
        (tmp_path / f'host_{host}').mkdir(exist_ok=True)
        (tmp_path / f'host_{host}' / 'results.json').write_text(json.dumps(whole))
        folder.write_config(tiny(part=(host, 2)), tmp_path / f'host_{host}')
        return 0

    class Notes:
        answers = iter([None, None, 0])

        def tell(self, host, status):
            assert (host, status) == (0, 0)

        def status(self, host):
            answer = next(self.answers)
            return answer if answer is None else report(host, 80)

    report(1, 40)
    monkeypatch.setattr(hosts, 'Notes', Notes)
    monkeypatch.setattr(hosts, 'POLL', 0)
    monkeypatch.setattr(hosts.training, 'run', lambda config, workdir: report(0, 80))
    assert hosts.run(tiny(), tmp_path, 0, 2) == 0
    assert [m['steps'] for m in members_of(tmp_path)] == [80, 80]


def test_what_was_gathered_is_gone_once_a_longer_run_is_stopped(tmp_path, monkeypatch):
    class Notes:
        def tell(self, host, status):
            assert (host, status) == (0, 143)

    monkeypatch.setattr(hosts, 'Notes', Notes)
    monkeypatch.setattr(hosts.training, 'run', lambda config, workdir: 143)
    for kept in (True, False):
        (tmp_path / 'results.json').write_text('{}')
        (tmp_path / 'host_0').mkdir(exist_ok=True)
        (tmp_path / 'host_0' / 'results.json').touch()
        if not kept:
            (tmp_path / 'host_0' / 'results.json').unlink()
        assert hosts.run(tiny(), tmp_path, 0, 2) == 143
        assert (tmp_path / 'results.json').exists() == kept


def test_bad_address_is_one_line_and_status_2(tmp_path):
    bad = command(tmp_path, '--distributed=nowhere')
    done = subprocess.run(bad, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert 'COORDINATOR:PORT,HOSTS,HOST' in done.stderr


def test_two_hosts_share_a_suite(data, tmp_path):
    """Each makes its own runs, whole; no backend is started where they are shared out: a run would lack its device."""
    words = [word for word in command('w')[3:] if not word.startswith('--workdir')]
    (tmp_path / 'suite.py').write_text(f"get_suite = lambda: {{name: {words!r} for name in 'abc'}}\n")
    says = 'import sys, jax._src.xla_bridge as x; from spot_jax import main; s = main.cli(sys.argv); '
    says += 'sys.exit(9 if x._backends else s)'
    with socket.socket() as s:
        s.bind(('localhost', 0))
        address = f'localhost:{s.getsockname()[1]}'
    arguments = [f'--config={tmp_path}/suite.py', f'--workdir={tmp_path}/w']
    commands = [[sys.executable, '-c', says, *arguments, f'--distributed={address},2,{host}'] for host in (0, 1)]
    said = finish([subprocess.Popen(c, cwd=ROOT, stdout=subprocess.PIPE, text=True) for c in commands])
    for text, names in zip(said, ('ac', 'b'), strict=True):
        ended = [line.split()[0] for line in text.splitlines()[:-1] if ' is at work' not in line]
        assert ended == list(names)
        assert text.endswith(f'{len(names)} of {len(names)} runs finished\n')
    assert all((tmp_path / 'w' / name / 'results.json').exists() for name in 'abc')
