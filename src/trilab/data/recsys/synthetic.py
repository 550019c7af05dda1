"""A click log drawn from a planted factorization machine, so that the best possible result is known.

A row has `fields` categorical ids and `dense` features. With x the ids' one-hot encoding, its click is drawn from

    logit = w0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j + sum_d u_d z_d,    click ~ Bernoulli(sigmoid(logit))

of which the first three terms are Rendle 2010, Factorization Machines, equation 1
(https://doi.org/10.1109/ICDM.2010.127). Ids follow Zipf's law within each field, P(id) ~ (id + 1)^-exponent, and
z_d ~ N(0, 1). No model can beat the AUC of these logits on the drawn labels, but for chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trilab.data.batches import TensorData
from trilab.data.contents import Contents
from trilab.data.recsys.metrics import auc, logloss
from trilab.data.recsys.spec import TableSpec
from trilab.errors import ConfigError
from trilab.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Array = NDArray[np.float64]
_PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Planted:
    """The model that clicks are drawn from. Weights are random with variances such that the logit's standard deviation
    is `signal` on average, over uniform ids, and `interaction` of its variance is in the pairs."""

    bias: float  # w0
    linear: list[Array]  # (cardinality,) of each field, w
    factors: list[Array]  # (cardinality, k) of each field, v
    dense: Array  # (dense,), u

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        cardinalities: Sequence[int],
        dense: int,
        factors: int,
        signal: float,
        interaction: float,
        bias: float,
    ) -> "Planted":
        fields = len(cardinalities)
        pairs = fields * (fields - 1) / 2
        if not pairs:
            interaction = 0.0
        linear_std = signal * ((1 - interaction) / (fields + dense)) ** 0.5
        # A pair's product <v_i, v_j> has variance k std^4.
        factor_std = (signal**2 * interaction / (pairs * factors)) ** 0.25 if pairs else 0.0
        ids, ends = sum(cardinalities), np.cumsum(cardinalities)[:-1]
        return cls(
            bias=bias,
            linear=np.split(rng.normal(0.0, linear_std, ids), ends),
            factors=np.split(rng.normal(0.0, factor_std, (ids, factors)), ends),
            dense=rng.normal(0.0, linear_std, dense),
        )

    def logits(self, ids: NDArray[np.int64], dense: Array) -> Array:
        """(rows, fields) ids and (rows, dense) features to (rows,) logits, a field at a time to save memory."""
        logits = self.bias + dense @ self.dense
        total, squares = np.zeros((len(ids), self.factors[0].shape[1])), np.zeros(len(ids))
        for column, linear, factors in zip(ids.T, self.linear, self.factors, strict=True):
            logits += linear[column]
            total += factors[column]  # (rows, k)
            squares += (factors**2).sum(1)[column]
        return logits + 0.5 * ((total**2).sum(1) - squares)  # Rendle 2010, lemma 3.1


def zipf(rng: np.random.Generator, cardinalities: Sequence[int], exponent: float, rows: int) -> NDArray[np.int64]:
    """(rows, fields) ids, from 0 to cardinality - 1 within a field, with P(id) ~ (id + 1)^-exponent.

    By inversion of the distribution function, a field at a time to save memory.
    """
    uniform = rng.random((rows, len(cardinalities)))
    ids = np.empty(uniform.shape, np.int64)
    for field, cardinality in enumerate(cardinalities):
        cumulative = np.cumsum(np.arange(1, cardinality + 1, dtype=np.float64) ** -exponent)
        found = np.searchsorted(cumulative, uniform[:, field] * cumulative[-1], side="right")
        ids[:, field] = np.minimum(found, cardinality - 1)  # a draw may round up to the very end
    return ids


class SyntheticClicks(TensorData):
    """Click log of a planted factorization machine.

    The planted model and each part have a random stream of their own: more training rows leave the test as it was.

    Args:
        train_rows: rows to train on.
        val_rows: rows to validate on.
        test_rows: rows to test on.
        fields: categorical fields.
        cardinality: ids of each field, or a list with one number for each.
        exponent: of Zipf's law; 0 makes all ids equally frequent.
        dense: dense features, standard normal, with a linear effect.
        factors: dimension k of the planted factors.
        signal: standard deviation of the logit: the more, the better clicks can be predicted.
        interaction: share of the logit's variance that is in pairs of ids.
        bias: w0; below 0 clicks are rarer than one in two.
        planted_seed: of the planted model, so that runs with several seeds learn the same one.
        batch_size: rows of a training batch.
        eval_batch_size: rows of a batch in validation and test.
        seed: of the rows drawn and of the batches' order.
    """

    def __init__(
        self,
        train_rows: PositiveInt,
        val_rows: PositiveInt,
        test_rows: PositiveInt,
        fields: PositiveInt,
        cardinality: PositiveInt | Sequence[PositiveInt],
        exponent: NonNegativeFloat,
        dense: NonNegativeInt,
        factors: PositiveInt,
        signal: PositiveFloat,
        interaction: Fraction,
        bias: float,
        planted_seed: NonNegativeInt,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        self.rows = dict(zip(_PARTS, (train_rows, val_rows, test_rows), strict=True))
        cardinalities = (cardinality,) * fields if isinstance(cardinality, int) else tuple(cardinality)
        if len(cardinalities) != fields:
            raise ConfigError(
                f"data.cardinality has {len(cardinalities)} numbers for data.fields={fields}. "
                "Give one for each field, or a single number for all."
            )
        self.spec = TableSpec(
            cardinalities=cardinalities,
            dense=dense,
            fields=tuple(f"c{field}" for field in range(fields)),
            dense_names=tuple(f"d{feature}" for feature in range(dense)),
        )
        self.exponent = exponent
        self.factors = factors
        self.signal = signal
        self.interaction = interaction
        self.bias = bias
        self.planted_seed = planted_seed
        self._reference: dict[str, float] = {}

    @property
    def reference(self) -> dict[str, float]:
        """AUC and log loss of the true probabilities on the test's labels: what a perfect model would score."""
        return dict(self._reference)

    def contents(self) -> Contents:
        return Contents(super().contents().parts, self.spec.columns)

    def planted(self) -> Planted:
        """The model that the clicks are drawn from."""
        rng = np.random.default_rng((self.planted_seed, len(_PARTS)))  # a stream that no part of any seed has
        return Planted.draw(
            rng, self.spec.cardinalities, self.spec.dense, self.factors, self.signal, self.interaction, self.bias
        )

    def setup(self, stage: str) -> None:
        if self.parts:
            return
        planted = self.planted()
        for number, part in enumerate(_PARTS):
            rng = np.random.default_rng((self.seed, number))
            ids, dense, labels, logits = self._draw(planted, rng, self.rows[part])
            self.parts[part] = (ids, dense, labels)
        self._reference = {"test/bayes_auc": auc(logits, labels), "test/bayes_logloss": logloss(logits, labels)}

    def _draw(self, planted: Planted, rng: np.random.Generator, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ids = zipf(rng, self.spec.cardinalities, self.exponent, rows)
        dense = rng.normal(size=(rows, self.spec.dense))
        logits = planted.logits(ids, dense)
        clicks = rng.random(rows) < 1 / (1 + np.exp(-logits))
        return (
            torch.from_numpy(ids),
            torch.from_numpy(dense).float(),
            torch.from_numpy(clicks).float(),
            torch.from_numpy(logits),
        )
