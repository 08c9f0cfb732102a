"""HDF5 files: read only if all that they hold is their own; written so that a full disk is an error like others."""

import errno
import json
import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5i, h5l, h5o

from spot_jax.system.errors import InputError


def open_own(path: Path, cache_bytes: int = 2**20) -> h5py.File:
    """Opens a file to read; `cache_bytes` of unpacked chunks are kept of each array.

    Raises InputError if it is no HDF5 file, is damaged, or says that something of it is to be read from other files.
    """
    try:
        if not path.is_file():
            raise InputError(f'{path} is a folder or a device' if path.exists() else f'{path}: there is no such file')
        file = h5py.File(path, 'r', rdcc_nbytes=cache_bytes)
    except OSError as error:
        raise InputError(f'{path} is no HDF5 file, or is damaged: {str(error).splitlines()[0]}') from error
    try:
        _refuse_foreign(file)
    except BaseException as error:
        file.close()
        if isinstance(error, OSError | KeyError | RuntimeError | ValueError):
            raise InputError(f'{path} is damaged: its arrays cannot be found; get it again') from error
        raise
    return file


def check_own(data: Path) -> None:
    """Checks the HDF5 file in a Minari dataset's folder `data`, if there is one, before Minari reads it.

    Raises InputError if it is damaged, leads to other files, or has fewer episodes than the metadata say.
    """
    path = data / 'main_data.hdf5'
    if not path.exists():
        return
    said = json.loads((data / 'metadata.json').read_text())['total_episodes']
    with open_own(path) as file:
        if type(said) is not int or said > len(file):
            raise InputError(f'{path} has {len(file)} episodes, metadata.json says {said!r}')


def _refuse_foreign(file: h5py.File) -> None:
    """Raises InputError if a link or an array of the file leads to another file.

    HDF5 follows them to whatever the user may read, so that a file from elsewhere would bring in files of the user's.
    Links are looked at before they are followed; soft ones stay within the file.
    """

    def refuse(group: h5g.GroupID, name: bytes, what: str) -> None:
        where = ((h5i.get_name(group) or b'') + b'/' + name).lstrip(b'/').decode(errors='replace')
        raise InputError(f'{file.filename}: {where!r} is {what}; only files that hold all their data are read')

    groups, seen = [file.id], set()
    while groups:
        group = groups.pop()
        for name in group:
            kind = group.links.get_info(name).type
            if kind == h5l.TYPE_SOFT:
                continue
            if kind != h5l.TYPE_HARD:
                refuse(group, name, 'a link to another file')
            item = h5o.open(group, name)
            if isinstance(item, h5d.DatasetID):
                form = item.get_create_plist()
                if form.get_layout() == h5d.VIRTUAL or form.get_external_count():
                    refuse(group, name, 'kept in another file')
            elif isinstance(item, h5g.GroupID):
                address = h5o.get_info(item).addr  # a group may be in itself
                if address not in seen:
                    seen.add(address)
                    groups.append(item)


class _Unfailing:
    """A file for HDF5 to write, which never learns that a write failed: `error` keeps the first failure.

    HDF5 cannot cope with one: it goes on, prints thousands of lines and ends in a segmentation fault. So what does not
    go to the disk stays in memory, to be read again, until the file is closed; whoever writes looks at `error`.
    """

    def __init__(self, path: Path):
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._position = self._size = 0
        self._unwritten: list[tuple[int, bytes]] = []
        self.error: OSError | None = None

    def _attempt(self, function: Any, *args: Any) -> Any:
        if self.error is None:
            try:
                return function(*args)
            except OSError as error:
                self.error = error
        return None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position, as files do."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def write(self, data: Any) -> int:
        """Writes bytes at the position."""
        left, start = bytes(data), self._position
        self._position += len(left)
        self._size = max(self._size, self._position)
        while left and (count := self._attempt(os.pwrite, self._fd, left, start)):
            left, start = left[count:], start + count
        if left:
            self.error = self.error or OSError(errno.EIO, os.strerror(errno.EIO))
            self._unwritten.append((start, left))
        return len(data)

    def readinto(self, buffer: Any) -> int:
        """Reads the buffer's length from the position on; what was never written is zero."""
        view = memoryview(buffer).cast('B')
        start, stop = self._position, self._position + len(view)
        found = os.pread(self._fd, len(view), start)
        view[:] = found + bytes(len(view) - len(found))
        for at, data in self._unwritten:
            low, high = max(at, start), min(at + len(data), stop)
            if low < high:
                view[low - start : high - start] = data[low - at : high - at]
        self._position = stop
        return len(view)

    def read(self, size: int) -> bytes:
        """The next bytes."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def truncate(self, size: int) -> None:
        """Sets the file's length."""
        self._size = size
        self._attempt(os.ftruncate, self._fd, size)

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Closes the file, once all of it is on the disk."""
        self._attempt(os.fsync, self._fd)
        os.close(self._fd)


def _put(group: h5py.Group, name: str, value: Any) -> None:
    """An array, or a dict of them, in Minari's layout: Minari can append to it."""
    if isinstance(value, dict):
        inner = group.create_group(name)
        for key, item in value.items():
            _put(inner, key, item)
    elif value is not None:
        array = np.asarray(value)
        group.create_dataset(name, data=array, chunks=True, maxshape=(None, *array.shape[1:]))


def _add(file: h5py.File, number: int, episode: Any) -> None:
    group = file.create_group(f'episode_{number}')
    group.attrs['id'] = number
    group.attrs['total_steps'] = len(episode.rewards)
    for name in ('observations', 'actions', 'rewards', 'terminations', 'truncations', 'infos'):
        _put(group, name, getattr(episode, name))


def write_episodes(storage: Any, episodes: Iterator[Any]) -> None:
    """Fills a new Minari storage with Minari's episode buffers, of arrays or dicts of them; OSError if it cannot."""
    path = storage.data_path / 'main_data.hdf5'
    raw, number, steps = _Unfailing(path), 0, 0
    try:
        # Ctrl-C raises in the main thread alone: HDF5, which calls `raw`, is not to be interrupted either.
        with ThreadPoolExecutor(1) as thread:
            file = thread.submit(h5py.File, raw, 'w', track_order=True).result()
            try:
                for episode in episodes:
                    thread.submit(_add, file, number, episode).result()
                    if raw.error:
                        break
                    number, steps = number + 1, steps + len(episode.rewards)
            finally:
                thread.submit(file.close).result()
    finally:
        raw.close()
        if isinstance(episodes, Generator):
            episodes.close()  # its processes end now
    if raw.error:
        raise OSError(raw.error.errno, raw.error.strerror, str(path))
    storage.update_metadata({'total_steps': steps, 'total_episodes': number, 'dataset_size': storage.get_size()})
