"""Deep Q-learning and what was added to it on the way to Rainbow, each part a switch of one module.

Idea: learn Q(s, a), the discounted return of taking a in s and acting best ever after, by making it agree with itself
one step on, on transitions drawn at random from a replay buffer, against a copy of the network that stands still
between updates (Mnih et al. 2015, https://doi.org/10.1038/nature14236):

    L = mean (y - Q(s, a))^2,    y = r + gamma (1 - terminated) max_a' Q_target(s', a')

- `double`: the online network chooses a', the target network says what it is worth (van Hasselt et al. 2016,
  https://arxiv.org/abs/1509.06461, eq. 4): y = r + gamma (1 - terminated) Q_target(s', argmax_a' Q(s', a'));
- `dueling`: Q = V + A - mean_a A (Wang et al. 2016, https://arxiv.org/abs/1511.06581, eq. 9);
- `n_step`: y = sum_{j<m} gamma^j r_{t+j} + gamma^m max_a' Q_target(s_{t+m}, a'), where m is n, or fewer where the
  episode ends first (Sutton 1988; Hessel et al. 2018, https://arxiv.org/abs/1710.02298);
- `prioritized`: transitions are drawn by P(i) ~ |delta_i|^alpha and weighted by (N P(i))^-beta (Schaul et al. 2016,
  https://arxiv.org/abs/1511.05952, eq. 1 and section 3.4);
- `noisy`: layers with learned noise explore in the place of epsilon (Fortunato et al. 2018,
  https://arxiv.org/abs/1706.10295, eqs. 10 and 11);
- `distributional`: learn the distribution of the return, on fixed atoms (`c51`: Bellemare et al. 2017,
  https://arxiv.org/abs/1707.06887, algorithm 1) or at fixed quantiles (`qr`: Dabney et al. 2018,
  https://arxiv.org/abs/1710.10044, eqs. 9 and 10).

All of them together are Rainbow (Hessel et al. 2018; `model=rl/rainbow`).

Expected: the experiments under `conf/experiment/rl/` say it of each environment; `experiments/dqn_family` compares the
parts with each other.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from trilab.data.rl.experience import Experience, Sink
from trilab.data.rl.replay import Batch, Prioritized, Replay
from trilab.data.rl.spec import EnvSpec
from trilab.models.module import OptimizerFactory
from trilab.models.rl.agent import ActionValues, Agent, clip_gradients
from trilab.models.rl.checks import check_dqn
from trilab.models.rl.distributional import C51, QR, Returns, Scalar
from trilab.models.rl.exploration import EpsilonSchedule
from trilab.models.rl.gradients import plain_backward, plain_forward, plain_layers, td_gradient
from trilab.models.rl.layers import Linear, unstack
from trilab.models.rl.networks import QNetwork, stack
from trilab.models.rl.noise import NoiseStream
from trilab.models.rl.targets import update_target
from trilab.models.schedules import Schedule
from trilab.ranges import Fraction, NonNegativeInt, PositiveFloat, PositiveInt

#: Random streams of an agent beside its exploration's and its replay's.
_ACTING, _LEARNING = 3, 4


class DQN(Agent):
    """The DQN family.

    Args:
        spec: the environment.
        optimizer: makes the optimiser from the online network's parameters.
        schedule: factor of the learning rate by the share of the environment steps spent.
        network: makes the Q-network from `spec` and from what the switches ask of it.
        epsilon: probability of a random action by the share of the environment steps spent.
        eval_epsilon: the same in validation and test.
        double: let the online network choose the action whose target value is taken.
        dueling: split the network into a state's value and its actions' advantages.
        dueling_rescale: scale the gradient that both streams send into the shared layers by 1/sqrt(2).
        n_step: rewards summed before bootstrapping.
        prioritized: draw transitions by their temporal-difference error.
        priority_alpha: how much the error counts; 0 is uniform.
        priority_beta: at the beginning, how much of the drawing's bias the weights take back; 1 at the end.
        priority_epsilon: added to every error, so that none is never drawn.
        noisy: explore by learned noise in the network.
        noisy_sigma: its size at first.
        distributional: learn the return's mean (none), its distribution on atoms (c51), or its quantiles (qr).
        atoms: how many atoms or quantiles.
        v_min: return of the lowest atom (c51).
        v_max: return of the highest atom (c51).
        kappa: where the quantiles' loss turns from a square into a line (qr).
        gamma: discount per environment step.
        loss: of the temporal-difference error, where the mean is learned.
        env_steps_per_update: environment steps for each gradient update.
        updates_at_once: updates made in a row, after as many times those steps; between them the policy stands still.
        target_update_every: environment steps between updates of the target network.
        tau: share of the online network in such an update; 1 copies it.
        compile: mode of torch.compile for the loss; none leaves it eager.
        seed: of exploration, noise and the replay's draws.
    """

    def __init__(
        self,
        spec: EnvSpec,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        network: Callable[..., QNetwork],
        epsilon: EpsilonSchedule,
        eval_epsilon: Fraction,
        double: bool,
        dueling: bool,
        dueling_rescale: bool,
        n_step: PositiveInt,
        prioritized: bool,
        priority_alpha: Fraction,
        priority_beta: Fraction,
        priority_epsilon: PositiveFloat,
        noisy: bool,
        noisy_sigma: PositiveFloat,
        distributional: Literal["none", "c51", "qr"],
        atoms: PositiveInt,
        v_min: float,
        v_max: float,
        kappa: PositiveFloat,
        gamma: Fraction,
        loss: Literal["mse", "huber"],
        env_steps_per_update: PositiveInt,
        updates_at_once: PositiveInt,
        target_update_every: PositiveInt,
        tau: Fraction,
        compile: Literal["none", "default", "reduce-overhead", "max-autotune"],
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(spec, optimizer, schedule, epsilon, eval_epsilon, gamma, env_steps_per_update, seed)
        check_dqn(locals())
        self.returns: Returns
        if distributional == "c51":
            self.returns = C51(atoms, v_min, v_max)
        else:
            self.returns = QR(atoms, kappa) if distributional == "qr" else Scalar(loss)
        self.network = network(
            spec=spec,
            atoms=self.returns.atoms,
            dueling=dueling,
            dueling_rescale=dueling_rescale,
            noisy=noisy,
            noisy_sigma=noisy_sigma,
        )
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        self.double_q = double  # not `double`, which is a method of every nn.Module
        self.n_step = n_step
        self.priorities = Prioritized(alpha=priority_alpha, epsilon=priority_epsilon) if prioritized else None
        self.priority_beta = priority_beta
        self.updates_at_once = updates_at_once
        self.target_update_every = target_update_every
        self.tau = tau
        self.compile_mode = compile  # not `compile`, likewise
        self._loss = self._eager_loss
        self._layers: list[Linear] | None = None  # of a network whose gradient is written out
        self._parameters_once: list[nn.Parameter] = []
        self._scaler: torch.amp.GradScaler | None = None
        self._replay: Replay | None = None
        self._noise: dict[str, NoiseStream] = {}
        self._acting_noise: Tensor | None = None
        self._last: tuple[Batch, Tensor, Tensor] | None = None  # a batch, the network's output and the targets

    def join(self, members: Sequence[Self]) -> None:
        self.network = stack([member.network for member in members])
        self.target_network = stack([member.target_network for member in members]).requires_grad_(False)

    def agent_state(self, k: int) -> dict[str, Tensor]:
        return unstack(self.state_dict(), k) if self.agents > 1 else self.state_dict()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.network.parameters())

    def begin(self, experience: Experience, restored: Mapping[str, Any]) -> Sink:
        environments = experience.environments
        self._replay = Replay(
            experience.replay_capacity,
            self.spec,
            num_envs=environments.num_envs,
            seeds=self.seeds,
            device=self.device,
            n_step=self.n_step,
            gamma=self.gamma,
            prioritized=self.priorities,
        )
        size = self.network.noise_size
        if size:
            self._noise = {
                # Every environment explores by noise of its own. An update has three samples for its whole batch: for
                # Q(s, a), for the target network, and for the action that the online network chooses.
                "acting": NoiseStream(self.seeds, _ACTING, environments.num_envs, size),
                "learning": NoiseStream(self.seeds, _LEARNING, 3, size, self.device),
            }
        if restored:
            for name, stream in self._noise.items():
                stream.load_state_dict(restored["noise"][name])
            if restored["replay"] is None:
                experience.learns_from = experience.env_steps + experience.learning_starts
            else:
                self._replay.load_state_dict(restored["replay"])
                if not experience.continued:
                    self._replay.break_episodes()
        # Asked for once: Lightning's and torch's modules take a microsecond for every question.
        self._parameters_once = list(self.network.parameters())
        self._scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        # A module that is copied or saved must not hold what is compiled, hence only here.
        if self.compile_mode != "none":
            self._loss = torch.compile(self._eager_loss, mode=self.compile_mode)
        else:
            self._layers = plain_layers(self.network, self.returns)
        return self._replay.add

    @property
    def env_steps_per_point(self) -> int:
        return self.env_steps_per_update * self.updates_at_once

    def learn(self, experience: Experience, optimizer: torch.optim.Optimizer, now: int, most: float) -> list[Tensor]:
        replay = self._replay
        assert replay is not None
        if not replay.drawable:
            return []
        share = min(1.0, now / experience.total_env_steps)
        self.set_learning_rate(optimizer, share)
        beta = self.priority_beta + (1.0 - self.priority_beta) * share
        losses = []
        for _ in range(int(min(self.updates_at_once, most))):
            batch = replay.sample(experience.batch_size, beta)
            loss, output, target = self._update(batch, optimizer)
            losses.append(loss)
            if batch.slot is not None:
                replay.update_priorities(batch.slot, self.returns.priority(output, batch.action, target))
        self._last = batch, output, target
        if now // self.target_update_every > (now - self.env_steps_per_point) // self.target_update_every:
            update_target(self.target_network.parameters(), self._parameters_once, self.tau)
            update_target(self.target_network.buffers(), self.network.buffers(), 1.0)  # a normalised trunk's, if any
        return losses

    def _update(self, batch: Batch, optimizer: torch.optim.Optimizer) -> tuple[Tensor, Tensor, Tensor]:
        """One gradient step: each agent's mean loss, the output it was taken of, and the targets; in float32."""
        scaler = self._scaler
        if self._layers is not None:
            assert isinstance(self.returns, Scalar)
            with torch.no_grad():
                target = self._target(batch, None)
                output, inputs = plain_forward(self._layers, batch.observation)
                loss, slope = td_gradient(output, batch.action, target, batch.weight, self.returns.kind)
                plain_backward(self._layers, inputs, slope if scaler is None else scaler.scale(slope))
        else:
            # One by one: `zero_grad` costs 7% of an update, mostly for its profiler hook.
            for parameter in self._parameters_once:
                parameter.grad = None
            loss, output, target = self._loss(batch, self._noise["learning"].draw() if self._noise else None)
            total = loss.sum()
            (total if scaler is None else scaler.scale(total)).backward()
            # A copy: the next call of a CUDA graph writes over what this one gave.
            loss, output = loss.detach().clone(), output.detach()
        if self.gradient_clip_val:
            if scaler is not None:
                scaler.unscale_(optimizer)
            clip_gradients(self._parameters_once, self.gradient_clip_val, self.gradient_clip_algorithm, self.agents)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        return loss, output, target

    def _eager_loss(self, batch: Batch, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        own, *others = (None, None, None) if noise is None else noise.split(1, -2)
        with torch.no_grad():
            target = self._target(batch, others)
        output = self.network(batch.observation, own)
        losses = self.returns.loss(output, batch.action, target)  # (..., batch)
        if batch.weight is not None:
            losses = losses * batch.weight
        return losses.mean(-1), output, target

    def _target(self, batch: Batch, noise: Sequence[Tensor | None] | None) -> Tensor:
        """What Q(s, a) should be; `noise` is the target network's, and that of choosing the next action."""
        of_target, of_choice = noise or (None, None)
        next_target = self.target_network.forward(batch.next_observation, of_target)
        if not self.double_q:
            return self.returns.target(next_target, next_target, batch.reward, batch.discount)
        next_online = self.network.forward(batch.next_observation, of_choice)
        return self.returns.target(next_target, next_online, batch.reward, batch.discount)

    def renew_noise(self, behind: np.ndarray | None) -> None:
        if self._noise:
            self._acting_noise = self._noise["acting"].draw(behind)

    def action_values(self, exploring: bool) -> ActionValues:
        noisy = exploring and bool(self._noise)
        in_numpy, rows = self.network.numpy_forward(), self.network.numpy_rows
        agents, to_values = self.agents, self.returns.values_numpy

        def act(observations: np.ndarray) -> np.ndarray:
            count = len(observations)
            if agents > 1:
                observations = observations.reshape(agents, count // agents, *observations.shape[1:])
            noise = self._acting_noise if noisy else None
            if in_numpy is not None and count <= rows * agents:
                values = to_values(in_numpy(observations, None if noise is None else noise.numpy()))
            else:
                with torch.inference_mode():
                    seen = torch.from_numpy(observations).to(self.device)
                    output = self.network(seen, None if noise is None else noise.to(self.device))
                    values = self.returns.values(output).float().cpu().numpy()
            return values.reshape(count, -1) if agents > 1 else values

        return act

    def _close_window(self) -> dict[str, Any]:
        window = super()._close_window()
        if self._replay is not None and self._last is not None:
            window["train/replay_fill"] = len(self._replay) / self._replay.capacity
            window |= {f"train/{name}": self._each(value.tolist()) for name, value in self._of_last_update().items()}
        return window

    @torch.no_grad()
    def _of_last_update(self) -> dict[str, Tensor]:
        """What the last update tells of the network, for each agent: (agents,)."""
        assert self._last is not None
        batch, output, target = self._last
        output = output.detach().float()
        errors = self.returns.td_error(output, batch.action, target)  # (..., batch)
        values = self.returns.values(output).gather(-1, batch.action.unsqueeze(-1))
        levels = torch.quantile(errors, torch.tensor([0.1, 0.5, 0.9], device=errors.device), dim=-1)  # (3, ...)
        layers = self.network.activations(batch.observation)
        units = sum(layer.shape[-1] for layer in layers)
        dead = [(layer <= 0).all(-2).sum(-1) for layer in layers]  # (...,) each
        metrics = {
            "q_mean": values.mean((-1, -2)),
            "td_error_abs_mean": errors.abs().mean(-1),
            "td_error_p10": levels[0],
            "td_error_p50": levels[1],
            "td_error_p90": levels[2],
        }
        if layers:
            metrics["dead_units"] = torch.stack(dead).sum(0) / units
        return {name: value.reshape(self.agents) for name, value in metrics.items()}

    def learning_state(self) -> dict[str, Any]:
        keep = self._experience is not None and self._experience.keep_replay and self._replay is not None
        return {
            "replay": self._replay.state_dict() if keep and self._replay is not None else None,
            "noise": {name: stream.state_dict() for name, stream in self._noise.items()},
        }

    def on_fit_end(self) -> None:
        super().on_fit_end()
        self._replay, self._last, self._noise, self._layers = None, None, {}, None
        self._parameters_once, self._scaler = [], None
        self._loss = self._eager_loss
