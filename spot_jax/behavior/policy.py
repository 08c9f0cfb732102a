"""Behaviour policies as NumPy functions: whoever makes data with them needs no JAX."""

import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from spot_jax.system.errors import InputError, first_line

WEIGHTS = Path(__file__).with_name('weights')
LOG_STD_RANGE = (-5.0, 2.0)


def bounded(unit: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions `[..., A]` in [-1, 1] as those between `low` and `high` [A]."""
    return low + (unit + 1) * (0.5 * (high - low))


class Policy(NamedTuple):
    """A squashed Gaussian policy: ReLU layers, then the mean and the raw log-deviation of each action."""

    kernels: tuple[np.ndarray, ...]  # [I, H] of each layer, float32
    biases: tuple[np.ndarray, ...]  # [H]
    action_low: np.ndarray  # [A], the environment's bounds
    action_high: np.ndarray

    def __call__(self, observations: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Actions `[..., A]` float32 in the environment's bounds, of raw observations `[..., O]`; see `unit`."""
        return bounded(self.unit(observations, noise), self.action_low, self.action_high)

    def unit(self, observations: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Actions `[..., A]` in [-1, 1].

        With standard normal `noise` `[..., A]` they are samples; without it, the most likely action before squashing.
        Raises InputError if the observations have another size.
        """
        x, size = np.asarray(observations, np.float32), len(self.kernels[0])
        if x.shape[-1:] != (size,):
            raise InputError(f'observations of shape {x.shape}: this policy takes [..., {size}]')
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ kernel + bias, 0)
        x = x @ self.kernels[-1] + self.biases[-1]
        size = len(self.action_low)
        unit = x[..., :size]
        if noise is not None:
            low, high = LOG_STD_RANGE
            std = np.exp(low + 0.5 * (high - low) * (np.tanh(x[..., size:]) + 1))
            unit = unit + std * noise.astype(np.float32)
        return np.tanh(unit)

    def __repr__(self) -> str:
        return f'Policy({len(self.kernels[0])} numbers to {len(self.action_low)} actions)'

    def to_bytes(self) -> bytes:
        """The arrays as an .npz file."""
        layers: dict[str, Any] = {f'kernel_{i}': kernel for i, kernel in enumerate(self.kernels)}
        layers |= {f'bias_{i}': bias for i, bias in enumerate(self.biases)}
        buffer = io.BytesIO()
        np.savez(buffer, action_low=self.action_low, action_high=self.action_high, **layers)
        return buffer.getvalue()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """What `to_bytes` has written."""
        count = sum(name.startswith('kernel_') for name in arrays)
        kernels, biases = (tuple(arrays[f'{kind}_{i}'] for i in range(count)) for kind in ('kernel', 'bias'))
        return cls(kernels, biases, arrays['action_low'], arrays['action_high'])


def _check(policy: Policy) -> None:
    """Raises ValueError unless the arrays fit together."""
    size = len(policy.action_low)
    sizes = [len(policy.kernels[0]), *(bias.size for bias in policy.biases)]
    expected = [*itertools.pairwise(sizes)]
    if [kernel.shape for kernel in policy.kernels] != expected or sizes[-1] != 2 * size:
        raise ValueError('its layers do not fit together')
    if policy.action_low.shape != policy.action_high.shape or policy.action_low.ndim != 1:
        raise ValueError('its action bounds do not fit together')
    for array in (*policy.kernels, *policy.biases, policy.action_low, policy.action_high):
        if array.dtype.kind != 'f' or not np.isfinite(array).all():
            raise ValueError('it has arrays of other things than finite numbers')


def read(path: Path) -> Policy:
    """The policy in an .npz file; raises InputError if there is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            policy = Policy.from_arrays(dict(arrays))
        _check(policy)
        return policy
    except Exception as error:  # NumPy and zipfile raise many kinds
        raise InputError(f'{path} is no behaviour policy: {first_line(error)}') from error


def names() -> list[str]:
    """The policies that are shipped."""
    return sorted(path.stem for path in WEIGHTS.glob('*.npz'))


def _shipped(name: str) -> Path:
    if name not in names():
        raise InputError(f'no behaviour policy {name!r}: there are {", ".join(names()) or "none yet"}')
    return WEIGHTS / f'{name}.npz'


def load(name: str) -> Policy:
    """A shipped policy: 'hopper-medium'. Raises InputError if there is none of that name."""
    return read(_shipped(name))


def card(name: str) -> dict[str, Any]:
    """What is known of a shipped policy: its environment, how it was trained, its measured returns."""
    return json.loads(_shipped(name).with_suffix('.json').read_text())
