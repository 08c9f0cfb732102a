"""Errors that are for people: one clear line, no traceback."""

import os
import signal
import sys
from collections.abc import Callable

import spot_jax

ALL_DIVERGED = 3  # exit status of a training, beside those of `exit_status`


class InputError(Exception):
    """Something the user gave is wrong: the message says what, what was expected and what to do."""


def printable(text: str) -> str:
    """A text on one line, whatever names of files and options it quotes."""
    return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """An exception's first line of words, or its kind if it has none."""
    words = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = words.strip().split('\n')[0].strip()
    if isinstance(error, KeyError) and ' ' not in line:
        return f'there is no {line!r}'
    return line or type(error).__name__


def _no_more_output() -> None:
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115 (flushed at exit)


def exit_status(function: Callable[[], int | None]) -> int:
    """Runs a command's body; returns its exit status.

    What the user or the machine is to blame for becomes one line on stderr: an `InputError` (status 2), a file or a
    disk that fails (1), too little memory (1), Ctrl-C (130).
    """
    if signal.getsignal(signal.SIGINT) is spot_jax._stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = function() or 0
        sys.stdout.flush()
        return status
    except InputError as error:
        print(f'error: {printable(str(error))}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        _no_more_output()
        return 1
    except OSError as error:
        if error.filename is None:
            _no_more_output()  # it may be what failed
        print(f'error: {error.filename or "cannot write or read"}: {error.strerror or error}', file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f'error: out of memory: {str(error) or "use smaller sizes"}', file=sys.stderr)
        return 1
