"""Experience as Lightning's data: an epoch is so many environment steps, a batch is the whole life so far.

The training loader hands out one and the same `Experience` again and again; the agent's `training_step` acts in it
and draws from it as often as it likes. Validation and test play episodes in environments of their own.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Generic, Literal, TypeVar

import gymnasium as gym
from pytorch_lightning import LightningDataModule

from trilab.data.contents import Contents, Part, settings_key
from trilab.data.rl.checks import check_experience
from trilab.data.rl.environment import describe, has_time_limit, make_environments, make_single, package_of
from trilab.data.rl.environments import Environments
from trilab.data.rl.evaluation import Evaluation
from trilab.data.rl.experience import Experience
from trilab.data.rl.spec import EnvSpec
from trilab.errors import UserError, say
from trilab.ranges import Fraction, NonNegativeInt, PositiveFloat, PositiveInt

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
    """Any Gymnasium environment with Box or Discrete observations and Discrete actions.

    Args:
        env_id: as registered with Gymnasium.
        env_kwargs: arguments of the environment's own.
        num_envs: training environments, stepped together.
        backend: native (the environment's own vectorised code), sync (one after the other), async (a process each),
            or auto: native where there is one and it is the faster.
        max_episode_steps: time limit in place of the environment's own.
        discount: of the environment's rewards, by step; what agents take for gamma unless told otherwise.
        reward_clip: bound of the rewards that are learned from; None for none.
        total_env_steps: the budget; training stops there.
        env_steps_per_epoch: then validation, checkpoint, next epoch.
        env_steps_per_iteration: of one training step; a knob of speed, without effect on the result.
        replay_capacity: transitions held.
        checkpoint_replay: whether checkpoints hold the replay, so that a resumed training goes on exactly.
        batch_size: transitions in a batch.
        learning_starts: environment steps before the first update.
        eval_envs: environments that evaluation plays in at once.
        val_episodes: played at each validation.
        val_seed: of the first of them.
        test_episodes: played by the test.
        test_seed: of the first of them.
        seed: of the training environments.
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any] | None,
        num_envs: PositiveInt,
        backend: Literal["auto", "native", "sync", "async"],
        max_episode_steps: PositiveInt | None,
        discount: Fraction,
        reward_clip: PositiveFloat | None,
        total_env_steps: PositiveInt,
        env_steps_per_epoch: PositiveInt,
        env_steps_per_iteration: PositiveInt,
        replay_capacity: PositiveInt,
        checkpoint_replay: bool,
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
        self.env_kwargs = dict(env_kwargs or {})
        self.num_envs = num_envs
        self.backend = backend
        self.max_episode_steps = max_episode_steps
        self.discount = discount
        self.reward_clip = reward_clip
        self.total_env_steps = total_env_steps
        self.env_steps_per_epoch = env_steps_per_epoch
        self.env_steps_per_iteration = env_steps_per_iteration
        self.replay_capacity = replay_capacity
        self.checkpoint_replay = checkpoint_replay
        self.batch_size = batch_size
        self.learning_starts = learning_starts
        self.eval_envs = eval_envs
        self.val_episodes = val_episodes
        self.val_seed = val_seed
        self.test_episodes = test_episodes
        self.test_seed = test_seed
        self.seed = seed
        check_experience(vars(self))  # whether there is such an environment shows when it is made
        self._seeds = [seed]
        self._spec: EnvSpec | None = None
        self._experience: Experience | None = None
        self._evaluations: dict[str, Evaluation] = {}
        self._restored: dict[str, Any] | None = None  # of the checkpoint that a training goes on from
        self._last_state: dict[str, Any] | None = None

    @staticmethod
    def joined(members: "Sequence[GymnasiumData]") -> "GymnasiumData":
        """The environments of several agents, which differ in their seeds alone, to be stepped together."""
        data = copy.copy(members[0])
        data._seeds = [member.seed for member in members]
        return data

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
        if self._spec is None:
            probe = self._environments(1, 1, evaluation=False)
            self._spec = self._describe(probe)
            probe.close()
            self._check_time_limit()

    def _describe(self, environments: Environments) -> EnvSpec:
        return describe(self.env_id, environments.vector)

    def _check_time_limit(self) -> None:
        if self.max_episode_steps is None and not has_time_limit(self.env_id):
            raise UserError(
                f"{self.env_id} has no time limit, and an episode of evaluation might never end: "
                "set data.max_episode_steps."
            )

    def _environments(self, num_envs: int, agents: int, evaluation: bool) -> Environments:
        """Training environments, or those of evaluation, in which a finished one may stand still."""
        return make_environments(
            self.env_id,
            num_envs,
            self.backend,
            self.max_episode_steps,
            agents=agents,
            restart=not evaluation,
            env_kwargs=self.env_kwargs,
        )

    def contents(self) -> Contents:
        """The environment as each part plays in it."""
        spec, maker = self.spec, package_of(self.env_id)
        common: dict[str, int | str] = {"environment": self.env_id, "package": maker, "actions": spec.num_actions}
        played: dict[str, dict[str, int | str]] = {
            "train": {"env_steps": self.total_env_steps, "seeds": ", ".join(map(str, self._seeds))},
            "val": {"episodes": self.val_episodes, "first_seed": self.val_seed},
            "test": {"episodes": self.test_episodes, "first_seed": self.test_seed},
        }
        rules = [asdict(spec), self.env_kwargs, self.max_episode_steps]
        parts = {name: Part({**common, **own}, settings_key([rules, common, own])) for name, own in played.items()}
        return Contents(parts, features=(spec.observation_dtype, spec.observation_shape))

    def video_environment(self, render: bool) -> gym.Env | None:
        """A single environment whose picture can be drawn; None where it has none."""
        return make_single(self.env_id, self.max_episode_steps, self.env_kwargs, render)

    def train_dataloader(self) -> Repeat[Experience]:
        if self._experience is None:
            self._experience = Experience(
                self._environments(self.num_envs, len(self._seeds), evaluation=False),
                seeds=self._seeds,
                total_env_steps=self.total_env_steps,
                env_steps_per_iteration=self.env_steps_per_iteration,
                replay_capacity=self.replay_capacity,
                batch_size=self.batch_size,
                learning_starts=self.learning_starts,
                reward_clip=self.reward_clip,
                keep_replay=self.checkpoint_replay,
            )
            if self._restored is not None:
                self._experience.load_state_dict(self._restored)
                if not self._experience.continued:
                    say(f"{self.env_id} cannot go on within an episode: the resumed training begins new ones.")
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
        environments = self._environments(slots, len(self._seeds), evaluation=True)
        if (seen := self._describe(environments)) != self.spec:
            raise UserError(
                f"{self.env_id} looks different vectorised ({seen}) and alone ({self.spec}): "
                "set data.backend to native or sync rather than auto."
            )
        return environments

    def teardown(self, stage: str) -> None:
        if stage == "fit" and self._experience is not None:
            self._last_state = self._experience.state_dict()
            self._experience.close()
            self._experience = None
        for evaluation in self._evaluations.values():
            evaluation.close()

    def state_dict(self) -> dict[str, Any]:
        state = self._experience.state_dict() if self._experience else self._last_state
        return {"env_id": self.env_id, "num_envs": self.num_envs, "experience": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in ("env_id", "num_envs"):
            theirs, ours = state_dict[name], getattr(self, name)
            if theirs != ours:
                raise UserError(f"the checkpoint's training had data.{name}={theirs}, and this one has {ours}.")
        self._restored = state_dict["experience"]
