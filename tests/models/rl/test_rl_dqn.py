"""The agent through Lightning's Trainer."""

import gymnasium as gym
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from rl_agents import fit, make_agent, make_data, make_trainer, weights
from torch import nn

from trilab.errors import ConfigError, UserError
from trilab.models.schedules import Linear


def test_the_budget_ends_the_training_and_is_counted():
    agent, trainer = fit()
    assert agent.x == agent.env_steps == agent.work_done == 600
    assert trainer.global_step == 51  # at 100, 110, ..., 600
    assert trainer.current_epoch == 2
    assert agent.warm
    expected = {"val/return_mean", "val/return_std", "val/episode_length_mean", "train/loss", "train/q_mean"}
    expected |= {"val/return_iqm", "val/q_predicted", "val/q_real", "val/overestimation"}
    expected |= {"train/td_error_abs_mean", "train/td_error_p50", "train/dead_units", "train/replay_fill"}
    expected |= {
        "train/return_running_mean",
        "train/epsilon",
        "train/gradient_steps",
        "train/return_mean",
        "train/episode_length_mean",
    }
    assert expected <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["train/epsilon"] == pytest.approx(0.1)


def test_max_steps_counts_gradient_updates_and_limit_train_batches_batches():
    agent, trainer = fit(trainer=make_trainer(max_steps=7))
    assert (trainer.global_step, agent.env_steps) == (7, 160)
    agent, trainer = fit(trainer=make_trainer(limit_train_batches=2, max_epochs=1))
    assert (trainer.global_step, agent.env_steps) == (11, 200)


