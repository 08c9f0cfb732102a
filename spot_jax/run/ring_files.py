"""A ring's rows on disk: each checkpoint adds a file with what is new since the one before.

A checkpoint with all rows would take several copies of the ring in memory, and its length again in time, each time.
"""

import hashlib
import io
import tokenize
from pathlib import Path
from typing import Any

import numpy as np

from spot_jax.population.online import Ring
from spot_jax.storage.checkpoint import DamagedError, read_file, write_atomically
from spot_jax.system.errors import InputError


class RingFiles:
    """The files of one run's ring; which of them belong to a checkpoint, the checkpoint says."""

    def __init__(self, folder: Path, segments: np.ndarray | None = None, sha256: np.ndarray | None = None):
        """`segments` [S, 2] is what a checkpoint says: the counts of transitions at each file's start and end.

        `sha256` [S, 32] uint8 are the files' checksums; None: unknown, the checkpoint is an older version's.
        """
        self._folder = folder
        self.segments = np.zeros((0, 2), np.int64) if segments is None else segments
        self.sha256 = np.zeros((0, 32), np.uint8) if segments is None else sha256

    def _path(self, start: int, end: int) -> Path:
        return self._folder / f'{start:010d}_{end:010d}.npy'

    def save(self, ring: Ring) -> np.ndarray:
        """Writes the rows that no file has yet; returns the segments that a checkpoint of now consists of.

        Raises InputError if they cannot be written.
        """
        capacity, end = ring.rows.shape[2], int(ring.count)
        start = max(self.segments[-1, 1] if len(self.segments) else 0, end - capacity)
        if start < end:
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(ring.rows[:, :, np.arange(start, end) % capacity]))
            try:
                self._folder.mkdir(exist_ok=True)
            except OSError as error:
                raise InputError(f'cannot write {self._folder}: {error.strerror}') from error
            write_atomically(self._path(start, end), buffer.getvalue())
            self.segments = np.append(self.segments, [[start, end]], axis=0)
            if self.sha256 is not None:
                sha256 = np.frombuffer(hashlib.sha256(buffer.getvalue()).digest(), np.uint8)
                self.sha256 = np.append(self.sha256, sha256[None], axis=0)
        return self.segments

    def arrays(self) -> dict[str, Any]:
        """What a checkpoint keeps, after `save`."""
        return {'ring_segments': self.segments} | ({} if self.sha256 is None else {'ring_sha256': self.sha256})

    def _read(self, index: int, shape: tuple[int, int], row_size: int) -> tuple[np.ndarray, np.ndarray]:
        """A file's rows [C, P, N, D] and checksum [32]; raises DamagedError."""
        start, end = self.segments[index]
        path = self._path(start, end)
        try:
            data = read_file(path)
            sha256 = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
            if self.sha256 is not None and not np.array_equal(sha256, self.sha256[index]):
                raise DamagedError('its checksum differs')
            rows = np.load(io.BytesIO(data), allow_pickle=False)
            if not isinstance(rows, np.ndarray) or rows.shape != (*shape, end - start, row_size):
                raise DamagedError('it is of another shape')
            if rows.dtype != np.float32 or not np.isfinite(rows).all():
                raise DamagedError('it has other numbers')
        except (DamagedError, ValueError, EOFError, OSError, tokenize.TokenError) as error:  # the last four are NumPy's
            raise DamagedError(f'cannot read {path}, which the checkpoint needs: {error}') from error
        return rows, sha256

    def check(self, shape: tuple[int, int], row_size: int, steps: int) -> None:
        """Raises DamagedError unless all files of the ring of members [C, P] are as they were written.

        `steps` are the most that there can be.
        """
        segments = self.segments
        fits = isinstance(segments, np.ndarray) and segments.dtype == np.int64 and segments.shape[1:] == (2,)
        if not fits or not (np.diff(segments.ravel(), prepend=0, append=steps) >= 0).all():
            raise DamagedError('its ring_segments make no sense')
        sha256 = self.sha256
        if sha256 is not None and not (
            isinstance(sha256, np.ndarray) and sha256.dtype == np.uint8 and sha256.shape == (len(segments), 32)
        ):
            raise DamagedError('its ring_sha256 makes no sense')
        for index in range(len(segments)):
            self._read(index, shape, row_size)

    def load(self, shape: tuple[int, int], capacity: int, row_size: int) -> Ring:
        """The ring of members [C, P] as it was saved, in NumPy; raises InputError if a file is missing or damaged."""
        rows, found = np.zeros((*shape, capacity, row_size), np.float32), np.zeros((len(self.segments), 32), np.uint8)
        for index, (start, end) in enumerate(self.segments):
            try:
                rows[:, :, np.arange(start, end) % capacity], found[index] = self._read(index, shape, row_size)
            except DamagedError as error:
                raise InputError(str(error)) from error
        self.sha256 = found
        return Ring(rows, np.int32(self.segments[-1, 1] if len(self.segments) else 0))
