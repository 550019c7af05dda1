"""The equations of the DQN family as functions of tensors."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def dqn_target(reward: Tensor, terminated: Tensor, gamma: float | Tensor, next_target: Tensor) -> Tensor:
    """y = r + gamma (1 - terminated) max_a Q_target(s', a)

    Mnih et al. 2015, Human-level control through deep reinforcement learning, algorithm 1
    (https://doi.org/10.1038/nature14236). Truncation is not termination: there the value of s' still counts
    (Pardo et al. 2018, https://arxiv.org/abs/1712.00378).

    Args:
        reward: (batch,)
        terminated: (batch,) 1 where s' has no future, else 0.
        gamma: discount of s', one for all or (batch,).
        next_target: (batch, actions) Q_target(s', ·)
    """
    return reward + gamma * (1.0 - terminated) * next_target.amax(1)


def double_dqn_target(
    reward: Tensor, terminated: Tensor, gamma: float | Tensor, next_online: Tensor, next_target: Tensor
) -> Tensor:
    """y = r + gamma (1 - terminated) Q_target(s', argmax_a Q_online(s', a))

    One network picks the action, the other says what it is worth, so that the maximum no longer seeks out errors that
    happen to be positive: van Hasselt, Guez & Silver 2016, equation 4 with the target network in the place of the
    second set of weights (https://arxiv.org/abs/1509.06461).
    """
    action = next_online.argmax(1, keepdim=True)  # (batch, 1)
    return reward + gamma * (1.0 - terminated) * next_target.gather(1, action).squeeze(1)


def td_loss(value: Tensor, target: Tensor, kind: Literal["mse", "huber"]) -> Tensor:
    """Mean over the batch of d^2 (mse), or of d^2/2 where |d| <= 1 and |d| - 1/2 beyond (huber)."""
    return F.mse_loss(value, target) if kind == "mse" else F.smooth_l1_loss(value, target)


@torch.no_grad()
def update_target(target: Iterable[Tensor], online: Iterable[Tensor], tau: float) -> None:
    """target <- (1 - tau) target + tau online; tau = 1 copies (Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971)."""
    target, online = list(target), list(online)
    if tau == 1.0:
        for old, new in zip(target, online, strict=True):
            old.copy_(new)
    else:
        get_ema_multi_avg_fn(decay=1.0 - tau)(target, online, None)