def test_one_seed_one_result():
    first, second, other = (fit(data=make_data(seed=seed), seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(weights(first), weights(second))
    assert not torch.allclose(weights(first), weights(other))


@pytest.mark.parametrize("num_envs", [1, 7, 16])
def test_iterations_are_a_knob_of_speed_only(num_envs):
    results = [
        fit(data=make_data(num_envs=num_envs, env_steps_per_iteration=size, total_env_steps=605), double=True)[0]
        for size in (20, 100, 300)
    ]
    assert all(torch.equal(weights(results[0]), weights(other)) for other in results)


@pytest.mark.parametrize("num_envs", [1, 16])
def test_updates_count_environment_steps_whatever_the_number_of_environments(num_envs):
    agent, trainer = fit(data=make_data(num_envs=num_envs), env_steps_per_update=4)
    assert trainer.global_step == pytest.approx((600 - 100) / 4, abs=4)
    assert 600 <= agent.env_steps < 600 + num_envs


def test_updates_in_a_row_are_as_many_at_coarser_points():
    data = make_data(env_steps_per_iteration=20)
    agent = make_agent(data, updates_at_once=4)
    seen = []
    inner = agent.learn

    def learn(experience, optimizer, now, most):
        losses = inner(experience, optimizer, now, most)
        seen.append((now, len(losses)))
        return losses

    agent.learn = learn
    trainer = make_trainer()
    trainer.fit(agent, datamodule=data)
    assert seen == [(now, 4) for now in range(120, 601, 40)]
    assert trainer.global_step == 4 * len(seen)
    _, trainer = fit(trainer=make_trainer(max_steps=6), updates_at_once=4)
    assert trainer.global_step == 6


def test_target_network_is_copied_on_the_grid():
    data = make_data(total_env_steps=590, env_steps_per_iteration=10)
    agent = make_agent(data)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            pairs = zip(module.network.parameters(), module.target_network.parameters(), strict=True)
            if all(torch.equal(a, b) for a, b in pairs):
                seen.append(module.env_steps)

    make_trainer(callbacks=[Watch()]).fit(agent, datamodule=data)
    assert [step for step in seen if step > 100] == [150, 200, 250, 300, 350, 400, 450, 500, 550]
    assert not any(parameter.requires_grad for parameter in agent.target_network.parameters())


def plain_network(agent):
    """The agent's network as anybody would write it down."""
    layers = [nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)]
    network = nn.Sequential(*layers)
    for mine, theirs in zip(network.parameters(), agent.network.parameters(), strict=True):
        mine.data.copy_(theirs.data)
    return network


def test_updates_are_those_of_a_loop_written_by_hand():
    """One environment, everything in the open: no vector, no grid, no Lightning."""
    data = make_data(env_steps_per_iteration=100, total_env_steps=400)
    agent = make_agent(data)
    network, target = (plain_network(agent) for _ in range(2))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    batches = []
    begin = agent.begin

    def spy(experience, restored):
        """Keeps what the agent drew, to be learned from again by hand."""
        sink = begin(experience, restored)
        sample = agent._replay.sample

        def keep(*args):
            batches.append((experience.env_steps, sample(*args)))
            return batches[-1][1]

        agent._replay.sample = keep
        return sink

    agent.begin = spy
    make_trainer().fit(agent, datamodule=data)

    assert [step for step, _ in batches] == list(range(100, 401, 10))
    for step, batch in batches:
        with torch.no_grad():
            future = target(batch.next_observation).max(dim=1).values
            y = batch.reward + future * batch.discount
        loss = torch.stack(
            [(network(o)[a] - t) ** 2 for o, a, t in zip(batch.observation, batch.action, y, strict=True)]
        )
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        if step % 50 == 0:
            target.load_state_dict(network.state_dict())
    for mine, theirs in zip(network.parameters(), agent.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


class Endless(gym.Env):
    """One state, 1 a step, cut off by the time limit after two steps: Q = 1 / (1 - gamma) for both actions.

    With `ends=True` the second step terminates, and Q = 1 + gamma in the first state and 1 in the second.
    """

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, ends=False):
        self.ends, self.steps = ends, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == 2
        return self._observation(), 1.0, over and self.ends, over and not self.ends, {}

    def _observation(self):
        return np.array([float(self.ends and self.steps == 1)], np.float32)


for name, ends in (("TrilabTestTruncated-v0", False), ("TrilabTestTerminated-v0", True)):
    gym.register(name, Endless, kwargs={"ends": ends}, max_episode_steps=2)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize(
    ("env_id", "expected"),
    [("TrilabTestTruncated-v0", {0.0: 5.0}), ("TrilabTestTerminated-v0", {0.0: 1.8, 1.0: 1.0})],
)
def test_value_is_exact_where_it_is_known(env_id, expected, num_envs, double):
    data = make_data(env_id=env_id, num_envs=num_envs, total_env_steps=4000, env_steps_per_epoch=4000)
    agent, _ = fit(data, gamma=0.8, lr=1e-2, env_steps_per_update=4, target_update_every=20, double=double)
    for observation, value in expected.items():
        q = agent.network(torch.tensor([[observation]]))
        torch.testing.assert_close(q, torch.full((1, 2), value), rtol=0.02, atol=0.02)


def test_schedule_runs_by_environment_steps():
    rates = []

    class Sgd(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    fit(schedule=Linear(final=0.0), optimizer=Sgd, lr=0.1)
    assert rates == pytest.approx([0.1 * (1 - step / 600) for step in range(100, 601, 10)])


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradient_clipping(algorithm):
    sizes = []

    class Sgd(torch.optim.SGD):
        def step(self, closure=None):
            gradients = torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]])
            sizes.append(gradients.norm().item() if algorithm == "norm" else gradients.abs().max().item())
            return super().step(closure)

    data = make_data()
    agent = make_agent(data, optimizer=Sgd)
    agent.gradient_clip_val, agent.gradient_clip_algorithm = 1e-3, algorithm
    make_trainer().fit(agent, datamodule=data)
    assert max(sizes) == pytest.approx(1e-3, rel=1e-3)


def test_a_grad_scaler_gets_every_update():
    """float16's scaler on the CPU, where float16 itself would be slow: the weights must not notice a scale of 2^k."""

    class Scaled(pl.plugins.precision.Precision):
        def __init__(self, scaler):
            self.scaler = scaler

    reference, _ = fit()
    for clip in (None, 1e9):
        data = make_data()
        agent = make_agent(data)
        agent.gradient_clip_val = clip
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10)
        make_trainer(plugins=[Scaled(scaler)]).fit(agent, datamodule=data)
        assert scaler.get_scale() == 2.0**15  # doubled at every tenth of 51 updates
        torch.testing.assert_close(weights(agent), weights(reference), rtol=1e-4, atol=1e-5)


