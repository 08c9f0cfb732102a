"""Worker processes: they follow their parent, leave signals to it, and do not run its script a second time."""

import ctypes
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

from spot_jax.system.errors import InputError

NO_GUARD = 97  # exit status of a worker that was about to train
STOPS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1  # of Linux


def refuse_a_rerun() -> None:
    """Ends this process if it is a worker that is being started, and therefore imports the script that started it.

    A script without `if __name__ == '__main__'` would do everything again, in the same folders.
    """
    if getattr(multiprocessing.current_process(), '_inheriting', False):
        os._exit(NO_GUARD)  # silently: the parent tells of it, in one line


def require_guard() -> None:
    """Raises InputError if processes that are started would run this one's script again: better now than in hours.

    Interactive sessions and this package's commands do not; else a process that does nothing tells.
    """
    main = sys.modules['__main__']
    spec, path = getattr(main, '__spec__', None), getattr(main, '__file__', None)
    if path is None or (spec is not None and spec.name.startswith('spot_jax.')):
        return
    if not os.path.exists(path):  # of a script that comes from elsewhere, such as <stdin>
        raise InputError(f'worker processes cannot import {path}: run a file, or take 0 workers')
    process = multiprocessing.get_context('spawn').Process(target=int)
    process.start()
    process.join()
    if process.exitcode == NO_GUARD:
        raise InputError(missing_guard())
    if process.exitcode:
        raise InputError(
            f'worker processes fail to import {path} (status {process.exitcode}): mend it, or take 0 workers'
        )


def missing_guard() -> str:
    """What the parent tells of it."""
    script = getattr(sys.modules['__main__'], '__file__', 'the script')
    return f"{script} runs again in each worker process: put what it does below `if __name__ == '__main__':`"


def start(process: BaseProcess) -> None:
    """Starts a process in which signals to stop are held back until `follow_parent`, also while it still imports."""
    multiprocessing.resource_tracker.ensure_running()  # else started below, it would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """In a worker: the main process alone is stopped by signals, and takes this one with it, however it ends.

    The worker leads a process group, so that what an environment started ends with it, too.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    if sys.platform == 'linux':  # also while an environment holds Python's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()  # elsewhere; and if it was gone already
    os.setpgid(0, 0)
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def kill(process: BaseProcess, patience: float = 5.0) -> None:
    """Ends a worker, if it still runs, and what it started, without asking them."""
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it does not lead a group yet, or nothing of the group is left
        process.kill()
    process.join(patience)
