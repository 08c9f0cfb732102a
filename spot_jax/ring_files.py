"""A ring's rows on disk: each checkpoint adds a file with what is new since the one before.

A checkpoint with all rows would take several copies of the ring in memory, and its length again in time, each time.
"""

import io
from pathlib import Path

import numpy as np

from spot_jax.checkpoint import write_atomically
from spot_jax.errors import InputError
from spot_jax.online import Ring


class RingFiles:
    """The files of one run's ring; which of them belong to a checkpoint, the checkpoint says."""

    def __init__(self, folder: Path, segments: np.ndarray | None = None):
        """`segments` [S, 2] is what a checkpoint says: the counts of transitions at each file's start and end."""
        self._folder = folder
        self.segments = np.zeros((0, 2), np.int64) if segments is None else segments

    def _path(self, start: int, end: int) -> Path:
        return self._folder / f'{start:010d}_{end:010d}.npy'

    def save(self, ring: Ring) -> np.ndarray:
        """Writes the rows that no file has yet; returns the segments that a checkpoint of now consists of."""
        capacity, end = ring.rows.shape[2], int(ring.count)
        start = max(self.segments[-1, 1] if len(self.segments) else 0, end - capacity)
        if start < end:
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(ring.rows[:, :, np.arange(start, end) % capacity]))
            self._folder.mkdir(exist_ok=True)
            write_atomically(self._path(start, end), buffer.getvalue())
            self.segments = np.append(self.segments, [[start, end]], axis=0)
        return self.segments

    def load(self, shape: tuple[int, int], capacity: int, row_size: int) -> Ring:
        """The ring of members [C, P] as it was saved, in NumPy; raises InputError if a file is missing or damaged."""
        rows = np.zeros((*shape, capacity, row_size), np.float32)
        for start, end in self.segments:
            path = self._path(start, end)
            try:
                rows[:, :, np.arange(start, end) % capacity] = np.load(path)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f'cannot read {path}, which the checkpoint needs: {error}') from error
        return Ring(rows, np.int32(self.segments[-1, 1] if len(self.segments) else 0))
