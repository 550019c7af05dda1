"""Experience as Lightning's data: an epoch is so many environment steps, a batch is the whole life so far.

The training loader hands out one and the same `Experience` again and again; the agent's `training_step` acts in it
and draws from it as often as it likes. Validation and test play episodes in environments of their own.
"""

from collections.abc import Iterator
from typing import Any, Generic, Literal, TypeVar

import torch
from pytorch_lightning import LightningDataModule

from trilab.data.rl.checks import check_gymnasium_data
from trilab.data.rl.environment import Environments, describe, has_time_limit, make_vector, resolve_backend
from trilab.data.rl.experience import Evaluation, Experience
from trilab.data.rl.replay import ReplayBuffer
from trilab.data.rl.spec import EnvSpec
from trilab.errors import UserError
from trilab.ranges import NonNegativeInt, PositiveInt

T = TypeVar("T")


class Repeat(Generic[T]):
    """A loader that yields one object `times` times."""

    def __init__(self, item: T, times: int) -> None:
        self.item = item
        self.times = times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[T]:
        return (self.item for _ in range(self.times))


class GymnasiumData(LightningDataModule):
    """Any Gymnasium environment with Box observations and Discrete actions.

    Args:
        env_id: as registered with Gymnasium.
        num_envs: training environments, stepped together.
        backend: native (the environment's own vectorised code), sync (one after the other), async (a process each),
            or auto: native where there is one and it is the faster.
        max_episode_steps: time limit in place of the environment's own.
        total_env_steps: the budget; training stops there.
        env_steps_per_epoch: then validation, checkpoint, next epoch.
        env_steps_per_iteration: of one training step; a knob of speed, without effect on the result.
        replay_capacity: transitions held.
        batch_size: transitions in a batch.
        learning_starts: environment steps before the first update.
        eval_envs: environments that evaluation plays in at once.
        val_episodes: played at each validation.
        val_seed: of the first of them.
        test_episodes: played by the test.
        test_seed: of the first of them.
        seed: of the training environments and of the replay's draws.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: PositiveInt,
        backend: Literal["auto", "native", "sync", "async"],
        max_episode_steps: PositiveInt | None,
        total_env_steps: PositiveInt,
        env_steps_per_epoch: PositiveInt,
        env_steps_per_iteration: PositiveInt,
        replay_capacity: PositiveInt,
        batch_size: PositiveInt,
        learning_starts: NonNegativeInt,
        eval_envs: PositiveInt,
        val_episodes: PositiveInt,
        val_seed: NonNegativeInt,
        test_episodes: PositiveInt,
        test_seed: NonNegativeInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__()
        self.env_id = env_id
        self.num_envs = num_envs
        self.backend = backend
        self.max_episode_steps = max_episode_steps
        self.total_env_steps = total_env_steps
        self.env_steps_per_epoch = env_steps_per_epoch
        self.env_steps_per_iteration = env_steps_per_iteration
        self.replay_capacity = replay_capacity
        self.batch_size = batch_size
        self.learning_starts = learning_starts
        self.eval_envs = eval_envs
        self.val_episodes = val_episodes
        self.val_seed = val_seed
        self.test_episodes = test_episodes
        self.test_seed = test_seed
        self.seed = seed
        check_gymnasium_data(vars(self))
        self._spec: EnvSpec | None = None
        self._experience: Experience | None = None
        self._evaluations: dict[str, Evaluation] = {}
        self._restored_env_steps = 0  # where a training starts that goes on from a checkpoint
        self._last_env_steps = 0

    @property
    def spec(self) -> EnvSpec:
        if self._spec is None:
            raise RuntimeError("setup() has not been called")
        return self._spec

    @property
    def reference(self) -> dict[str, float]:
        """Values of metrics that are known beforehand; none here."""
        return {}

    @property
    def threshold(self) -> tuple[float, str] | None:
        """The mean return at which Gymnasium calls the environment solved; None where it does not say."""
        solved_at = self.spec.reward_threshold
        return None if solved_at is None else (solved_at, f"Gymnasium's reward_threshold of {self.env_id}")

    def setup(self, stage: str) -> None:
        if self._spec is not None:
            return
        backend = resolve_backend(self.env_id, self.num_envs, self.backend)
        probe = make_vector(self.env_id, 1, "native" if backend == "native" else "sync", self.max_episode_steps)
        self._spec = describe(self.env_id, probe)
        probe.close()
        if self.max_episode_steps is None and not has_time_limit(self.env_id):
            raise UserError(
                f"{self.env_id} has no time limit, and an episode of evaluation might never end: "
                "set data.max_episode_steps."
            )

    def train_dataloader(self) -> Repeat[Experience]:
        if self._experience is None:
            device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
            self._experience = Experience(
                Environments(make_vector(self.env_id, self.num_envs, self.backend, self.max_episode_steps)),
                ReplayBuffer(self.replay_capacity, self.spec, device, self.seed),
                total_env_steps=self.total_env_steps,
                env_steps_per_iteration=self.env_steps_per_iteration,
                batch_size=self.batch_size,
                learning_starts=self.learning_starts,
                seed=self.seed,
                env_steps=self._restored_env_steps,
            )
        return Repeat(self._experience, self.env_steps_per_epoch // self.env_steps_per_iteration)

    def val_dataloader(self) -> Repeat[Evaluation]:
        return Repeat(self._evaluation("val", self.val_episodes, self.val_seed), 1)

    def test_dataloader(self) -> Repeat[Evaluation]:
        return Repeat(self._evaluation("test", self.test_episodes, self.test_seed), 1)

    def _evaluation(self, split: str, episodes: int, seed: int) -> Evaluation:
        if split not in self._evaluations:
            # A process for each of a hundred episodes would be no help.
            slots = min(self.eval_envs, episodes, self.num_envs if self.backend == "async" else episodes)
            self._evaluations[split] = Evaluation(lambda: self._evaluation_environments(slots), episodes, seed)
        return self._evaluations[split]

    def _evaluation_environments(self, slots: int) -> Environments:
        vector = make_vector(self.env_id, slots, self.backend, self.max_episode_steps)
        if describe(self.env_id, vector) != self.spec:
            raise UserError(
                f"{self.env_id} looks different vectorised ({describe(self.env_id, vector)}) and alone ({self.spec}): "
                "set data.backend to native or sync rather than auto."
            )
        return Environments(vector, restart=False)

    def teardown(self, stage: str) -> None:
        if stage == "fit" and self._experience is not None:
            self._last_env_steps = self._experience.env_steps
            self._experience.close()
            self._experience = None
        for evaluation in self._evaluations.values():
            evaluation.close()

    def state_dict(self) -> dict[str, Any]:
        return {"env_steps": self._experience.env_steps if self._experience else self._last_env_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored_env_steps = int(state_dict["env_steps"])