def test_bf16_autocast_keeps_losses_in_fp32():
    seen = []
    agent = make_agent(data := make_data(), double=True)
    inner, target = agent.returns.loss, agent.returns.target

    def loss(output, action, targets):
        seen.extend([targets.dtype, (result := inner(output, action, targets)).dtype])
        return result

    def half(*args):
        seen.append((result := target(*args)).dtype)
        return result

    agent.returns.loss, agent.returns.target = loss, half
    make_trainer(precision="bf16-mixed").fit(agent, datamodule=data)
    assert set(seen) == {torch.float32}


def test_checkpoint_restores_the_count_and_the_target(tmp_path):
    agent, trainer = fit(target_update_every=1000)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    again = make_agent(data := make_data(seed=9), seed=9)
    trainer = make_trainer()
    trainer.test(again, datamodule=data, ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert again.x == 600
    assert torch.equal(weights(again), weights(agent))
    assert {"test/return_mean", "test/return_std", "test/episode_length_mean"} <= set(trainer.callback_metrics)


def test_metrics_reach_the_logger_at_environment_steps():
    class Memory(pl.loggers.logger.DummyLogger):
        def __init__(self):
            super().__init__()
            self.points = []

        def log_metrics(self, metrics, step=None):
            self.points.append((step, metrics))

    memory = Memory()
    fit(trainer=make_trainer(logger=memory, log_every_n_steps=1))
    train = [(step, metrics) for step, metrics in memory.points if "train/epsilon" in metrics]
    assert [step for step, _ in train] == [100, 200, 300, 400, 500, 600]
    assert [metrics["train/gradient_steps"] for _, metrics in train] == [1, 11, 21, 31, 41, 51]
    assert [metrics["train/epsilon"] for _, metrics in train][:3] == pytest.approx([0.7, 0.4, 0.1])
    assert [step for step, metrics in memory.points if "val/return_mean" in metrics] == [300, 600]
    lengths = [metrics.get("train/episode_length_mean") for _, metrics in train]
    assert lengths == [metrics.get("train/return_mean") for _, metrics in train], "CartPole pays 1 a step"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_starts": 600, "replay_capacity": 600}, "never start"),
        ({"learning_starts": 500}, "replay_capacity"),
        ({"batch_size": 401}, "replay_capacity"),
        ({"num_envs": 101}, "env_steps_per_iteration"),
        ({"env_steps_per_epoch": 250}, "multiple"),
        ({"val_seed": 1995}, "overlap"),
        ({"test_seed": 2**31}, "reach"),
    ],
)
def test_settings_that_could_never_work_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_data(**changes)


def test_an_environment_without_a_time_limit_is_refused():
    gym.register("TrilabTestUnlimited-v0", Endless)
    with pytest.raises(UserError, match="max_episode_steps"):
        make_data(env_id="TrilabTestUnlimited-v0").setup("fit")
    make_data(env_id="TrilabTestUnlimited-v0", max_episode_steps=5).setup("fit")


@pytest.mark.slow
def test_learning_beats_knowing_nothing():
    data = make_data(
        num_envs=8,
        total_env_steps=8000,
        env_steps_per_epoch=4000,
        replay_capacity=8000,
        batch_size=64,
        learning_starts=500,
    )
    agent, trainer = fit(data, double=True, hidden=(120, 84), env_steps_per_update=2, target_update_every=200)
    trainer.test(agent, datamodule=data, verbose=False)
    data.setup("fit")
    rng = np.random.default_rng(0)
    random_returns = (
        data.test_dataloader()
        .item.run(lambda seen: (rng.integers(2, size=len(seen)), np.zeros(len(seen))), gamma=0.99)
        .returns
    )
    data.teardown("test")
    assert random_returns.mean() < 40
    assert trainer.callback_metrics["test/return_mean"] > 4 * random_returns.mean()
