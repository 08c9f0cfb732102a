"""Metrics of a run: `metrics.csv`, and TensorBoard events when TensorBoard is installed."""

import csv
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class MetricWriter:
    """Appends rows to `metrics.csv`. Timings never go in, so that equal runs give equal files."""

    def __init__(self, workdir: Path, columns: Sequence[str], position: int):
        """Goes on after byte `position`: rows that a killed run wrote after its last checkpoint are cut off."""
        self._columns = list(columns)
        self._file = (workdir / 'metrics.csv').open('a+', newline='')
        self._file.truncate(position)
        self._file.seek(0, os.SEEK_END)
        self._csv = csv.DictWriter(self._file, self._columns, restval='', lineterminator='\n')
        if position == 0:
            self._csv.writeheader()
        self._board = _tensorboard_writer(workdir)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows (column to value; columns left out stay empty) and flushes them."""
        self._csv.writerows(rows)
        self._file.flush()
        if self._board is not None:
            for row in rows:
                for name, value in row.items():
                    if '/' in name:
                        tag = f'{name}/{row["phase"]}_member_{row["member"]}'
                        self._board.add_scalar(tag, float(value), int(row['gradient_steps']))
            self._board.flush()

    @property
    def position(self) -> int:
        """Bytes written so far: what a checkpoint remembers."""
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _tensorboard_writer(workdir: Path) -> Any:
    """TensorBoard's own event writer, or None where it is not installed."""
    if importlib.util.find_spec('tensorboard') is None:
        return None
    from tensorboard.summary import Writer

    return Writer(str(workdir / 'tensorboard'))
