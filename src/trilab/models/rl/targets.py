"""The equations of the DQN family as functions of tensors.

Every tensor may have a leading axis of agents, written "..." here. All is computed in float32, whatever the networks'
precision: bfloat16 has 3 significant digits, and a temporal-difference error is a small difference of large values.
"""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def dqn_target(reward: Tensor, discount: Tensor, next_target: Tensor) -> Tensor:
    """y = r + discount max_a Q_target(s', a)

    Mnih et al. 2015, Human-level control through deep reinforcement learning, algorithm 1
    (https://doi.org/10.1038/nature14236).

    Args:
        reward: (..., batch) of one step, or of the n that lie between s and s'.
        discount: (..., batch) gamma^n, and 0 where s' has no future: where the episode was terminated, not where it was
            cut off, for there the value of s' still counts (Pardo et al. 2018, https://arxiv.org/abs/1712.00378).
        next_target: (..., batch, actions) Q_target(s', ·)
    """
    return reward + discount * next_target.amax(-1).float()


def double_dqn_target(reward: Tensor, discount: Tensor, next_online: Tensor, next_target: Tensor) -> Tensor:
    """y = r + discount Q_target(s', argmax_a Q_online(s', a))

    One network picks the action, the other says what it is worth, so that the maximum no longer seeks out errors that
    happen to be positive: van Hasselt, Guez & Silver 2016, equation 4 with the target network in the place of the
    second set of weights (https://arxiv.org/abs/1509.06461).

    Args:
        reward: (..., batch)
        discount: (..., batch), as in `dqn_target`.
        next_online: (..., batch, actions) Q_online(s', ·)
        next_target: (..., batch, actions) Q_target(s', ·)
    """
    return reward + discount * taken(next_target, next_online.argmax(-1)).float()


def taken(values: Tensor, action: Tensor) -> Tensor:
    """The actions' own of (..., batch, actions): (..., batch)."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def td_loss(value: Tensor, target: Tensor, kind: Literal["mse", "huber"]) -> Tensor:
    """Of each sample: d^2 (mse), or d^2/2 where |d| <= 1 and |d| - 1/2 beyond (huber).

    Args:
        value: (..., batch) Q(s, a)
        target: (..., batch)
        kind: which of the two.
    """
    if kind == "mse":
        return F.mse_loss(value.float(), target, reduction="none")
    return F.smooth_l1_loss(value.float(), target, reduction="none")


@torch.no_grad()
def update_target(target: Iterable[Tensor], online: Iterable[Tensor], tau: float) -> None:
    """target <- (1 - tau) target + tau online; tau = 1 copies (Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971)."""
    target, online = list(target), list(online)
    if tau == 1.0:
        for old, new in zip(target, online, strict=True):
            old.copy_(new)
    else:
        get_ema_multi_avg_fn(decay=1.0 - tau)(target, online, None)
