"""TensorBoard's events of a run, a copy of its metrics for people: if they cannot be written, the run goes on without.

They are written at once, not by TensorBoard's own writer, whose thread would tell of a full disk by a traceback.
"""

import importlib.util
import os
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spot_jax.system.errors import first_line

Row = Mapping[str, Any]


def _scalars(row: Row) -> Iterable[tuple[str, int, float]]:
    """A row's tags, steps and values."""
    for name, value in row.items():
        if '/' in name and value != '':
            yield f'{name}/{row["phase"]}_member_{row["member"]}', int(row['gradient_steps']), float(value)


class EventWriter:
    """Appends rows of metrics as events to a file of its own; does nothing where TensorBoard is not installed."""

    def __init__(self, folder: Path, before: Sequence[Row], whole: bool = True):
        """`before` are the rows that a resumed run has: later events, of a killed process, are cut off.

        None are if the rows are not the `whole`: the events are then the only copy of the others.
        """
        self._file: Any = None
        if importlib.util.find_spec('tensorboard') is None:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.plugins.scalar.summary_v2 import scalar_pb
            from tensorboard.summary.writer.record_writer import RecordWriter

            folder.mkdir(exist_ok=True)
            if whole:
                _cut_off(folder, {scalar[:2] for row in before for scalar in _scalars(row)}, Event)
            now = time.time()
            name = f'events.out.tfevents.{now:020.9f}.{os.getpid()}'  # TensorBoard reads them in this order
            self._event, self._scalar_pb = Event, scalar_pb
            self._file = (folder / name).open('wb', buffering=0)
            self._records = RecordWriter(self._file)
            self._records.write(Event(wall_time=now, file_version='brain.Event:2').SerializeToString())
        except Exception as error:  # a broken installation raises anything
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        reason = first_line(error)
        print(f'no TensorBoard events from now on: {reason}', file=sys.stderr)
        self.close()

    def write(self, rows: Sequence[Row]) -> None:
        """Writes the metrics of rows."""
        if self._file is None:
            return
        try:
            for tag, step, value in (scalar for row in rows for scalar in _scalars(row)):
                event = self._event(wall_time=time.time(), step=step, summary=self._scalar_pb(tag, value))
                self._records.write(event.SerializeToString())
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _cut_off(folder: Path, keep: set[tuple[str, int]], event_type: Any) -> None:
    """Cuts each file of events off at the first that is not among those to `keep`, or that a newer file has, too."""
    seen: set[tuple[str, int]] = set()
    for path in sorted(folder.glob('events.out.tfevents.*'), reverse=True):
        data, end = path.read_bytes(), 0
        while end + 12 <= len(data):
            size = struct.unpack_from('<Q', data, end)[0]  # a record: its size, a checksum, itself, a checksum
            after = end + 12 + size + 4
            if after > len(data):
                break
            event = event_type.FromString(data[end + 12 : after - 4])
            scalars = {(value.tag, event.step) for value in event.summary.value}
            if scalars & seen or not scalars <= keep:
                break
            seen |= scalars
            end = after
        if end < len(data):
            os.truncate(path, end)
