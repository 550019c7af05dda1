"""Parts that click models share."""

from collections.abc import Sequence

from torch import Tensor, nn


def fm_second_order(vectors: Tensor) -> Tensor:
    """sum_{i<j} <v_i, v_j>: (batch, fields, dim) to (batch,).

    In time linear in the number of fields: ((sum_i v_i)^2 - sum_i v_i^2) / 2, summed over the dimensions (Rendle 2010,
    lemma 3.1, https://doi.org/10.1109/ICDM.2010.127).
    """
    return 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1)


def mlp(inputs: int, hidden: Sequence[int], dropout: float, outputs: int = 1) -> nn.Sequential:
    """Hidden layers with ReLU and dropout, then a linear layer."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
