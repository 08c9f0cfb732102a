"""`python -m spot_jax.datasets`: lists, shows, generates and imports datasets."""
