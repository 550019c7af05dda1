"""A training that is stopped and gone on with ends where one that was never stopped does."""

import pytest
import pytorch_lightning as pl
import torch
from rl_agents import DQN, GymnasiumData, fit, fit_together, flat, make_agent, make_data, make_trainer, weights
from test_rl_seeds import TOGGLES

from trilab.errors import UserError


def stopping(folder):
    """A trainer that stops after one epoch; its checkpoint is made where Lightning makes it, within the epoch."""
    checkpoint = pl.callbacks.ModelCheckpoint(folder, filename="stopped")
    return make_trainer(max_epochs=1, enable_checkpointing=True, callbacks=[checkpoint])


def stopped_and_gone_on_with(folder, data, agent):
    fit(make_data(**data), trainer=stopping(folder), **agent)
    again, fresh = make_agent(fresh := make_data(**data), **agent), fresh
    torch.manual_seed(99)  # whatever another process begins with
    trainer = make_trainer()
    trainer.fit(again, datamodule=fresh, ckpt_path=folder / "stopped.ckpt", weights_only=True)
    return again, trainer


@pytest.mark.parametrize("toggles", TOGGLES.values(), ids=TOGGLES)
def test_cartpole(tmp_path, toggles):
    again, trainer = stopped_and_gone_on_with(tmp_path, {}, toggles)
    never, reference = fit(**toggles)
    assert again.env_steps == never.env_steps == 600
    assert trainer.global_step == reference.global_step
    assert torch.equal(weights(again), weights(never))


@pytest.mark.parametrize(
    "data",
    [{"num_envs": 8, "backend": "native"}, {"num_envs": 3, "backend": "sync"}, {"env_id": "Acrobot-v1"}],
    ids=str,
)
def test_other_environments(tmp_path, data):
    again, _ = stopped_and_gone_on_with(tmp_path, data, {"env_steps_per_update": 4})
    never, _ = fit(make_data(**data), env_steps_per_update=4)
    assert torch.equal(weights(again), weights(never))


def test_without_the_replay_learning_starts_again(tmp_path):
    again, trainer = stopped_and_gone_on_with(tmp_path, {"checkpoint_replay": False}, {})
    assert again.env_steps == 600
    # The replay is filled to learning_starts again: updates at 400, 410, ..., 600.
    assert trainer.global_step == 21 + 21


def test_environments_that_cannot_go_on_begin_new_episodes(tmp_path, capsys):
    data = {"num_envs": 2, "backend": "async"}
    again, _ = stopped_and_gone_on_with(tmp_path, data, {"n_step": 3})
    assert again.env_steps == 600
    assert "begins new ones" in capsys.readouterr().err


@pytest.mark.parametrize("toggles", [{}, TOGGLES["everything"]], ids=["plain", "everything"])
def test_a_batch_of_agents(tmp_path, toggles):
    fit_together([3, 8], trainer=stopping(tmp_path), **toggles)
    members = [make_data(seed=seed) for seed in (3, 8)]
    agents = [make_agent(data, seed=seed, **toggles) for data, seed in zip(members, (3, 8), strict=True)]
    again = DQN.joined(agents)
    path = tmp_path / "stopped.ckpt"
    make_trainer().fit(again, datamodule=GymnasiumData.joined(members), ckpt_path=path, weights_only=True)
    never, _ = fit_together([3, 8], **toggles)
    assert torch.equal(flat(again.state_dict()), flat(never.state_dict()))


@pytest.mark.parametrize("changes", [{"env_id": "CartPole-v0"}, {"num_envs": 2}], ids=str)
def test_other_environments_are_refused(tmp_path, changes):
    fit(make_data(), trainer=stopping(tmp_path))
    other = make_data(**changes)
    with pytest.raises(UserError, match=f"data.{next(iter(changes))}="):
        make_trainer().fit(make_agent(other), datamodule=other, ckpt_path=tmp_path / "stopped.ckpt", weights_only=True)
