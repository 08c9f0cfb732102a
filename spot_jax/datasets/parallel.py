"""Episodes from several processes: the same ones in the same order, whatever the number of processes."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from tqdm import tqdm

Episode = dict[str, Any]  # the fields of Minari's EpisodeBuffer, arrays or dicts of arrays


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


def episodes(play: Callable[[int], Episode], transitions: int, workers: int) -> Iterator[Any]:
    """Episodes `play(0)`, `play(1)`, ..., as Minari's buffers, that add up to exactly `transitions` steps.

    `play` is pickled and must depend on the episode's number only. Each of the `workers` is a process of its own, also
    if it is the only one, so that all have the same settings.
    """
    from minari.data_collector import EpisodeBuffer

    environment = dict(os.environ)
    _one_blas_thread()
    try:
        with (
            ProcessPoolExecutor(workers, get_context('spawn')) as pool,
            tqdm(total=transitions, unit=' transitions', disable=not sys.stderr.isatty()) as bar,
        ):
            futures = deque(pool.submit(play, k) for k in range(2 * workers))
            number, count = len(futures), 0
            try:
                while count < transitions:
                    episode = cut(futures.popleft().result(), transitions - count)
                    futures.append(pool.submit(play, number))
                    number += 1
                    count += len(episode['actions'])
                    bar.update(len(episode['actions']))
                    yield EpisodeBuffer(**episode)
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        os.environ.clear()
        os.environ.update(environment)
