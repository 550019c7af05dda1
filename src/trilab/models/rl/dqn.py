"""Deep Q-learning, and Double Q-learning by a switch.

Idea: learn Q(s, a), the discounted return of taking a in s and acting best ever after, by making it agree with itself
one step on, on transitions drawn at random from a replay buffer, against a copy of the network that stands still
between updates (Mnih et al. 2015, https://doi.org/10.1038/nature14236):

    L = mean (y - Q(s, a))^2,    y = r + gamma (1 - terminated) max_a' Q_target(s', a')

With `double`, the online network chooses a' (van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461):

    y = r + gamma (1 - terminated) Q_target(s', argmax_a' Q(s', a'))

Time is counted in environment steps throughout: updates, target copies, exploration and learning rate follow one grid
of them, so that neither the number of environments nor the length of a training step changes what they mean.

Expected: CartPole-v1 solved (475) within 300,000 steps at CleanRL's settings (`experiment=rl/dqn_cartpole`), in
60,000 steps and 15 s of 2 CPU cores at better ones (`experiment=rl/double_dqn_cartpole`).
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trilab.data.rl.experience import Episodes, Evaluation, Experience
from trilab.data.rl.replay import Batch
from trilab.data.rl.spec import EnvSpec
from trilab.errors import UserError
from trilab.models.module import Module, OptimizerFactory
from trilab.models.rl.exploration import EpsilonGreedy, EpsilonSchedule
from trilab.models.rl.networks import InNumpy
from trilab.models.rl.targets import double_dqn_target, dqn_target, td_loss, update_target
from trilab.models.schedules import Constant, Schedule
from trilab.ranges import Fraction, NonNegativeInt, PositiveInt


class DQN(Module):
    """DQN and Double DQN.

    Args:
        spec: the environment.
        optimizer: makes the optimiser from the online network's parameters.
        schedule: factor of the learning rate by the share of the environment steps spent.
        network: makes the Q-network from `spec`.
        epsilon: probability of a random action by the share of the environment steps spent.
        double: let the online network choose the action whose target value is taken.
        gamma: discount per environment step.
        loss: of the temporal-difference error.
        env_steps_per_update: environment steps for each gradient update.
        target_update_every: environment steps between updates of the target network.
        tau: share of the online network in such an update; 1 copies it.
        seed: of the exploration.
    """

    x_axis = "env_steps"
    work = "env_steps"

    def __init__(
        self,
        spec: EnvSpec,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        network: Callable[..., nn.Module],
        epsilon: EpsilonSchedule,
        double: bool,
        gamma: Fraction,
        loss: Literal["mse", "huber"],
        env_steps_per_update: PositiveInt,
        target_update_every: PositiveInt,
        tau: Fraction,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(optimizer, schedule)
        # Many updates per training step, each after its own environment steps: Lightning's loop would do one.
        self.automatic_optimization = False
        # Lightning refuses its own clipping under manual optimisation, so whoever configures it sets these instead.
        self.gradient_clip_val: float | None = None
        self.gradient_clip_algorithm: Literal["norm", "value"] | None = None
        self.network = network(spec=spec)
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        self.epsilon = epsilon
        self.double_q = double  # not `double`, which is a method of every nn.Module
        self.gamma = gamma
        self.loss = loss
        self.env_steps_per_update = env_steps_per_update
        self.target_update_every = target_update_every
        self.tau = tau
        self.env_steps = 0
        self._explore = EpsilonGreedy(spec.num_actions, seed)
        self._epsilon_now = epsilon(0.0)
        self._budget_spent = 0.0
        self._learning = False
        self._experience: Experience | None = None

    @property
    def x(self) -> int:
        return self.env_steps

    @property
    def warm(self) -> bool:
        return self._learning

    @property
    def budget_spent(self) -> float:
        return self._budget_spent

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # The schedule runs by environment steps, in `_update`.
        return self.make_optimizer(self.network.parameters())

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1:
            raise UserError("this agent trains on one device: set trainer.devices=1 (its environments are its own).")

    def training_step(self, experience: Experience, batch_idx: int) -> None:
        """Acts and learns until the iteration's environment steps are done, interleaved as if one step at a time."""
        self._experience = experience
        trainer = self.trainer
        optimizer = self.optimizers(use_pl_optimizer=False)  # Lightning's wrapper costs a tenth of an update
        assert isinstance(optimizer, torch.optim.Optimizer)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        greedy = self._greedy()
        every, copy_every, budget = self.env_steps_per_update, self.target_update_every, experience.total_env_steps
        updates_left = trainer.max_steps - self.global_step if trainer.max_steps >= 0 else float("inf")
        start, end = experience.env_steps, experience.iteration_ends
        losses: list[Tensor] = []
        values: list[Tensor] = []

        def policy(observations: np.ndarray) -> np.ndarray:
            return self._explore(observations, greedy, self.epsilon(experience.env_steps / budget))

        while experience.env_steps < end and len(losses) < updates_left:
            passed = experience.env_steps // every
            experience.collect(policy, until=min((passed + 1) * every, end))
            if not experience.ready:
                continue
            # A vector of environments may pass several points of the grid at once: one update for each.
            for point in range(passed + 1, experience.env_steps // every + 1):
                if len(losses) == updates_left:
                    break
                now = point * every
                self._set_learning_rate(optimizer, now / budget)
                loss, value = self._update(experience.sample(), optimizer, scaler)
                losses.append(loss)
                values.append(value)
                if now // copy_every > (now - every) // copy_every:
                    update_target(self.target_network.parameters(), self.network.parameters(), self.tau)

        self.env_steps = experience.env_steps
        self._budget_spent = min(1.0, self.env_steps / budget)
        self._epsilon_now = self.epsilon(self._budget_spent)
        if losses:
            self._learning = True
            # Lightning counts the steps of its own optimiser wrappers only. This is its `global_step`, so that
            # `max_steps` and checkpoints know of the updates; those that a GradScaler skips are counted too.
            counter = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
            counter.ready += len(losses)
            counter.completed += len(losses)
            self.observe(self.env_steps - start, loss=torch.stack(losses).mean(), q_mean=torch.stack(values).mean())
        else:
            self.work_done += self.env_steps - start
        if self.env_steps >= budget:
            trainer.should_stop = True

    def _update(
        self, batch: Batch, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None
    ) -> tuple[Tensor, Tensor]:
        """One gradient step; gives its loss and the values it was taken at: (), (batch, 1)."""
        target = self._target(batch)
        value = self.network(batch.observation).gather(1, batch.action.unsqueeze(1)).float()  # (batch, 1)
        loss = td_loss(value, target.unsqueeze(1), self.loss)
        for group in optimizer.param_groups:  # `zero_grad` would cost 7% of the update, mostly for its profiler hook
            for parameter in group["params"]:
                parameter.grad = None
        if scaler is None:
            loss.backward()
            self._clip_gradients()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            if self.gradient_clip_val:
                scaler.unscale_(optimizer)
            self._clip_gradients()
            scaler.step(optimizer)
            scaler.update()
        return loss.detach(), value.detach()

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        """(batch,) in float32 whatever the precision of the networks."""
        next_target = self.target_network(batch.next_observation).float()  # (batch, actions)
        if self.double_q:
            next_online = self.network(batch.next_observation).float()
            return double_dqn_target(batch.reward, batch.terminated, self.gamma, next_online, next_target)
        return dqn_target(batch.reward, batch.terminated, self.gamma, next_target)

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        if not isinstance(self._schedule, Constant):
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * self._schedule(min(1.0, progress))

    def _clip_gradients(self) -> None:
        if not self.gradient_clip_val:
            return
        if self.gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.network.parameters(), self.gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip_val)

    def _greedy(self) -> Callable[[np.ndarray], np.ndarray]:
        """argmax_a Q(s, a) of the online network as it is now and becomes by in-place updates."""
        in_numpy, rows = None, 0
        if isinstance(self.network, InNumpy):
            in_numpy, rows = self.network.numpy_forward(), self.network.numpy_rows

        def act(observations: np.ndarray) -> np.ndarray:
            if in_numpy is not None and len(observations) <= rows:
                return in_numpy(observations).argmax(1)
            with torch.inference_mode():
                return self.network(torch.from_numpy(observations).to(self.device)).argmax(1).cpu().numpy()

        return act

    def validation_step(self, evaluation: Evaluation, batch_idx: int) -> None:
        self._report_episodes("val", evaluation.run(self._greedy()))

    def test_step(self, evaluation: Evaluation, batch_idx: int) -> None:
        self._report_episodes("test", evaluation.run(self._greedy()))

    def _report_episodes(self, split: str, episodes: Episodes) -> None:
        self.report(
            {
                f"{split}/return_mean": episodes.returns.mean(),
                f"{split}/return_std": episodes.returns.std(),
                f"{split}/episode_length_mean": episodes.lengths.mean(),
            }
        )

    def _close_window(self) -> dict[str, float]:
        window = super()._close_window()
        window["train/epsilon"] = self._epsilon_now
        window["train/gradient_steps"] = float(self.global_step)
        if self._experience is not None:
            episodes = self._experience.pop_episodes()
            if len(episodes.returns):
                window["train/return_mean"] = float(episodes.returns.mean())
                window["train/episode_length_mean"] = float(episodes.lengths.mean())
        return window

    def on_fit_end(self) -> None:
        self._experience = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["env_steps"] = self.env_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.env_steps = int(checkpoint["env_steps"])
