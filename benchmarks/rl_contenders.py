"""What trilab is measured against: a plain single-file DQN in CleanRL's manner, and Stable-Baselines3's DQN.

    python benchmarks/rl_contenders.py plain --envs 1 --steps 60000

prints one line of JSON; `rl_throughput.py` runs this in processes of their own. Both have CleanRL's CartPole settings:
MLP 120-84, replay 10,000, batch 128, an update for every 10 environment steps from 10,000 on, Adam at 2.5e-4, gamma
0.99, mean squared error, target copied every 500 steps, epsilon from 1 to 0.05 over the first half.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

ENV, THRESHOLD = "CartPole-v1", 475.0
CAPACITY, BATCH, LEARNING_STARTS = 10_000, 128, 10_000
STEPS_PER_UPDATE, TARGET_EVERY, GAMMA, LR = 10, 500, 0.99, 2.5e-4
EPSILON_START, EPSILON_END, EPSILON_SHARE = 1.0, 0.05, 0.5
EVAL_EVERY, EVAL_EPISODES, EVAL_SEED = 20_000, 100, 1_000_000

#: (rows, 4) observations to (rows,) actions.
Policy = Callable[[np.ndarray], np.ndarray]


class Clock:
    """Counts time and steps from the first update on, and greedy evaluations outside of it."""

    def __init__(self, solve: bool) -> None:
        self.solve = solve
        self.began = time.perf_counter()
        self.away = 0.0  # seconds spent on evaluation
        self.warm: tuple[float, int] | None = None
        self.solved: tuple[float, int] | None = None
        self.due = EVAL_EVERY

    def tick(self, steps: int, policy: Policy) -> None:
        """Call after each environment step, when the update that it called for has been made."""
        if self.warm is None and steps > LEARNING_STARTS:
            self.warm = time.perf_counter() - self.began - self.away, steps
        if self.solve and steps >= self.due:
            paused = time.perf_counter()
            self.due += EVAL_EVERY
            if self.solved is None and evaluate(policy) >= THRESHOLD:
                self.solved = paused - self.began - self.away, steps
            self.away += time.perf_counter() - paused

    def result(self, steps: int) -> dict[str, float | None]:
        assert self.warm is not None
        seconds, first = self.warm
        rate = (steps - first) / (time.perf_counter() - self.began - self.away - seconds)
        solved_s, solved_steps = self.solved or (None, None)
        return {"env_steps_per_s": rate, "solved_s": solved_s, "solved_steps": solved_steps}


def evaluate(policy: Policy) -> float:
    """Mean return of 100 greedy episodes, each environment playing one from its start."""
    envs = [gym.make(ENV) for _ in range(EVAL_EPISODES)]
    observations = np.stack([env.reset(seed=EVAL_SEED + i)[0] for i, env in enumerate(envs)])
    running, returns = np.ones(EVAL_EPISODES, bool), np.zeros(EVAL_EPISODES)
    while running.any():
        actions = policy(observations)
        for i in np.flatnonzero(running):
            observations[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += float(reward)
            running[i] = not (terminated or truncated)
    return float(returns.mean())


def plain(num_envs: int, total: int, seed: int, solve: bool) -> dict[str, float | None]:
    """One loop, nothing around it: no logging, no checkpoints."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    envs = SyncVectorEnv([lambda: gym.make(ENV) for _ in range(num_envs)], autoreset_mode=AutoresetMode.SAME_STEP)
    network = nn.Sequential(nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2))
    target_network = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    states = np.zeros((CAPACITY, 4), np.float32)
    next_states = np.zeros((CAPACITY, 4), np.float32)
    actions = np.zeros(CAPACITY, np.int64)
    rewards = np.zeros(CAPACITY, np.float32)
    ends = np.zeros(CAPACITY, np.float32)

    def greedy(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.as_tensor(observations)).argmax(1).numpy()

    clock = Clock(solve)
    steps = stored = 0
    envs.action_space.seed(seed)
    observation, _ = envs.reset(seed=seed)
    while steps < total:
        share = min(1.0, steps / (EPSILON_SHARE * total))
        epsilon = EPSILON_START + share * (EPSILON_END - EPSILON_START)
        action = envs.action_space.sample() if rng.random() < epsilon else greedy(observation)
        following, reward, terminated, truncated, infos = envs.step(action)
        true_following = following.copy()
        for i in np.flatnonzero(terminated | truncated):
            true_following[i] = infos["final_obs"][i]
        rows = np.arange(stored, stored + num_envs) % CAPACITY
        states[rows], actions[rows], rewards[rows] = observation, action, reward
        next_states[rows], ends[rows] = true_following, terminated
        stored += num_envs
        observation = following
        before, steps = steps, steps + num_envs
        for now in range(before // STEPS_PER_UPDATE + 1, steps // STEPS_PER_UPDATE + 1):
            if now * STEPS_PER_UPDATE <= LEARNING_STARTS:
                continue
            drawn = rng.integers(min(stored, CAPACITY), size=BATCH)
            with torch.no_grad():
                best = target_network(torch.as_tensor(next_states[drawn])).amax(1)
                y = torch.as_tensor(rewards[drawn]) + GAMMA * best * (1 - torch.as_tensor(ends[drawn]))
            values = network(torch.as_tensor(states[drawn]))
            loss = F.mse_loss(values.gather(1, torch.as_tensor(actions[drawn])[:, None]).squeeze(1), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if steps // TARGET_EVERY > before // TARGET_EVERY:
            target_network.load_state_dict(network.state_dict())
        clock.tick(steps, greedy)
    result = clock.result(steps)
    envs.close()
    return result


def sb3(num_envs: int, total: int, seed: int, solve: bool) -> dict[str, float | None]:
    """Stable-Baselines3 at the same settings; see README.md for what differs."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.dqn import dqn

    # Its loss is always Huber's, with which these settings do not learn; this is the only call to F in that module.
    dqn.F = SimpleNamespace(smooth_l1_loss=F.mse_loss)
    # Its train_freq counts steps of the vector; with 8 environments 5 of those are 40 environment steps and 4 updates.
    frequency, updates = (STEPS_PER_UPDATE, 1) if num_envs == 1 else (5, num_envs * 5 // STEPS_PER_UPDATE)
    if frequency * num_envs != updates * STEPS_PER_UPDATE:
        raise SystemExit(f"no whole number of updates in 5 steps of {num_envs} environments")
    model = DQN(
        "MlpPolicy",
        make_vec_env(ENV, num_envs, seed=seed),
        learning_rate=LR,
        buffer_size=CAPACITY,
        learning_starts=LEARNING_STARTS,
        batch_size=BATCH,
        gamma=GAMMA,
        train_freq=frequency,
        gradient_steps=updates,
        target_update_interval=TARGET_EVERY,
        exploration_fraction=EPSILON_SHARE,
        exploration_initial_eps=EPSILON_START,
        exploration_final_eps=EPSILON_END,
        max_grad_norm=float("inf"),
        policy_kwargs={"net_arch": [120, 84]},
        seed=seed,
        device="cpu",
    )
    clock = Clock(solve)

    class Ticks(BaseCallback):
        def _on_step(self) -> bool:
            clock.tick(self.num_timesteps, lambda observations: model.predict(observations, deterministic=True)[0])
            return True

    model.learn(total, callback=Ticks())
    return clock.result(model.num_timesteps)


CONTENDERS = {"plain": plain, "sb3": sb3}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--envs", type=int, default=1, help="training environments")
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps in all")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--solve", action="store_true", help="evaluate every 20,000 steps until the task is solved")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = CONTENDERS[options.contender]
    print(json.dumps(run(options.envs, options.steps, options.seed, options.solve)))


if __name__ == "__main__":
    main()
