"""A trained model as one module from what a request holds to what is answered from: made to be exported.

observations of an environment        -> action values, float32 (batch, actions)
ids and dense features of rows        -> logits, float32 (batch,)
images as bytes                       -> logits, float32 (batch, classes); normalised as in training
"""

from typing import Any

import torch
from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.data.rl.spec import EnvSpec
from trilab.data.vision.spec import ImageSpec
from trilab.errors import UserError
from trilab.models.rl.dqn import DQN
from trilab.models.rl.q_learning import QLearning
from trilab.models.vision.classifier import Classifier
from trilab.models.vision.tta import mean_logits


class ActionValues(nn.Module):
    """Of an agent of the DQN family."""

    def __init__(self, agent: DQN) -> None:
        super().__init__()
        self.network = agent.network
        self.returns = agent.returns

    def forward(self, observations: Tensor) -> Tensor:
        return self.returns.values(self.network(observations)).float()


class TableOfValues(nn.Module):
    """Of tabular Q-learning; observations are int64 (batch,)."""

    def __init__(self, agent: QLearning) -> None:
        super().__init__()
        self.table = nn.Parameter(agent.table.data.clone(), requires_grad=False)

    def forward(self, observations: Tensor) -> Tensor:
        return self.table[observations]


class Logits(nn.Module):
    """Of a recommender."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        logits: Tensor = self.model(ids, dense)
        return logits.float()


class ImageLogits(nn.Module):
    """Of an image classifier, with the test-time augmentation that it was tested with.

    Args:
        model: of normalised images.
        mean: of each channel on the scale [0, 1].
        std: likewise.
    """

    def __init__(self, model: nn.Module, mean: Any, std: Any) -> None:
        super().__init__()
        self.network = model.network if isinstance(model, Classifier) else model
        self.tta = model.tta if isinstance(model, Classifier) else 0
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", 255 * torch.as_tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.as_tensor(std, dtype=torch.float32).view(-1, 1, 1)))

    def forward(self, pixels: Tensor) -> Tensor:
        return mean_logits(self.network, (pixels.to(torch.float32) - self.shift) * self.scale, self.tta)


def program_of(model: Any, data: Any, spec: Any) -> nn.Module:
    """The program of a trained model.

    Raises:
        UserError: it is not of a kind that can be served.
    """
    if isinstance(spec, EnvSpec) and isinstance(model, DQN):
        return ActionValues(model).eval()
    if isinstance(spec, EnvSpec) and isinstance(model, QLearning):
        return TableOfValues(model).eval()
    if isinstance(spec, TableSpec):
        return Logits(model).eval()
    if isinstance(spec, ImageSpec):
        return ImageLogits(model, data.mean, data.std).eval()
    raise UserError(
        f"{type(model).__name__} cannot be served: known are agents of the DQN family and of Q-learning, models of "
        "rows, and image classifiers."
    )
