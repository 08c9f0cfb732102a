"""The files of metrics."""

import builtins

import pytest

from spot_jax.storage.metrics import MetricWriter

COLUMNS = ['phase', 'gradient_steps', 'member', 'training/q', 'evaluation/return']
ROWS = [{'phase': 'offline', 'gradient_steps': n, 'member': 0, 'training/q': n / 4} for n in (10, 20)]


def test_rows_after_the_position_are_cut_off(tmp_path):
    with MetricWriter(tmp_path, COLUMNS, 0) as writer:
        writer.write(ROWS[:1])
        position = writer.position
        writer.write([{**ROWS[1], 'training/q': -1.0}])
    with MetricWriter(tmp_path, COLUMNS, position) as writer:
        writer.write(ROWS[1:])
    lines = (tmp_path / 'metrics.csv').read_text().splitlines()
    assert lines == [','.join(COLUMNS), 'offline,10,0,2.5,', 'offline,20,0,5.0,']


def events(workdir):
    """Step and value of each event of the one tag."""
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    found = EventAccumulator(str(workdir / 'tensorboard'))
    found.Reload()
    assert found.Tags()['tensors'] == ['training/q/offline_member_0']
    return [(e.step, float(make_ndarray(e.tensor_proto))) for e in found.Tensors('training/q/offline_member_0')]


def test_tensorboard_events(tmp_path):
    with MetricWriter(tmp_path, COLUMNS, 0) as writer:
        writer.write(ROWS)
    assert events(tmp_path) == [(10, 2.5), (20, 5.0)]


def test_events_after_the_position_are_cut_off(tmp_path):
    """Also if the process was killed within one; twice, so that what a resumed run wrote is cut off in its turn."""
    with MetricWriter(tmp_path, COLUMNS, 0) as writer:
        writer.write(ROWS[:1])
        position = writer.position
        writer.write([{**ROWS[1], 'training/q': -1.0}, {**ROWS[1], 'gradient_steps': 30}])
    (torn,) = (tmp_path / 'tensorboard').iterdir()
    torn.write_bytes(torn.read_bytes()[:-7])
    for _ in range(2):
        with MetricWriter(tmp_path, COLUMNS, position) as writer:
            writer.write(ROWS[1:])
        assert events(tmp_path) == [(10, 2.5), (20, 5.0)]


def test_events_outlive_a_lost_file_of_metrics(tmp_path):
    """They are the only copy of its rows then."""
    with MetricWriter(tmp_path, COLUMNS, 0) as writer:
        writer.write(ROWS[:1])
    (tmp_path / 'metrics.csv').unlink()
    with MetricWriter(tmp_path, COLUMNS, 0) as writer:
        writer.write(ROWS[1:])
    assert events(tmp_path) == [(10, 2.5), (20, 5.0)]


@pytest.mark.parametrize('broken', ['folder', 'installation'])
def test_metrics_go_on_without_tensorboard(tmp_path, monkeypatch, capsys, broken):
    pytest.importorskip('tensorboard')
    if broken == 'folder':
        (tmp_path / 'tensorboard').write_text('')
    else:
        original = builtins.__import__

        def fail(name, *arguments):
            if name.startswith('tensorboard'):
                raise TypeError('Descriptors cannot be created directly.\nlong advice')
            return original(name, *arguments)

        monkeypatch.setattr(builtins, '__import__', fail)
    with MetricWriter(tmp_path, COLUMNS, 0) as writer:
        writer.write(ROWS)
    assert len((tmp_path / 'metrics.csv').read_text().splitlines()) == 3
    said = capsys.readouterr().err
    assert said.startswith('no TensorBoard events from now on: ')
    assert said.count('\n') == 1
