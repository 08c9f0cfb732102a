"""The files of metrics."""

import pytest

from spot_jax.metrics import MetricWriter

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


def test_tensorboard_events(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with MetricWriter(tmp_path, COLUMNS, 0) as writer:
        writer.write(ROWS)
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert events.Tags()['tensors'] == ['training/q/offline_member_0']
    found = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors('training/q/offline_member_0')]
    assert found == [(10, 2.5), (20, 5.0)]
