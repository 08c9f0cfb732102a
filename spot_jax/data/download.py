"""Datasets from Minari's hosts; they appear whole or not at all."""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from spot_jax.data.store import hidden_name, new_dataset, root


@contextlib.contextmanager
def _store_at(folder: Path) -> Iterator[None]:
    """Minari's folder of all datasets is another one in the block."""
    before = os.environ.get('MINARI_DATASETS_PATH')
    os.environ['MINARI_DATASETS_PATH'] = str(folder)
    try:
        yield
    finally:
        del os.environ['MINARI_DATASETS_PATH']
        if before is not None:
            os.environ['MINARI_DATASETS_PATH'] = before


def download(dataset_id: str) -> None:
    """Downloads a dataset that is not here; what an interruption has left is gone on with.

    Raises InputError if it cannot be written here, and whatever Minari and its hosts' clients raise.
    """
    import minari
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # else it tells of each of its retries
    aside = root() / f'{hidden_name(dataset_id)}-download'
    with new_dataset(dataset_id, overwrite=False) as folder:
        shutil.rmtree(aside / dataset_id, ignore_errors=True)  # Minari would take it to be whole
        aside.mkdir(exist_ok=True)
        try:
            with _store_at(aside), contextlib.redirect_stdout(io.StringIO()):
                minari.download_dataset(dataset_id)
            (aside / dataset_id / 'data').rename(folder / 'data')
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            with contextlib.suppress(OSError):
                aside.rmdir()  # unless it holds a part of the dataset
