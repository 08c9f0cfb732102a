"""What each robot is trained with: data, one row each."""

from typing import NamedTuple

from spot_jax.acting.tasks import REFERENCE_RETURNS, family

MEDIUM_SHARES = (1 / 3, 1 / 2)  # of D4RL's expert return: `medium` is the first policy between them


class Settings(NamedTuple):
    """Of one robot. Everything but `steps` shapes the training; more steps only make it longer."""

    environment: str  # as gymnasium calls it; 'MODULE:ID' imports the module first
    steps: int = 1_000_000  # environment steps, of all environments together
    num_envs: int = 8
    rounds: int = 8  # steps in each environment between two chunks of updates
    update_ratio: float = 0.25  # critic updates per environment step
    warmup_steps: int = 8192  # random actions, no updates
    capacity: int = 1_000_000  # rows that the replay ring keeps
    batch_size: int = 256
    hidden_dims: tuple[int, ...] = (256, 256)
    layer_norm: bool = True  # in the critics
    lr: float = 5e-4
    discount: float = 0.99
    n_step: int = 3
    tau: float = 0.01  # of every policy update
    policy_freq: int = 2
    initial_temperature: float = 0.2
    evaluation_interval: int = 16_384  # environment steps
    medium_interval: int = 4096  # the same until `medium` is found: returns rise fast there
    evaluation_episodes: int = 10
    checkpoint_interval: int = 65_536

    @property
    def chunk(self) -> int:
        """Environment steps between two chunks of updates."""
        return self.num_envs * self.rounds

    @property
    def reference_return(self) -> float | None:
        """D4RL's expert return, if it has one."""
        references = REFERENCE_RETURNS.get(family(self.environment))
        return references[1] if references else None

    def is_medium(self, value: float) -> bool:
        """Whether an evaluation's return is a medium policy's; returns jump, so there is an upper end too."""
        low, high = MEDIUM_SHARES
        return self.reference_return is not None and low <= value / self.reference_return <= high


SETTINGS = {
    'hopper': Settings('Hopper-v5'),
    'walker2d': Settings('Walker2d-v5', steps=1_500_000),
    # 3-step returns come to 5743 after 278 528 steps, 1-step returns to 6429; 128 rows take half the time of 256.
    'halfcheetah': Settings('HalfCheetah-v5', steps=3_000_000, n_step=1, batch_size=128, update_ratio=0.5),
    'ant': Settings(
        'spot_jax.behavior.ant:spot_jax/AntWaypoint-v0',
        num_envs=16,
        rounds=16,
        lr=5e-4,
        discount=0.98,
        n_step=3,
        tau=0.005,
    ),
}
