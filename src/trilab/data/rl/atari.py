"""Atari games as data: whole batches of 84x84 grey frames from emulators that run in threads."""

import gymnasium as gym

from trilab.data.rl.arcade import AtariScreen, make_atari
from trilab.data.rl.datamodule import GymnasiumData
from trilab.data.rl.environment import describe
from trilab.data.rl.environments import Environments
from trilab.data.rl.spec import EnvSpec
from trilab.ranges import Fraction, FractionBelowOne, NonNegativeInt, PositiveFloat, PositiveInt


class AtariData(GymnasiumData):
    """A game of ale-py: observations (frame_stack, 84, 84) uint8, the newest frame last.

    Evaluation plays whole games, for unclipped rewards, and a lost life ends nothing there.

    Args:
        env_id: as registered with Gymnasium, ALE/Pong-v5; its version's own settings are not taken over.
        num_envs: training environments, stepped together.
        max_episode_steps: a game is cut off after so many steps.
        frame_skip: frames that an action is repeated for: one step.
        frame_stack: frames in an observation.
        noop_max: a game begins with fewer frames than this of doing nothing, at random.
        repeat_action_probability: in each frame, of going on with the last action instead ("sticky actions",
            https://arxiv.org/abs/1709.06009).
        episodic_life: in training, a lost life terminates the transition, and the game goes on.
        full_action_space: all 18 actions rather than those that the game knows.
        threads: of the emulators; 0 for as many as there are cores.
        discount: see GymnasiumData for this and what follows.
        reward_clip: of training alone.
        total_env_steps: the budget.
        env_steps_per_epoch: then validation, checkpoint, next epoch.
        env_steps_per_iteration: of one training step.
        replay_capacity: transitions held, a frame of 7 kB each.
        checkpoint_replay: whether checkpoints hold the replay.
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
        num_envs: PositiveInt,
        max_episode_steps: PositiveInt,
        frame_skip: PositiveInt,
        frame_stack: PositiveInt,
        noop_max: NonNegativeInt,
        repeat_action_probability: FractionBelowOne,
        episodic_life: bool,
        full_action_space: bool,
        threads: NonNegativeInt,
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
        super().__init__(
            env_id=env_id,
            env_kwargs=None,
            num_envs=num_envs,
            backend="native",
            max_episode_steps=max_episode_steps,
            discount=discount,
            reward_clip=reward_clip,
            total_env_steps=total_env_steps,
            env_steps_per_epoch=env_steps_per_epoch,
            env_steps_per_iteration=env_steps_per_iteration,
            replay_capacity=replay_capacity,
            checkpoint_replay=checkpoint_replay,
            batch_size=batch_size,
            learning_starts=learning_starts,
            eval_envs=eval_envs,
            val_episodes=val_episodes,
            val_seed=val_seed,
            test_episodes=test_episodes,
            test_seed=test_seed,
            seed=seed,
        )
        self.game_steps = max_episode_steps
        self.frame_skip = frame_skip
        self.frame_stack = frame_stack
        self.noop_max = noop_max
        self.repeat_action_probability = repeat_action_probability
        self.episodic_life = episodic_life
        self.full_action_space = full_action_space
        self.threads = threads

    def _environments(self, num_envs: int, agents: int, evaluation: bool) -> Environments:
        return make_atari(
            self.env_id,
            num_envs,
            agents=agents,
            max_episode_steps=self.game_steps,
            episodic_life=self.episodic_life and not evaluation,
            frame_skip=self.frame_skip,
            frame_stack=self.frame_stack,
            noop_max=self.noop_max,
            repeat_action_probability=self.repeat_action_probability,
            full_action_space=self.full_action_space,
            threads=self.threads,
        )

    def _describe(self, environments: Environments) -> EnvSpec:
        return describe(self.env_id, environments.vector, frame_stack=self.frame_stack)

    def video_environment(self, render: bool) -> gym.Env | None:
        screen = AtariScreen(
            self.env_id,
            render,
            frame_skip=self.frame_skip,
            frame_stack=self.frame_stack,
            noop_max=self.noop_max,
            repeat_action_probability=self.repeat_action_probability,
            full_action_space=self.full_action_space,
        )
        return gym.wrappers.TimeLimit(screen, self.game_steps)
