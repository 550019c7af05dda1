"""Parts that click models share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.errors import UserError
from trilab.models.recsys.fields import fp32


def outside_autocast(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Applies a layer in its parameters' own precision, whatever autocast would make of it.

    For layers that give logits. In bf16 a logit between 1 and 2 is a multiple of 1/128, so that candidates of a ranking
    would tie; and products with so few columns gain nothing from it.
    """
    with fp32(inputs):
        return layer(inputs.to(next(layer.parameters()).dtype))


def relu_layers(inputs: int, hidden: Sequence[int], dropout: float = 0.0) -> list[nn.Module]:
    """Linear layers, each with ReLU and, where it is not 0, dropout behind it."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return layers


class MLP(nn.Sequential):
    """Layers, the last of which gives logits: see `outside_autocast`."""

    def forward(self, inputs: Tensor, start: int = 0) -> Tensor:
        """The layers from number `start` on, for whoever has applied those before it."""
        *hidden, last = list(self)
        for layer in hidden[start:]:
            inputs = layer(inputs)
        return outside_autocast(last, inputs) if start < len(self) else inputs


def mlp(inputs: int, hidden: Sequence[int], dropout: float, outputs: int = 1) -> MLP:
    """Hidden layers with ReLU and dropout, then a linear layer: (batch, inputs) to (batch, outputs)."""
    return MLP(*relu_layers(inputs, hidden, dropout), nn.Linear([inputs, *hidden][-1], outputs))


def user_and_item_fields(spec: TableSpec) -> tuple[int, int]:
    """Which fields are the user and the item.

    Raises:
        UserError: the data do not say so.
    """
    if spec.user is None or spec.item is None:
        missing = " and no ".join(name for name in ("user", "item") if getattr(spec, name) is None)
        raise UserError(
            f"this model scores a user and an item, and the data name no {missing}. "
            "Choose data with both, such as data=recsys/movielens_100k, or a model of any fields, such as "
            "model=recsys/fm."
        )
    return spec.user, spec.item


def take_fields(ids: Tensor, fields: Sequence[int]) -> Tensor:
    """Some of the fields' ids: (batch, all fields) to (batch, fields).

    One column after the other, since a list as an index would be copied to the device at every call.
    """
    return torch.stack([ids[:, field] for field in fields], 1)
