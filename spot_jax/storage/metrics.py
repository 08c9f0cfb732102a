"""Metrics of a run: `metrics.csv`, and TensorBoard events when TensorBoard is installed, and other copies."""

import csv
import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from spot_jax.storage.checkpoint import DamagedError
from spot_jax.storage.events import EventWriter
from spot_jax.system.errors import InputError

Row = Mapping[str, Any]
EMPTY = hashlib.sha256(b'').hexdigest()


def check(written: bytes, state: Mapping[str, Any]) -> None:
    """Raises DamagedError if `metrics.csv` does not begin with what a checkpoint knows of it."""
    position = state['metrics_position']
    begins = written[:position]
    # runs of older versions have no checksum
    same = state.get('metrics_sha256') in (None, hashlib.sha256(begins).hexdigest())
    if not 0 <= position <= len(written) or not same or (begins and not begins.endswith(b'\n')):
        raise DamagedError('metrics.csv is not as it was')
    try:
        parse(begins.decode())
    except ValueError as error:
        raise DamagedError(f'metrics.csv is no table: {error}') from error


def parse(text: str) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`: column to cell. A last line without an end is being written just now: left out.

    Raises ValueError if they are no table of metrics.
    """
    try:
        header, *rows = list(csv.reader(io.StringIO(text[: text.rfind('\n') + 1], newline=''), strict=True)) or [[]]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if len(set(header)) < len(header):
        raise ValueError('a column appears twice')
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f'line {number} has {len(row)} cells for {len(header)} columns')
    return [dict(zip(header, row, strict=True)) for row in rows]


class Copy(Protocol):
    """A copy of the metrics for people: if it cannot be written, it says so once, and the run goes on without."""

    def write(self, rows: Sequence[Row]) -> None:
        """Adds rows."""

    def close(self) -> None:
        """All is written."""


class MetricWriter:
    """Appends rows to `metrics.csv`. Timings never go in, so that equal runs give equal files."""

    def __init__(
        self, workdir: Path, columns: Sequence[str], position: int, more: Sequence[Callable[[list[Row]], Copy]] = ()
    ):
        """Goes on after byte `position`: rows that a killed run wrote after its last checkpoint are cut off.

        `more` make copies beside TensorBoard's, from the rows that are there. Raises InputError, as all methods, if the
        file cannot be written.
        """
        self._path, self._columns = workdir / 'metrics.csv', list(columns)
        existed = self._path.exists()
        try:
            self._file = self._path.open('a+b', buffering=0)
            self._file.truncate(position)
            self._file.seek(0)
            before = self._file.read()
        except OSError as error:
            raise self._failure(error) from error
        self._sha256 = hashlib.sha256(before)
        if position == 0:
            self._append([dict(zip(columns, columns, strict=True))])
        rows: list[Row] = [*parse(before.decode())]
        makers: list[Callable[[list[Row]], Copy]] = [
            partial(EventWriter, workdir / 'tensorboard', whole=existed),
            *more,
        ]
        self._copies = [make(rows) for make in makers]

    def _failure(self, error: OSError) -> InputError:
        return InputError(f'cannot write {self._path}: {error.strerror}')

    def _append(self, rows: Sequence[Row]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval='', lineterminator='\n').writerows(rows)
        rest = text.getvalue().encode()
        self._sha256.update(rest)
        try:
            while rest:  # a disk that fills up takes a part
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._failure(error) from error

    def write(self, rows: Sequence[Row]) -> None:
        """Writes rows (column to value; columns left out stay empty)."""
        self._append(rows)
        for each in self._copies:
            each.write(rows)

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def sync(self) -> dict[str, Any]:
        """What a checkpoint remembers: how many bytes there are, and their checksum. They are on the disk by then."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from error
        return {'metrics_position': self.position, 'metrics_sha256': self._sha256.hexdigest()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        for each in self._copies:
            each.close()
