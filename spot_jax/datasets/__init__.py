"""Datasets: Minari in, packed transitions out; `python -m spot_jax.datasets` lists, shows and makes them."""

from spot_jax.datasets.load import Dataset, Selection, held_id, load

__all__ = ['Dataset', 'Selection', 'held_id', 'load']
