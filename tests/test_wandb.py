"""Members' metrics as runs of Weights & Biases, kept in the folder as they are without a network, and read there."""

import csv
import importlib.util
import json
import struct
import time

import pytest
from tiny import tiny

from spot_jax.run import training
from spot_jax.run.fields import problem
from spot_jax.storage.metrics import MetricWriter
from spot_jax.storage.wandb_runs import ID_FILE, WandbRuns, require_ready
from spot_jax.system.errors import InputError

wandb = pytest.importorskip('wandb')
BLOCK, HEADER = 32768, 7  # of W&B's files, which are LevelDB's logs


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')


def records(path):
    """What a file of W&B's holds."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), HEADER, b''
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        size, kind = struct.unpack_from('<HB', data, at + 4)
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b''


def kept(workdir):
    """Of each process's run of each member, in the order of their beginning: how it is called, and its history."""
    wandb.teardown()  # waits for the files, as the end of a process does
    found = []
    for path in sorted(workdir.glob('wandb/offline-run-*/*.wandb'), key=lambda path: path.stat().st_mtime_ns):
        history, run = [], None
        for record in records(path):
            if record.WhichOneof('record_type') == 'run':
                run = record.run
            elif record.WhichOneof('record_type') == 'history':
                cells = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                history.append((record.history.step.num, {k: v for k, v in cells.items() if not k.startswith('_')}))
        found.append((run, history))
    return found


def rows(member, steps, value=0.5):
    return [{'phase': 'offline', 'gradient_steps': n, 'member': member, 'training/q': value} for n in steps]


def cell(n):
    return {'phase': 'offline', 'gradient_steps': n, 'training/q': 0.5}


def writer(folder, position):
    columns = ['phase', 'gradient_steps', 'member', 'training/q', 'evaluation/return']
    identities = [{'member': 3, 'seed': 7, 'weight': 0.1}, {'member': 4, 'seed': 8, 'weight': 0.2}]
    make = lambda before: WandbRuns(folder, 'project', {'method': 'spot'}, identities, before)
    return MetricWriter(folder, columns, position, [make])


def test_a_resumed_run_goes_on_with_the_same_runs_at_the_same_steps(tmp_path):
    with writer(tmp_path, 0) as first:
        first.write([*rows(3, [10]), *rows(4, [10])])
        position = first.position
        first.write(rows(3, [20]))  # after the checkpoint: lost, and made again
    time.sleep(1.1)  # W&B names folders by the second
    with writer(tmp_path, position) as second:
        second.write([*rows(3, [20, 30]), *rows(4, [20])])
    prefix = (tmp_path / ID_FILE).read_text().strip()
    found = kept(tmp_path)
    assert [run.run_id for run, _ in found] == [f'{prefix}-{n}' for n in (3, 4, 3, 4)]
    assert {(run.project, run.run_group) for run, _ in found} == {('project', str(tmp_path))}
    assert [run.display_name for run, _ in found[:2]] == [f'{tmp_path}/member_{n}' for n in (3, 4)]
    config = {item.key: json.loads(item.value_json) for item in found[1][0].config.update}
    assert {k: v for k, v in config.items() if k != '_wandb'} == {
        **{'method': 'spot', 'member': 4, 'seed': 8},
        'weight': 0.2,
    }
    assert [history for _, history in found] == [
        [(0, cell(10)), (1, cell(20))],
        [(0, cell(10))],
        [(1, cell(20)), (2, cell(30))],
        [(1, cell(20))],
    ]


def test_a_real_run(data, tmp_path):
    """Every cell of metrics.csv is there, and the options that the run reads."""
    config = tiny()
    config.wandb.project = 'spot'
    assert training.run(config, tmp_path / 'run') == 0
    with (tmp_path / 'run' / 'metrics.csv').open(newline='') as file:
        table = list(csv.DictReader(file))
    found = kept(tmp_path / 'run')
    assert len(found) == len({row['member'] for row in table}) > 1
    for number, (run, history) in enumerate(found):
        expected = [
            {k: v if k == 'phase' else float(v) for k, v in row.items() if v and (k in cell(0) or '/' in k)}
            for row in table
            if int(row['member']) == number
        ]
        assert history == list(enumerate(expected))
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert config['dataset_id'] == tiny().dataset_id
        assert config['seed'] == int(table[number]['seed'])
        assert 'iql.expectile' not in config
    config = tiny()  # the copy is no part of the run: it can be left out, or begun, at any time
    assert training.run(config, tmp_path / 'run') == 0
    assert len(kept(tmp_path / 'run')) == len(found)


def test_that_cannot_begin(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, 'find_spec', lambda name: None)
        with pytest.raises(InputError, match=r"not installed: pip install 'spot_jax\[wandb\]'"):
            require_ready('project')
    with monkeypatch.context() as patch:
        patch.setenv('WANDB_MODE', 'online')
        patch.setattr(wandb, 'login', lambda: wandb.not_there)
        wandb.teardown()  # it has read the settings
        with pytest.raises(InputError, match='with WANDB_MODE=offline the runs stay in their folder'):
            training.run(tiny(**{'wandb.project': 'project'}), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    wandb.teardown()
    monkeypatch.setattr(wandb, 'init', lambda **_: wandb.not_there)
    with pytest.raises(InputError, match=r'^config\.wandb\.project=project: .*; the same command without it goes on$'):
        writer(tmp_path, 0)


def test_metrics_go_on_when_it_fails(tmp_path, monkeypatch, capsys):
    with writer(tmp_path, 0) as made:
        made.write(rows(3, [10]))
        monkeypatch.setattr(wandb.sdk.wandb_run.Run, 'log', lambda *_, **__: 1 / 0)
        for n in (20, 30):
            made.write(rows(4, [n]))
    assert (tmp_path / 'metrics.csv').read_text().count('\n') == 4
    said = capsys.readouterr()
    assert (
        said.out == f'the members are runs of Weights & Biases: {tmp_path}/wandb, from which `wandb sync` sends them\n'
    )
    ours = [line for line in said.err.splitlines() if '`resume` will be ignored' not in line]  # before 0.31
    assert ours == ['nothing goes to Weights & Biases from now on: division by zero']
    assert [history for _, history in kept(tmp_path)] == [[(0, cell(10))], []]


def test_metrics_go_on_when_its_process_is_gone(tmp_path, monkeypatch, capsys):
    with writer(tmp_path, 0) as made:
        monkeypatch.setattr(wandb.sdk.wandb_run.Run, 'finish', lambda *_, **__: 1 / 0)
        made.write(rows(3, [10]))
    ours = [line for line in capsys.readouterr().err.splitlines() if '`resume` will be ignored' not in line]
    assert ours == [f'Weights & Biases may lack the last of member {n}: division by zero' for n in (3, 4)]


@pytest.mark.parametrize(('name', 'fits'), [('my project_1.2', True), ('a/b', False), ('', False), ('x' * 129, False)])
def test_names_of_projects(name, fits):
    """Weights & Biases takes no others: told before anything is written."""
    assert (problem('wandb.project', name) is None) == fits
