"""What `benchmark --gpu` makes of its cases and of a profile; the GPU itself is not tested."""

import json
import re

import pytest

from spot_jax.benchmark import gpu
from spot_jax.benchmark.__main__ import main


def fail():
    raise ValueError('no such\n thing')


def test_report_is_whole_after_each_case_and_outlives_errors(tmp_path, capsys):
    path = tmp_path / 'new' / 'gpu.json'
    report = gpu.Report(path, 100, re.compile('one|bad|late'))
    report.attempt('one', lambda: {'updates_per_s': 2.0}, 1)
    assert [row['case'] for row in json.loads(path.read_text())] == ['one']
    report.attempt('unwanted', fail, 1)
    report.attempt('bad', fail, 1)
    report.attempt('late', fail, 1000)
    one, bad, late = json.loads(path.read_text())
    assert one['updates_per_s'] == 2
    assert bad['error'] == 'ValueError: no such thing'
    assert late['left_out'].endswith('s were left')
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_busy_time_counts_overlapping_kernels_once():
    """0-2 and 1-4 µs overlap, 6-8 stands alone: 6 of 8 µs, over two blocks."""
    events = [(0, 2000, 'a'), (6000, 2000, 'b'), (1000, 3000, 'a')]
    assert gpu.busy(events, 2) == {'busy_share': 6 / 8, 'busy_us_per_block': 3.0}
    assert gpu.longest(events, 2) == [
        {'name': 'a', 'us_per_block': 2.5, 'per_block': 1.0},
        {'name': 'b', 'us_per_block': 1.0, 'per_block': 0.5},
    ]


def test_a_case_counts_the_updates_of_all_members(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(gpu.time, 'perf_counter', lambda: float(next(clock)))
    row = gpu.timed(gpu.Case('', lambda steps: None, 10, 4, 2e12, 1.5, 2**21))
    assert row == {
        'updates_per_s': 40.0,
        'lowest': 40.0,
        'highest': 40.0,
        'tflop_per_s': 80.0,
        'compile_s': 1.5,
        'memory_mib': 2.0,
    }


@pytest.mark.parametrize('arguments', [['--limit=0'], ['--limit=x'], ['--matmul=0']])
def test_bad_limits_are_refused(arguments, capsys):
    assert main(['--gpu', *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_profile_is_replaced_only_when_asked(tmp_path, capsys):
    profile = tmp_path / 'gpu.64.xplane.pb'
    profile.write_text('of before')
    assert main(['--gpu', '--no-torch', '--only=machine', f'--json={tmp_path / "gpu.json"}']) == 2
    assert f'{profile} exists: give --overwrite, or another --json' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [profile]
