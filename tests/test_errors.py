"""What the user or the machine is to blame for ends a command in one line."""

import errno
import io
import os
import subprocess
import sys

import pytest

from spot_jax.system.errors import InputError, exit_status


def failing(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ('error', 'status', 'line'),
    [
        (InputError('wrong'), 2, 'error: wrong'),
        (KeyboardInterrupt(), 130, 'stopped'),
        (OSError(errno.ENOSPC, 'No space left on device', '/there'), 1, 'error: /there: No space left on device'),
        (OSError(errno.EROFS, 'Read-only'), 1, 'error: cannot write or read: Read-only'),
        (MemoryError('Unable to allocate 9 TiB'), 1, 'error: out of memory: Unable to allocate 9 TiB'),
    ],
)
def test_blame_is_one_line(capsys, monkeypatch, error, status, line):
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    assert exit_status(failing(error)) == status
    assert capsys.readouterr().err == f'{line}\n'


def test_mistakes_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_status(failing(ZeroDivisionError()))


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this system has no /dev/full')
def test_output_that_cannot_be_written():
    command = "import sys; from spot_jax.system.errors import exit_status; sys.exit(exit_status(lambda: print('x')))"
    with open('/dev/full', 'w') as full:
        done = subprocess.run([sys.executable, '-c', command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, 'error: cannot write or read: No space left on device\n')
