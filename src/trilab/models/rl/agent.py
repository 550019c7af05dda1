"""What value-based agents share: acting, the grid of environment steps that learning follows, and how they are judged.

Time is counted in environment steps throughout: updates, target copies, exploration and learning rate follow one grid
of them, so that neither the number of environments nor the length of a training step changes what they mean.

One module holds one agent, or several that train side by side as one batch (`joined`): then every parameter has a
leading axis of agents, and so has every metric. Agent k draws from random streams of its own, which are those it would
draw from alone.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from trilab.data.rl.evaluation import Episodes, Evaluation
from trilab.data.rl.experience import Experience, Sink
from trilab.data.rl.spec import EnvSpec
from trilab.models.module import Module, OptimizerFactory
from trilab.models.rl.exploration import EpsilonGreedy, EpsilonSchedule
from trilab.models.schedules import Constant, Schedule
from trilab.ranges import Fraction, NonNegativeInt, PositiveInt
from trilab.statistics import interquartile_mean

#: Observations (rows, *shape) -> action values (rows, actions).
ActionValues = Callable[[np.ndarray], np.ndarray]


class Agent(Module):
    """Base of the agents.

    Args:
        spec: the environment.
        optimizer: makes the optimiser.
        schedule: factor of the learning rate by the share of the environment steps spent.
        epsilon: probability of a random action by the share of the environment steps spent.
        eval_epsilon: the same in validation and test.
        gamma: discount per environment step.
        env_steps_per_update: environment steps for each update; exploration is renewed as often.
        seed: of exploration and of everything else that the agent draws.
    """

    x_axis = "env_steps"
    work = "env_steps"
    steps = "gradient_steps"

    def __init__(
        self,
        spec: EnvSpec,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        epsilon: EpsilonSchedule,
        eval_epsilon: Fraction,
        gamma: Fraction,
        env_steps_per_update: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(optimizer, schedule)
        # Many updates per training step, each after its own environment steps: Lightning's loop would do one.
        self.automatic_optimization = False
        # Lightning refuses its own clipping under manual optimisation, so whoever configures it sets these instead.
        self.gradient_clip_val: float | None = None
        self.gradient_clip_algorithm: Literal["norm", "value"] | None = None
        self.spec = spec
        self.epsilon = epsilon
        self.eval_epsilon = eval_epsilon
        self.gamma = gamma
        self.env_steps_per_update = env_steps_per_update
        self.seeds = [seed]
        self.env_steps = 0
        self._point = 0  # the last point of the grid that was reached
        self._epsilon_now = epsilon(0.0)
        self._budget_spent = 0.0
        self._learning = False
        self._experience: Experience | None = None
        self._explore: EpsilonGreedy | None = None
        self._restored: dict[str, Any] | None = None  # of the checkpoint that a training goes on from

    @property
    def env_steps_per_point(self) -> int:
        """Environment steps between two points of the grid, at which it learns."""
        return self.env_steps_per_update

    # What an agent is made of.

    @abstractmethod
    def action_values(self, exploring: bool) -> ActionValues:
        """The values of every action as the agent sees them now, and as in-place updates change them.

        Args:
            exploring: with whatever noise the agent explores by, rather than as it is judged.
        """

    def renew_noise(self, behind: np.ndarray | None) -> None:
        """Called before every step of the environments, of all agents or of those that are behind.

        Whether the values are then asked for depends on the coins, and must not on those of other agents.
        """

    @abstractmethod
    def begin(self, experience: Experience, restored: dict[str, Any]) -> Sink:
        """Prepares to learn from what the environments will give, and returns what takes it.

        Args:
            experience: of this training.
            restored: `learning_state` of the training that is gone on with, else empty.
        """

    @abstractmethod
    def learn(self, experience: Experience, optimizer: torch.optim.Optimizer, now: int, most: float) -> list[Tensor]:
        """Learns at a point of the grid.

        Args:
            experience: of this training.
            optimizer: of the agent's parameters.
            now: the point, in environment steps.
            most: updates at most.

        Returns:
            The loss of each update, () or (agents,); none where nothing can be learned yet.
        """

    @abstractmethod
    def learning_state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the parameters to go on exactly: plain containers and tensors."""

    @abstractmethod
    def join(self, members: Sequence[Self]) -> None:
        """Takes the parameters of several agents, stacked."""

    @abstractmethod
    def agent_state(self, k: int) -> dict[str, Tensor]:
        """The state_dict of agent k as it would be alone."""

    @property
    def agents(self) -> int:  # type: ignore[override]
        """How many train side by side."""
        return len(self.seeds)

    @classmethod
    def joined(cls, members: Sequence[Self]) -> Self:
        """Several agents, which differ in their seeds alone, as one batch."""
        together = copy.deepcopy(members[0])
        together.seeds = [seed for member in members for seed in member.seeds]
        together.join(members)
        return together

    def load_agent_state(self, k: int, state: dict[str, Tensor]) -> None:
        """Gives agent k the parameters of one that was saved alone."""
        for name, tensor in self.state_dict().items():
            (tensor[k] if self.agents > 1 else tensor).copy_(state[name])

    # Learning.

    @property
    def x(self) -> int:
        return self.env_steps

    @property
    def warm(self) -> bool:
        return self._learning

    @property
    def budget_spent(self) -> float:
        return self._budget_spent

    def training_step(self, experience: Experience, batch_idx: int) -> None:
        """Acts and learns until the iteration's environment steps are done, interleaved as if one step at a time."""
        if experience is not self._experience:
            self._begin(experience)
        explore, trainer = self._explore, self.trainer
        assert explore is not None
        optimizer = self.optimizers(use_pl_optimizer=False)  # Lightning's wrapper costs a tenth of an update
        assert isinstance(optimizer, torch.optim.Optimizer)
        updates_left = trainer.max_steps - self.global_step if trainer.max_steps >= 0 else float("inf")
        budget, every, sink = experience.total_env_steps, self.env_steps_per_point, self._sink
        start, end = experience.env_steps, experience.next_iteration()
        values = self.action_values(exploring=True)
        losses: list[Tensor] = []

        def greedy(observations: np.ndarray) -> np.ndarray:
            return values(observations).argmax(-1)

        def policy(observations: np.ndarray, behind: np.ndarray | None) -> np.ndarray:
            self.renew_noise(behind)
            return explore(observations, greedy, self._epsilon_now, behind)

        # A vector of environments may pass several points of the grid at once: one update for each.
        for point in range(self._point + every, end + every, every):
            self._epsilon_now = self.epsilon(min(1.0, point / budget))
            if point > end:
                experience.collect(policy, end, sink)
                break
            experience.collect(policy, point, sink)
            self._point = point
            if point >= experience.learns_from:
                losses += self.learn(experience, optimizer, point, updates_left - len(losses))
                if len(losses) >= updates_left:
                    break

        self.env_steps = experience.env_steps
        self._budget_spent = min(1.0, self.env_steps / budget)
        if losses:
            self._learning = True
            # Lightning counts the steps of its own optimiser wrappers only. This is its `global_step`, so that
            # `max_steps` and checkpoints know of the updates; those that a GradScaler skips are counted too.
            counter = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
            counter.ready += len(losses)
            counter.completed += len(losses)
            self.observe((self.env_steps - start) * self.agents, loss=torch.stack(losses).mean(0))
        else:
            self.work_done += (self.env_steps - start) * self.agents
        if end >= budget:
            trainer.should_stop = True

    def _begin(self, experience: Experience) -> None:
        state, self._restored = self._restored or {}, None
        self._experience = experience
        self._explore = EpsilonGreedy(self.spec.num_actions, self.seeds, experience.environments.num_envs)
        if state:
            self._point = int(state["point"])
            self._explore.load_state_dict(state["explore"])
            torch.set_rng_state(state["torch"].cpu())
        self._sink = self.begin(experience, state.get("learning", {}))

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """The schedule runs by environment steps, not by Lightning's."""
        if not isinstance(self._schedule, Constant):
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * self._schedule(min(1.0, progress))

    # Being judged.

    def policy(self) -> Callable[[np.ndarray], np.ndarray]:
        """The greedy policy: observations (rows, *shape), agent by agent, -> actions (rows,)."""
        values = self.action_values(exploring=False)
        return lambda observations: values(observations).argmax(-1)

    def validation_step(self, evaluation: Evaluation, batch_idx: int) -> None:
        self._judge("val", evaluation)

    def test_step(self, evaluation: Evaluation, batch_idx: int) -> None:
        self._judge("test", evaluation)

    def _judge(self, split: str, evaluation: Evaluation) -> None:
        values = self.action_values(exploring=False)
        generator = np.random.default_rng(evaluation.seed)

        def judged(observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            seen = values(observations)  # (rows, actions)
            actions = seen.argmax(-1)
            if self.eval_epsilon:
                # One draw for all agents, so that each meets what it would meet alone.
                slots = len(actions) // self.agents
                anything = np.tile(generator.integers(self.spec.num_actions, size=slots), self.agents)
                coins = np.tile(generator.random(slots), self.agents)
                actions = np.where(coins < self.eval_epsilon, anything, actions)
            return actions, seen.max(-1)

        self.report(self._judgement(split, evaluation.run(judged, self.gamma)))

    def _judgement(self, split: str, episodes: Episodes) -> dict[str, Any]:
        metrics = {
            "return_mean": episodes.returns.mean(1),
            "return_std": episodes.returns.std(1),
            "return_iqm": interquartile_mean(episodes.returns),
            "episode_length_mean": episodes.lengths.mean(1),
            "q_predicted": episodes.predicted,
            "q_real": episodes.real,
            "overestimation": episodes.predicted - episodes.real,
        }
        known = {name: value for name, value in metrics.items() if not np.isnan(value).all()}
        return {f"{split}/{name}": self._each(value.tolist()) for name, value in known.items()}

    def _each(self, values: list[Any]) -> Any:
        """A value for each agent, or the only one; None where an agent has none now."""
        values = [None if value is None or value != value else value for value in values]
        return values if self.agents > 1 else values[0]

    def _close_window(self) -> dict[str, Any]:
        window: dict[str, Any] = super()._close_window()
        window["train/epsilon"] = self._epsilon_now
        window["train/gradient_steps"] = float(self.global_step)
        if self._experience is not None:
            finished = self._experience.pop_episodes()
            for name, values in zip(
                ("return_mean", "return_running_mean", "episode_length_mean"), zip(*finished, strict=True), strict=True
            ):
                if any(value is not None for value in values):
                    window[f"train/{name}"] = self._each(list(values))
        return window

    # Going on later.

    def on_fit_end(self) -> None:
        self._experience = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["env_steps"] = self.env_steps
        if self._experience is not None:
            assert self._explore is not None
            checkpoint["agent"] = {
                "point": self._point,
                "explore": self._explore.state_dict(),
                "torch": torch.get_rng_state(),  # a network of the user's own may draw from it
                "learning": self.learning_state(),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.env_steps = int(checkpoint["env_steps"])
        self._restored = checkpoint.get("agent")


def clip_gradients(
    parameters: Sequence[nn.Parameter], bound: float, kind: Literal["norm", "value"] | None, agents: int
) -> None:
    """Clips gradients in place, by value or by the norm over all parameters of an agent.

    Args:
        parameters: with a leading axis of agents where there are several.
        bound: largest norm or absolute value.
        kind: None means by norm, as in Lightning.
        agents: how many there are.
    """
    if kind == "value":
        nn.utils.clip_grad_value_(parameters, bound)
    elif agents == 1:
        nn.utils.clip_grad_norm_(parameters, bound)
    else:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)  # (agents,)
        factor = (bound / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
