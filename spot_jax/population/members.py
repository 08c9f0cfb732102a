"""The members of a population and how they are laid out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spot_jax.core.method import Method
from spot_jax.system.errors import InputError


class Member(NamedTuple):
    """One member of a population."""

    seed: int
    hyperparameters: dict[str, float]
    number: int = 0  # in the whole population


class Population(NamedTuple):
    """All members of a run and how they are laid out: [C, P], C groups that share seed and stages, in P settings."""

    members: list[Member]
    shape: tuple[int, int]
    method: Method

    def per_member(self, values: Any) -> np.ndarray:
        """One value per member, `[C * P]`, from those of a stage [C] or of the policies [C, P]."""
        return np.broadcast_to(np.asarray(values).reshape(self.shape[0], -1), self.shape).ravel()

    def part(self, index: int, count: int) -> 'Population':
        """The members that the `index`-th of `count` hosts trains; few hosts share out groups, many their settings too.

        Raises InputError if there are none.
        """
        c, p = self.shape
        grid = np.arange(c * p).reshape(c, p)
        chosen = grid[index::count] if count <= c else grid[[index % c], index // c :: len(range(index % c, count, c))]
        if not 0 <= index < count or chosen.size == 0:
            raise InputError(f'config.part=({index}, {count}): there are {c * p} members to share out')
        return self._replace(members=[self.members[i] for i in chosen.ravel()], shape=chosen.shape)

    def groups(self) -> list[tuple[float, ...]]:
        """The seed of each group that shares its stages, and what else the stages depend on, `[C]`."""
        first = self.members[:: self.shape[1]]
        return [(m.seed, *(m.hyperparameters[name] for name in self.method.shared_by)) for m in first]

    def seeds(self) -> jax.Array:
        """The seed of each group, `[C]`."""
        return jnp.array([m.seed for m in self.members[:: self.shape[1]]], jnp.uint32)

    def hyperparameters(self) -> Any:
        """The traced hyperparameters, arrays [C, P]."""
        kind = self.method.hyperparameters
        values = ([m.hyperparameters[name] for m in self.members] for name in kind._fields)
        return kind(*(jnp.array(v, jnp.float32).reshape(self.shape) for v in values))
