"""The settings of a run that takes seconds, most of them to compile."""

from spot_jax.run.config import default_config

ID = 'spot_jax/pointmaze/umaze-v0'


def tiny(**changes):
    """The config, with `changes` of dotted names."""
    config = default_config()
    config.update_from_flattened_dict(
        {
            'dataset_id': ID,
            'task': 'pointmaze',
            'seeds': (0, 1),
            'batch_size': 16,
            'log_interval': 10,
            'cvae.steps': 20,
            'cvae.hidden_dims': (8,),
            'offline.steps': 40,
            'evaluation.interval': 20,
            'evaluation.episodes': 2,
            'evaluation.workers': 0,
            'checkpoint.interval': 10,
            **changes,
        }
    )
    return config
