"""Throughput of spot_jax beside a PyTorch baseline: `python -m spot_jax.benchmark --help`."""
