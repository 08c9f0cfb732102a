"""Files of a run that are whole or absent: checkpoints, metrics, its folder."""
