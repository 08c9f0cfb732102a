"""What a run is made of, from its config and its dataset: networks, algorithm, scaling."""

import numpy as np
from ml_collections import ConfigDict

from spot_jax.datasets import Dataset
from spot_jax.networks import CVAE, Actor, DoubleCritic
from spot_jax.population import Spec
from spot_jax.regularizers import REGULARIZERS
from spot_jax.scaling import Scaling
from spot_jax.td3 import TD3


def build_spec(config: ConfigDict, observation_dim: int, action_dim: int) -> Spec:
    """The static facts of a run, from its config and its dataset's sizes."""
    cvae = CVAE(action_dim, tuple(config.cvae.hidden_dims), config.cvae.latent_dim)
    reg = config.regularizer
    td3 = TD3(
        Actor(action_dim, tuple(config.actor.hidden_dims), config.actor.output_init, config.actor.dropout),
        DoubleCritic(tuple(config.critic.hidden_dims), config.critic.output_init),
        REGULARIZERS[reg.name](cvae, reg.estimator, reg.num_samples),
        config.policy_freq,
        config.normalize_q,
    )
    return Spec(cvae, td3, observation_dim, config.batch_size, config.cvae.lr, config.precision)


def normalize(dataset: Dataset, enabled: bool) -> Scaling:
    """Normalises the dataset's observations in place, (s − mean) / (std + 1e-3), and says how."""
    o, rows = dataset.observation_dim, dataset.transitions
    mean, std = np.zeros(o, np.float32), np.ones(o, np.float32)
    if enabled:
        mean = rows[:, :o].mean(axis=0, dtype=np.float64).astype(np.float32)
        std = (rows[:, :o].std(axis=0, dtype=np.float64) + 1e-3).astype(np.float32)
        for columns in (rows[:, :o], rows[:, -o:]):
            columns -= mean
            columns /= std
    return Scaling(mean, std, dataset.action_low, dataset.action_high)
