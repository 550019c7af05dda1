"""SGD with momentum whose settings do not depend on each other, and with a rate of its own for BatchNorm's biases.

Jordan 2024, section 3.4 (https://arxiv.org/abs/2404.00498) and its code airbench94.py, after Page 2018
(https://myrtle.ai/learn/how-to-train-your-resnet-5-hyperparameters/). With momentum m and batches of B examples, the
rate h and the weight decay d of 1,024 examples become those of torch's SGD on a batch's mean loss:

    lr = h (B / 1024) / (1 + 1 / (1 - m)),    weight_decay = d / h

so that a change of the batch size or the momentum changes neither the step by example nor the decay by example.
BatchNorm's biases move `bias_scale` times as fast and decay as all else does: lr_b = bias_scale lr, weight_decay_b =
d / (bias_scale h). (A constant gradient moves weights by 1 / (1 - m) times the rate under torch's Nesterov momentum as
under the plain one; the recipe's divisor has 1 more, and its rate is stated for that.)
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trilab.ranges import FractionBelowOne, NonNegativeFloat, PositiveFloat, PositiveInt

_UNIT = 1024  # examples that the rate and the decay are stated for


class DecoupledSGD(torch.optim.SGD):
    """SGD by rates of 1,024 examples.

    Args:
        lr: peak learning rate of 1,024 examples.
        momentum: decay of the velocity, in [0, 1).
        weight_decay: share of each weight taken off by 1,024 examples, times the divisor above, at the peak rate.
        bias_scale: factor of the learning rate of BatchNorm's biases.
        batch_size: examples of an optimiser step.
        nesterov: look ahead along the velocity; needs momentum > 0.
        fused: one kernel for all parameters.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: PositiveFloat = 11.5,
        momentum: FractionBelowOne = 0.85,
        weight_decay: NonNegativeFloat = 0.0153,
        bias_scale: PositiveFloat = 64.0,
        batch_size: PositiveInt = 1024,
        nesterov: bool = True,
        fused: bool = True,
    ) -> None:
        super().__init__(
            params,
            lr=lr * (batch_size / _UNIT) / (1 + 1 / (1 - momentum)),
            momentum=momentum,
            weight_decay=weight_decay / lr,
            nesterov=nesterov,
            fused=fused,
        )
        self._bias_scale = bias_scale

    def bind(self, network: nn.Module) -> None:
        """Puts the BatchNorm biases of the network into a group of their own, and leaves frozen weights out."""
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        biases = [norm.bias for norm in norms if norm.bias is not None and norm.bias.requires_grad]
        apart = {id(bias) for bias in biases}
        for group in self.param_groups:
            group["params"] = [p for p in group["params"] if p.requires_grad and id(p) not in apart]
        if biases:
            lr, decay = self.defaults["lr"], self.defaults["weight_decay"]
            scale = self._bias_scale
            self.add_param_group({"params": biases, "lr": lr * scale, "weight_decay": decay / scale})
