"""Errors that are for people: one clear line, no traceback."""

import os
import sys
from collections.abc import Callable


class InputError(Exception):
    """Something the user gave is wrong: the message says what, what was expected and what to do."""


def exit_status(function: Callable[[], int | None]) -> int:
    """Runs a command's body; an `InputError` becomes one line on stderr and exit status 2, Ctrl-C status 130."""
    try:
        return function() or 0
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115 (flushed at exit)
        return 1
