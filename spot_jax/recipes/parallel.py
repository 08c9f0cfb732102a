"""Episodes from several processes: the same ones in the same order, whatever the number of processes.

They are put aside in parts as they come, so that an interrupted generation goes on from the last whole part.
"""

import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_context, parent_process, resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spot_jax.system.errors import InputError
from spot_jax.system.workers import NO_GUARD, missing_guard

Episode = dict[str, Any]  # the fields of Minari's EpisodeBuffer, arrays or dicts of arrays
PART = 50_000  # transitions that are put aside together


def cut(episode: Episode, length: int) -> Episode:
    """The first `length` steps of an episode; what is cut off makes the last one a truncation."""
    if len(episode['actions']) <= length:
        return episode
    kept: Episode = {}
    for name, value in episode.items():
        count = length + (name in ('observations', 'infos'))
        kept[name] = {k: v[:count] for k, v in value.items()} if isinstance(value, dict) else value[:count]
    kept['truncations'] = np.arange(length) == length - 1
    return kept


def _one_blas_thread() -> None:
    # Read when numpy is loaded, so for the processes to come. More threads than one add up in another order.
    for name in ('OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_NUM_THREADS'):
        os.environ[name] = '1'


def _serve_one_parent() -> None:
    """In a worker: the main process alone is stopped by Ctrl-C, and takes its workers with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _stream(play: Callable[[int], Episode], workers: int, parts: Path) -> Generator[Episode, None, None]:
    """All episodes, first those that are there, then played ones, without an end."""
    from spot_jax.storage import checkpoint

    number = 0
    for path in sorted(parts.glob('*.msgpack')):
        part = checkpoint.read(path) if path.stem == f'{number:010d}' else None
        if part is None:  # damaged, or one before it is missing: it and what follows is made again
            break
        number += len(part)
        yield from (part[str(i)] for i in range(len(part)))
    yield from _played(play, number, workers, parts)


def _played(play: Callable[[int], Episode], number: int, workers: int, parts: Path) -> Iterator[Episode]:
    """Episodes from `number` on, without an end."""
    from spot_jax.storage import checkpoint

    part: list[Episode]
    environment = dict(os.environ)
    _one_blas_thread()
    first, part = number, []
    try:
        with ProcessPoolExecutor(workers, get_context('spawn'), _serve_one_parent) as pool:
            resource_tracker.ensure_running()  # else started below, it would let signals through again
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until `_serve_one_parent`
            try:
                futures = deque(pool.submit(play, number + k) for k in range(2 * workers))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            processes = list(pool._processes.values())
            try:
                while True:
                    part.append(futures.popleft().result())
                    number += 1
                    futures.append(pool.submit(play, number + 2 * workers - 1))
                    yield part[-1]
                    if sum(len(episode['actions']) for episode in part) >= PART:
                        checkpoint.write(parts / f'{first:010d}.msgpack', {str(i): e for i, e in enumerate(part)})
                        first, part = number, []
            except BrokenExecutor as error:
                for process in processes:
                    process.join(1.0)  # its status is not known yet
                if any(process.exitcode == NO_GUARD for process in processes):
                    raise InputError(missing_guard()) from error
                raise InputError(
                    'a process that plays episodes has died (killed, or out of memory): the same command goes on'
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        os.environ.clear()
        os.environ.update(environment)


def episodes(play: Callable[[int], Episode], transitions: int, workers: int, parts: Path) -> Iterator[Any]:
    """Episodes `play(0)`, `play(1)`, ..., as Minari's buffers, that add up to exactly `transitions` steps.

    `play` is pickled and must depend on the episode's number only. Each of the `workers` is a process of its own, also
    if it is the only one, so that all have the same settings. Episodes in the folder `parts` are not played again.
    """
    from minari.data_collector import EpisodeBuffer

    parts.mkdir(exist_ok=True)
    count = 0
    with (
        tqdm(total=transitions, unit=' transitions', disable=not sys.stderr.isatty()) as bar,
        contextlib.closing(_stream(play, workers, parts)) as stream,
    ):
        for whole in stream:
            episode = cut(whole, transitions - count)
            count += len(episode['actions'])
            bar.update(len(episode['actions']))
            yield EpisodeBuffer(**episode)
            if count == transitions:
                return
