"""Agents that train side by side as one batch are the agents that they would be alone."""

import pytest
import pytorch_lightning as pl
import torch
from rl_agents import GymnasiumData, fit, fit_together, flat, make_agent, make_data, make_trainer, weights

TOGGLES = {
    "plain": {},
    "double": {"double": True},
    "dueling": {"dueling": True},
    "n_step": {"n_step": 3},
    "prioritized": {"prioritized": True},
    "noisy": {"noisy": True},
    "c51": {"distributional": "c51"},
    "qr": {"distributional": "qr"},
    "huber, soft target": {"loss": "huber", "tau": 0.1, "target_update_every": 10},
    "everything": {
        "double": True, "dueling": True, "n_step": 3, "prioritized": True, "noisy": True, "distributional": "c51",
    },
}  # fmt: skip


@pytest.mark.parametrize("toggles", TOGGLES.values(), ids=TOGGLES)
def test_each_agent_of_a_batch_is_the_one_trained_alone(toggles):
    together, trainer = fit_together([3, 8], **toggles)
    assert trainer.global_step == 51
    assert together.work_done == 1200
    for k, seed in enumerate([3, 8]):
        alone, _ = fit(make_data(seed=seed), seed=seed, **toggles)
        torch.testing.assert_close(flat(together.agent_state(k)), weights(alone), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(flat(together.agent_state(0)), flat(together.agent_state(1)))


@pytest.mark.parametrize("backend", ["sync", "native"])
@pytest.mark.parametrize("num_envs", [3, 8])
def test_with_several_environments_each(num_envs, backend):
    """Native environments spend a step on their reset, and agents fall out of step: it must not matter."""
    settings = {"num_envs": num_envs, "backend": backend, "total_env_steps": 605}
    together, _ = fit_together([3, 8, 5], data=settings, env_steps_per_update=4)
    for k, seed in enumerate([3, 8, 5]):
        alone, _ = fit(make_data(seed=seed, **settings), seed=seed, env_steps_per_update=4)
        torch.testing.assert_close(flat(together.agent_state(k)), weights(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_over_a_thousand_updates():
    settings = {"total_env_steps": 11_000, "env_steps_per_epoch": 11_000, "learning_starts": 1000}
    settings |= {"replay_capacity": 5000, "env_steps_per_iteration": 500}
    together, trainer = fit_together([1, 2, 4], data=settings, lr=2.5e-4, hidden=(120, 84))
    assert trainer.global_step == 1001
    for k, seed in enumerate([1, 2, 4]):
        alone, _ = fit(make_data(seed=seed, **settings), seed=seed, lr=2.5e-4, hidden=(120, 84))
        torch.testing.assert_close(flat(together.agent_state(k)), weights(alone), rtol=1e-2, atol=1e-3)


def test_clipping_is_by_agent():
    sizes = []

    class Sgd(torch.optim.SGD):
        def step(self, closure=None):
            gradients = [p.grad.flatten(1) for group in self.param_groups for p in group["params"]]
            sizes.append(torch.cat(gradients, 1).norm(dim=1))
            return super().step(closure)

    members = [make_data(seed=seed) for seed in (1, 2)]
    agents = [make_agent(data, seed=seed, optimizer=Sgd) for data, seed in zip(members, (1, 2), strict=True)]
    together = type(agents[0]).joined(agents)
    together.gradient_clip_val = 1e-3
    make_trainer().fit(together, datamodule=GymnasiumData.joined(members))
    norms = torch.stack(sizes)  # (updates, agents)
    torch.testing.assert_close(norms.max(0).values, torch.full((2,), 1e-3), rtol=1e-2, atol=0)


class Memory(pl.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.points = []

    def log_metrics(self, metrics, step=None):
        self.points.append((step, metrics))


def test_metrics_are_by_agent():
    logged = {}
    for name, run in (
        ("together", lambda trainer: fit_together([3, 8], trainer=trainer)),
        ("3", lambda trainer: fit(make_data(seed=3), seed=3, trainer=trainer)),
        ("8", lambda trainer: fit(make_data(seed=8), seed=8, trainer=trainer)),
    ):
        memory = Memory()
        run(make_trainer(logger=memory, log_every_n_steps=1))
        logged[name] = memory.points
    steps = [step for step, _ in logged["together"]]
    assert steps == [step for step, _ in logged["3"]] == [100, 200, 300, 300, 400, 500, 600, 600]
    for (_, both), (_, first), (_, second) in zip(*logged.values(), strict=True):
        for metric, values in both.items():
            if isinstance(values, list):
                for value, one in zip(values, (first.get(metric), second.get(metric)), strict=True):
                    assert value == (None if one is None else pytest.approx(one, rel=1e-3, abs=1e-3)), metric
            else:
                assert metric in {"train/epsilon", "train/gradient_steps", "train/replay_fill"}


def test_an_agent_alone_can_take_the_weights_of_one_in_a_batch():
    together, _ = fit_together([3, 8])
    alone, _ = fit(make_data(seed=1), seed=1)
    alone.load_agent_state(0, together.agent_state(1))
    assert torch.equal(weights(alone), flat(together.agent_state(1)))
    together.load_agent_state(0, alone.agent_state(0))
    assert torch.equal(flat(together.agent_state(0)), flat(together.agent_state(1)))
