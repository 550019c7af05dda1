"""Small agents, data and trainers for the tests of this folder."""

import functools
import logging

import pytorch_lightning as pl
import torch

from trilab.data.rl.datamodule import GymnasiumData
from trilab.models.rl.dqn import DQN
from trilab.models.rl.exploration import LinearEpsilon
from trilab.models.rl.networks import QNetwork
from trilab.models.schedules import Constant

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def make_data(**changes):
    settings = {
        "env_id": "CartPole-v1",
        "env_kwargs": None,
        "num_envs": 1,
        "backend": "auto",
        "max_episode_steps": None,
        "discount": 0.99,
        "reward_clip": None,
        "total_env_steps": 600,
        "env_steps_per_epoch": 300,
        "env_steps_per_iteration": 100,
        "replay_capacity": 400,
        "checkpoint_replay": True,
        "batch_size": 16,
        "learning_starts": 100,
        "eval_envs": 10,
        "val_episodes": 10,
        "val_seed": 1000,
        "test_episodes": 10,
        "test_seed": 2000,
        "seed": 3,
    }
    return GymnasiumData(**(settings | changes))


def make_agent(data, schedule=None, optimizer=torch.optim.Adam, lr=1e-3, hidden=(32, 32), **changes):
    data.prepare_data()
    data.setup("fit")
    settings = {
        "epsilon": LinearEpsilon(start=1.0, end=0.1, fraction=0.5),
        "eval_epsilon": 0.0,
        "double": False,
        "dueling": False,
        "dueling_rescale": True,
        "n_step": 1,
        "prioritized": False,
        "priority_alpha": 0.6,
        "priority_beta": 0.4,
        "priority_epsilon": 1e-6,
        "noisy": False,
        "noisy_sigma": 0.5,
        "distributional": "none",
        "atoms": 11,
        "v_min": 0.0,
        "v_max": 20.0,
        "kappa": 1.0,
        "gamma": 0.99,
        "loss": "mse",
        "env_steps_per_update": 10,
        "updates_at_once": 1,
        "target_update_every": 50,
        "tau": 1.0,
        "compile": "none",
        "seed": 3,
    }
    settings |= changes
    torch.manual_seed(settings["seed"])
    return DQN(
        spec=data.spec,
        optimizer=functools.partial(optimizer, lr=lr),
        schedule=schedule or Constant(),
        network=functools.partial(QNetwork, hidden=list(hidden), trunk=None),
        **settings,
    )


def make_trainer(**changes):
    settings = {
        "accelerator": "cpu",
        "max_epochs": -1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**(settings | changes))


def fit(data=None, trainer=None, **agent):
    data = data or make_data()
    agent, trainer = make_agent(data, **agent), trainer or make_trainer()
    trainer.fit(agent, datamodule=data)
    return agent, trainer


def fit_together(seeds, trainer=None, data=None, **agent):
    """The agents of several seeds as one batch."""
    members = [make_data(**(data or {}) | {"seed": seed}) for seed in seeds]
    agents = [make_agent(member, **agent | {"seed": seed}) for member, seed in zip(members, seeds, strict=True)]
    together, trainer = DQN.joined(agents), trainer or make_trainer()
    trainer.fit(together, datamodule=GymnasiumData.joined(members))
    return together, trainer


def weights(agent):
    return flat(agent.state_dict())


def flat(state):
    return torch.cat([value.flatten() for value in state.values()])
