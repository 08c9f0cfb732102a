"""Files of behaviour policies and of their trainings that are none, or that cannot be written, in one line each."""

import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from spot_jax.behavior import policy
from spot_jax.behavior.__main__ import main
from spot_jax.behavior.ship import ship
from spot_jax.system.errors import InputError


def packed(**changes):
    arrays = {
        'kernel_0': np.zeros((3, 4), np.float32),
        'bias_0': np.zeros(4, np.float32),
        'kernel_1': np.zeros((4, 2), np.float32),
        'bias_1': np.zeros(2, np.float32),
        'action_low': -np.ones(1, np.float32),
        'action_high': np.ones(1, np.float32),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return buffer.getvalue()


def as_npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


BAD = {
    'empty': b'',
    'text': b'hello',
    'half': packed()[:300],
    'npy': as_npy(),
    'no bias': packed(bias_1=None),
    'no layers': packed(kernel_0=None, kernel_1=None, bias_0=None, bias_1=None),
    'objects': packed(action_low=np.array([{}])),
    'text in it': packed(action_low=np.array(['x'])),
    'NaN': packed(bias_0=np.full(4, np.nan, np.float32)),
    'layers apart': packed(kernel_1=np.zeros((5, 2), np.float32)),
    'bounds apart': packed(action_high=np.ones(2, np.float32)),
    'other actions': packed(bias_1=np.zeros(4, np.float32), kernel_1=np.zeros((4, 4), np.float32)),
}


def test_a_whole_policy_acts():
    path = policy.WEIGHTS / 'hopper-medium.npz'
    assert policy.read(path)(np.zeros((5, 11))).shape == (5, 3)


@pytest.mark.parametrize('content', BAD.values(), ids=BAD)
def test_policies_that_are_none(tmp_path, capsys, content):
    (tmp_path / 'expert.npz').write_bytes(content)
    assert main(['ship', 'x', f'--workdir={tmp_path}']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'expert.npz is no behaviour policy: ' in error
    assert not (policy.WEIGHTS / 'x.npz').exists()


CONFIG = {'environment': 'Hopper-v5', 'seed': 0}


@pytest.mark.parametrize(
    ('config', 'step'),
    [
        *((None, '1'), ('', '1'), ('[]', '1'), ('{}', '1'), ('3', '1'), (json.dumps(CONFIG), 'x'), ('\xff', '1')),
        *((json.dumps(CONFIG | {'environment': name}), '1') for name in ('os:system', 'antigravity:x-v0', None, 5, [])),
        (json.dumps(CONFIG | {'seed': 'x'}), '1'),
    ],
)
def test_trainings_that_are_none(tmp_path, capsys, config, step):
    (tmp_path / 'expert.npz').write_bytes(packed())
    (tmp_path / 'expert.step').write_text(step)
    if config is not None:
        (tmp_path / 'config.json').write_bytes(config.encode('latin1'))
    for command in (['ship', 'x', f'--workdir={tmp_path}'], ['plot', str(tmp_path), f'--out={tmp_path / "x.png"}']):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1
        assert 'is no training of a behaviour policy: ' in error
    assert not (tmp_path / 'x.png').exists()


def test_a_shipped_policy_is_its_robots_and_replaced_only_when_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('spot_jax.behavior.ship.returns', lambda policy, environment, seeds: np.array([1.0, 2.0]))
    training, package = tmp_path / 'training', tmp_path / 'package'
    training.mkdir()
    (training / 'config.json').write_text(json.dumps({'environment': 'Walker2d-v5', 'seed': 7}))
    (training / 'medium.npz').write_bytes(packed())
    (training / 'medium.step').write_text('4096')
    with pytest.raises(InputError, match=r'hopper-medium: the policy in .* is of walker2d: its name begins with that'):
        ship('hopper-medium', training, 'medium', folder=package)
    assert not package.exists()
    ship('walker2d-medium', training, 'medium', folder=package)
    card = json.loads((package / 'walker2d-medium.json').read_text())
    assert 'train walker2d --workdir=runs/walker2d --seed=7 --steps=4096 && ' in card['command']
    before = (package / 'walker2d-medium.npz').read_bytes()
    (training / 'medium.npz').write_bytes(packed(bias_0=np.ones(4, np.float32)))
    with pytest.raises(InputError, match='exists: give --overwrite, or another name'):
        ship('walker2d-medium', training, 'medium', folder=package)
    assert (package / 'walker2d-medium.npz').read_bytes() == before
    ship('walker2d-medium', training, 'medium', True, package)
    assert (package / 'walker2d-medium.npz').read_bytes() != before
    capsys.readouterr()


HEADER = 'environment_steps,evaluation/return,evaluation/return_std\n'


@pytest.mark.parametrize('rows', ['', 'a,b\n1,2\n', HEADER + '1,2\n', HEADER + 'x,y,z\n'])
def test_curves_that_are_none(tmp_path, capsys, rows):
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    (tmp_path / 'metrics.csv').write_text(rows)
    status = main(['plot', str(tmp_path), f'--out={tmp_path / "x.png"}'])
    assert (status, capsys.readouterr().err.count('\n')) == ((2, 1) if rows else (0, 0))


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_fails(tmp_path, capsys, monkeypatch, number):
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    (tmp_path / 'metrics.csv').write_text(HEADER + '1,2,3\n')
    opened = Path.open

    def refuse(self, mode='r', *args, **options):
        if 'w' in mode:
            raise OSError(number, os.strerror(number), str(self))
        return opened(self, mode, *args, **options)

    monkeypatch.setattr(Path, 'open', refuse)
    assert main(['plot', str(tmp_path), f'--out={tmp_path / "x.png"}']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'x.png' in error
    assert os.strerror(number) in error
