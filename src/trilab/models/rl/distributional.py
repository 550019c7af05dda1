"""What a network's output says of the return: its mean, or its distribution on atoms or at quantiles.

`Scalar`, `C51` and `QR` answer the same questions, so that an agent need not know which of them it learns. An output
is (..., batch, actions), or (..., batch, actions, atoms) where `atoms` is more than one; "..." is an axis of agents
where several are trained as one batch. All results are float32, whatever the precision of the network. A temporal-
difference error has the sign of y - Q(s, a).
"""

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trilab.errors import ConfigError
from trilab.models.rl.targets import double_dqn_target, dqn_target, taken, td_loss
from trilab.ranges import NonNegativeFloat, PositiveInt


class Returns(ABC):
    """How an output stands for returns."""

    #: Numbers that the network gives for each action.
    atoms: int

    @abstractmethod
    def values(self, output: Tensor) -> Tensor:
        """Expected returns: (..., batch, actions)."""

    @abstractmethod
    def values_numpy(self, output: np.ndarray) -> np.ndarray:
        """The same in NumPy, for acting."""

    @abstractmethod
    def target(self, next_target: Tensor, next_online: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """What Q(s, a) should be, without gradient: (..., batch) or (..., batch, atoms).

        Args:
            next_target: the target network's output at s'.
            next_online: the output at s' whose expected returns choose a': the online network's (Double DQN), or
                `next_target` itself.
            reward: (..., batch)
            discount: (..., batch) gamma^n, and 0 where the episode was terminated.
        """

    @abstractmethod
    def loss(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Of each sample, without weights: (..., batch); `action` is (..., batch), `target` as `target` gives it."""

    @abstractmethod
    def td_error(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Expected target minus expected return, (..., batch)."""

    def priority(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """What stands for |delta| in prioritised replay, (..., batch) and >= 0; here |y - Q(s, a)|.

        Schaul et al. 2016, section 3.3 (https://arxiv.org/abs/1511.05952).
        """
        return self.td_error(output, action, target).abs().detach()


class Scalar(Returns):
    """The output is the expected return.

    Args:
        loss: of the temporal-difference error.
    """

    atoms = 1

    def __init__(self, loss: Literal["mse", "huber"]) -> None:
        self.kind = loss

    def values(self, output: Tensor) -> Tensor:
        return output.float()

    def values_numpy(self, output: np.ndarray) -> np.ndarray:
        return output

    @torch.no_grad()
    def target(self, next_target: Tensor, next_online: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        if next_online is next_target:  # the maximum is cheaper than finding where it is and going there
            return dqn_target(reward, discount, next_target)
        return double_dqn_target(reward, discount, next_online, next_target)

    def loss(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        return td_loss(taken(output, action), target, self.kind)

    def td_error(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        return target - taken(output, action).float()


class C51(Returns):
    """The output is the logits of a categorical distribution on fixed atoms.

    Bellemare, Dabney & Munos 2017, A Distributional Perspective on Reinforcement Learning, algorithm 1
    (https://arxiv.org/abs/1707.06887): the atoms of Z(s', a') move to r + gamma z_j, are clipped to the support, and
    share their probability between the two atoms beside them, in proportion to nearness. The loss is
    KL(target || prediction): algorithm 1's cross-entropy less the target's entropy, of which the gradient knows
    nothing. So a perfect prediction has loss 0, and the loss is what prioritised replay needs (Hessel et al. 2018,
    https://arxiv.org/abs/1710.02298, section "The Integrated Agent").

    Args:
        atoms: of the support; 51 in the paper.
        v_min: return of the first.
        v_max: return of the last.
    """

    def __init__(self, atoms: PositiveInt, v_min: float, v_max: float) -> None:
        if atoms < 2:
            raise ConfigError(f"model.atoms={atoms}: c51 needs two atoms at least.")
        if v_min >= v_max:
            raise ConfigError(f"model.v_min={v_min} is not below model.v_max={v_max}: the atoms need a range.")
        self.atoms = atoms
        self.v_min = v_min
        self.v_max = v_max

    def support(self, device: torch.device) -> Tensor:
        """(atoms,) the returns that the atoms stand for; made anew, for a cached one could not be compiled."""
        return torch.linspace(self.v_min, self.v_max, self.atoms, device=device)

    def values(self, output: Tensor) -> Tensor:
        return (output.float().softmax(-1) * self.support(output.device)).sum(-1)

    def values_numpy(self, output: np.ndarray) -> np.ndarray:
        weights = np.exp(output - output.max(-1, keepdims=True))
        support = np.linspace(self.v_min, self.v_max, self.atoms, dtype=np.float32)
        return weights.dot(support) / weights.sum(-1)

    @torch.no_grad()
    def target(self, next_target: Tensor, next_online: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """(..., batch, atoms) probabilities."""
        probabilities = _taken(next_target, self.values(next_online).argmax(-1)).float().softmax(-1)
        moved = reward.unsqueeze(-1) + discount.unsqueeze(-1) * self.support(reward.device)
        position = (moved.clamp_(self.v_min, self.v_max) - self.v_min) / ((self.v_max - self.v_min) / (self.atoms - 1))
        # Never the last atom, so that there always is one above. A position that is a whole number gives all its
        # probability to one atom; algorithm 1 as printed gives none to any.
        below = position.floor().clamp_(max=self.atoms - 2)
        to_above = probabilities * (position - below)
        index = below.long()
        projected = torch.zeros_like(probabilities).scatter_add_(-1, index, probabilities - to_above)
        return projected.scatter_add_(-1, index + 1, to_above)

    def loss(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        return F.kl_div(_taken(output, action).float().log_softmax(-1), target, reduction="none").sum(-1)

    def td_error(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        predicted = _taken(output, action).float().softmax(-1)
        return ((target - predicted) * self.support(output.device)).sum(-1)

    def priority(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """The loss, as in Rainbow: what the learning brings down. Rounding may put it a little below 0."""
        return self.loss(output, action, target).clamp(min=0.0).detach()


class QR(Returns):
    """The output is the return's quantiles at tau_i = (2i - 1) / 2N.

    Dabney et al. 2018, Distributional Reinforcement Learning with Quantile Regression, equations 9 and 10
    (https://arxiv.org/abs/1710.10044), with theta the quantiles and y_j = r + gamma theta_j(s', a'):

        sum_i mean_j |tau_i - 1[u < 0]| L_kappa(u),    u = y_j - theta_i
        L_kappa(u) = u^2 / 2 where |u| <= kappa, else kappa (|u| - kappa / 2);    L_0(u) = |u|

    Prioritised replay gets |y - Q(s, a)| of the means, for this loss is not 0 where prediction and target agree: it
    would draw transitions for the spread of their returns rather than for what is to be learned from them.

    Args:
        atoms: N.
        kappa: where the loss turns from a square into a line; 0 is plain quantile regression.
    """

    def __init__(self, atoms: PositiveInt, kappa: NonNegativeFloat) -> None:
        if atoms < 2:
            raise ConfigError(f"model.atoms={atoms}: qr needs two quantiles at least.")
        self.atoms = atoms
        self.kappa = kappa

    def values(self, output: Tensor) -> Tensor:
        return output.float().mean(-1)

    def values_numpy(self, output: np.ndarray) -> np.ndarray:
        return output.mean(-1)

    @torch.no_grad()
    def target(self, next_target: Tensor, next_online: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """(..., batch, atoms) returns."""
        quantiles = _taken(next_target, self.values(next_online).argmax(-1)).float()
        return reward.unsqueeze(-1) + discount.unsqueeze(-1) * quantiles

    def loss(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        quantiles = _taken(output, action).float()  # (..., batch, atoms)
        theta, y = torch.broadcast_tensors(quantiles.unsqueeze(-1), target.unsqueeze(-2))  # (..., batch, i, j)
        if self.kappa:
            errors = F.huber_loss(theta, y, reduction="none", delta=self.kappa)
        else:
            errors = F.l1_loss(theta, y, reduction="none")
        middle = (2 * torch.arange(self.atoms, device=output.device).unsqueeze(-1) + 1) / (2 * self.atoms)  # (i, 1)
        return (torch.where(y < theta, 1.0 - middle, middle) * errors).mean(-1).sum(-1)

    def td_error(self, output: Tensor, action: Tensor, target: Tensor) -> Tensor:
        return target.mean(-1) - taken(self.values(output), action)


def _taken(output: Tensor, action: Tensor) -> Tensor:
    """The actions' own of (..., batch, actions, atoms): (..., batch, atoms)."""
    index = action[..., None, None].expand(*action.shape, 1, output.shape[-1])
    return output.gather(-2, index).squeeze(-2)
