"""No preset: every field has its default, and `--config.dataset_id=ID` names the data.

The commands that `python -m spot_jax.report` prints build on it.
"""

from ml_collections import ConfigDict

from spot_jax.run.config import default_config


def get_config() -> ConfigDict:
    """The default config."""
    return default_config()
