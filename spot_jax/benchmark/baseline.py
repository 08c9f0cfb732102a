"""The same updates in PyTorch, to measure against: written for this benchmark, one Python step per update.

`published` does what the authors' code does: in the actor step, gradients also gather in the parameters of the critic
and of the frozen CVAE, and minibatches are drawn from NumPy arrays. `tuned` does without both, has Adam in one kernel
on a GPU, and compiles its losses where torch.compile works. `graphed` replays a block of tuned updates as one CUDA
graph.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from spot_jax.core.types import Params
from spot_jax.methods.spot import Spec
from spot_jax.system import backend

LOG_STD_RANGE = (-4.0, 15.0)


def mlp(dims: Sequence[int]) -> nn.Sequential:
    """ReLU layers of sizes `dims`, the last one linear."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(dims):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def copy_weights(net: nn.Sequential, params: Params) -> None:
    """Copies the parameters of our flax `MLP` into `net`."""
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for i, layer in enumerate(linear):
            layer.weight.copy_(torch.from_numpy(np.array(params[f'Dense_{i}']['kernel']).T))
            layer.bias.copy_(torch.from_numpy(np.array(params[f'Dense_{i}']['bias'])))


class Baseline:
    """SPOT's networks, losses and updates for one member."""

    def __init__(
        self,
        spec: Spec,
        rows: np.ndarray,
        weight: float,
        beta: float,
        discount: float,
        tuned: bool,
        device: str = 'cpu',
    ):
        """`rows` [N, 2 * O + A + 2] are packed as in `types.unpack`; the other settings are the authors' own.

        All of it lies on the device, but for the published replay buffer.
        """
        self.device = torch.device(device)
        self.spec, self.tuned = spec, tuned
        self.weight, self.beta, self.discount = weight, beta, discount
        self.rng = np.random.default_rng(0)
        o, a, z = spec.observation_dim, spec.cvae.action_dim, spec.cvae.num_latents
        self.columns = (o, a, 1, 1, o)
        self.rows = torch.from_numpy(rows).to(self.device)
        ends = np.cumsum(self.columns)[:-1]
        self.arrays = [np.ascontiguousarray(c) for c in np.split(rows, ends, axis=1)]  # the published replay buffer
        actor_dims, critic_dims = spec.td3.actor.hidden_dims, spec.td3.critic.hidden_dims
        self.actor = mlp((o, *actor_dims, a))
        self.critics = nn.ModuleList(mlp((o + a, *critic_dims, 1)) for _ in range(2))
        self.encoder = mlp((o + a, *spec.cvae.hidden_dims, 2 * z))
        self.decoder = mlp((o + z, *spec.cvae.hidden_dims, a))
        for network in (self.actor, self.critics, self.encoder, self.decoder):
            network.to(self.device)
        self.reset()

    def reset(self) -> None:
        """Makes targets and optimisers anew."""
        self.target_actor, self.target_critics = copy.deepcopy(self.actor), copy.deepcopy(self.critics)
        self.cvae_parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        fused = self.tuned and self.device.type == 'cuda'
        adam = partial(torch.optim.Adam, fused=fused, capturable=fused)
        self.cvae_optimizer = adam(self.cvae_parameters, lr=self.spec.cvae_lr)
        self.actor_optimizer = adam(self.actor.parameters(), lr=1e-4)
        self.critic_optimizer = adam(self.critics.parameters(), lr=3e-4)

    def compile(self) -> None:
        """Compiles the losses: the `tuned` baseline's last step."""
        self.cvae_loss = torch.compile(self.cvae_loss)  # type: ignore[method-assign]
        self.critic_loss = torch.compile(self.critic_loss)  # type: ignore[method-assign]
        self.actor_loss = torch.compile(self.actor_loss)  # type: ignore[method-assign]
        self.target_q = torch.compile(self.target_q)  # type: ignore[method-assign]

    def sample(self) -> tuple[Tensor, ...]:
        """A minibatch: observations, actions, rewards [B, 1], masks [B, 1], next observations."""
        size = self.spec.batch_size
        if self.tuned:
            return self.rows[torch.randint(len(self.rows), (size,), device=self.device)].split(self.columns, dim=-1)
        indices = self.rng.integers(len(self.rows), size=size)
        return tuple(torch.from_numpy(array[indices]).to(self.device) for array in self.arrays)

    def encode(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z|s, a)."""
        mean, log_std = self.encoder(torch.cat([observations, actions], -1)).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD_RANGE)

    def negative_elbo(self, observations: Tensor, actions: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors [B, L, A] of the decoded samples, and KL [B, Z], from noise [B, L, Z]."""
        mean, log_std = self.encode(observations, actions)
        latents = mean[:, None] + log_std.exp()[:, None] * noise
        inputs = torch.cat([observations[:, None].expand(-1, noise.shape[1], -1), latents], -1)
        error = (self.decoder(inputs).tanh() - actions[:, None]) ** 2
        return error, 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std)

    def cvae_loss(self, observations: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        """recon + β·KL, with noise [B, 1, Z]."""
        error, kl = self.negative_elbo(observations, actions, noise)
        return error.mean() + self.beta * kl.mean()

    def target_q(self, rewards: Tensor, masks: Tensor, next_observations: Tensor, noise: Tensor) -> Tensor:
        """The critics' targets [B, 1], from standard normal noise [B, A]."""
        next_actions = (self.target_actor(next_observations).tanh() + (0.2 * noise).clamp(-0.5, 0.5)).clamp(-1, 1)
        inputs = torch.cat([next_observations, next_actions], -1)
        return rewards + self.discount * masks * torch.minimum(*(q(inputs) for q in self.target_critics))

    def critic_loss(self, observations: Tensor, actions: Tensor, target: Tensor) -> Tensor:
        """The sum of both critics' mean squared errors."""
        inputs = torch.cat([observations, actions], -1)
        first, second = (mse_loss(q(inputs), target) for q in self.critics)
        return first + second

    def actor_loss(self, observations: Tensor, noise: Tensor) -> Tensor:
        """−mean Q1 / mean |Q1| + λ·(recon + β·KL), with noise [B, L, Z]."""
        actions = self.actor(observations).tanh()
        q = self.critics[0](torch.cat([observations, actions], -1))
        error, kl = self.negative_elbo(observations, actions, noise)
        return -q.mean() / q.abs().mean().detach() + self.weight * (error.mean() + self.beta * kl.mean())

    def cvae_update(self) -> None:
        """One CVAE step."""
        observations, actions, *_ = self.sample()
        noise = torch.randn(self.spec.batch_size, 1, self.spec.cvae.num_latents, device=self.device)
        self.cvae_optimizer.zero_grad()
        self.cvae_loss(observations, actions, noise).backward()
        self.cvae_optimizer.step()

    def freeze(self, frozen: bool, *modules: nn.Module) -> None:
        """The tuned baseline computes no gradient that it does not use."""
        if self.tuned:
            for module in modules:
                module.requires_grad_(not frozen)

    def policy_update(self, step: int) -> None:
        """One step: the critics, and every F-th time the actor and the targets."""
        spec = self.spec
        observations, actions, rewards, masks, next_observations = self.sample()
        with torch.no_grad():
            target = self.target_q(rewards, masks, next_observations, torch.randn_like(actions))
        self.critic_optimizer.zero_grad()
        self.critic_loss(observations, actions, target).backward()
        self.critic_optimizer.step()
        if step % spec.td3.policy_freq:
            return
        self.freeze(True, self.critics, self.encoder, self.decoder)
        self.actor_optimizer.zero_grad()
        noise = torch.randn(spec.batch_size, *spec.td3.regularizer.noise_shape, device=self.device)
        self.actor_loss(observations, noise).backward()
        self.actor_optimizer.step()
        self.freeze(False, self.critics, self.encoder, self.decoder)
        with torch.no_grad():
            for online, target_net in ((self.actor, self.target_actor), (self.critics, self.target_critics)):
                for p, t in zip(online.parameters(), target_net.parameters(), strict=True):
                    t.mul_(1 - 0.005).add_(p, alpha=0.005)


def block(baseline: Baseline, phase: str) -> int:
    """The updates after which a phase, 'cvae' or 'policy', repeats itself; returns how many."""
    if phase == 'cvae':
        baseline.cvae_update()
        return 1
    for step in range(1, baseline.spec.td3.policy_freq + 1):
        baseline.policy_update(step)
    return baseline.spec.td3.policy_freq


def graphed(baseline: Baseline, phase: str) -> Callable[[], int]:
    """A block of a phase as one CUDA graph: what it returns replays it."""
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(3):  # compiles, and makes the optimisers' states
            steps = block(baseline, phase)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        block(baseline, phase)

    def replay() -> int:
        graph.replay()
        return steps

    return replay


def make_baseline(
    spec: Spec,
    rows: np.ndarray,
    settings: tuple[float, float, float],
    kind: str,
    phase: str,
    compiles: bool,
    device: str,
) -> Callable[[int], Any]:
    """`run(n)` makes at least n updates of a phase; settings: weight, β, discount; kind: see this file's top.

    On the device, by name and not as torch's default, which slows each call by half; on a CPU with a thread for each
    core, as XLA has, whatever `OMP_NUM_THREADS` says.
    """
    torch.set_num_threads(backend.num_cores())
    baseline = Baseline(spec, rows, *settings, tuned=kind != 'published', device=device)
    if kind != 'published' and compiles:
        baseline.compile()
    once = graphed(baseline, phase) if kind == 'graphed' else partial(block, baseline, phase)

    def run(steps: int) -> None:
        done = 0
        while done < steps:
            done += once()
        if baseline.device.type == 'cuda':
            torch.cuda.synchronize()

    return run
