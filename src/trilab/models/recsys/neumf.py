"""NeuMF, neural matrix factorization: GMF and the MLP side by side, each with embeddings of its own, under one head.

He, Liao, Zhang, Nie, Hu & Chua 2017, Neural Collaborative Filtering (https://arxiv.org/abs/1708.05031), equation 12:

    phi_GMF = p_u^G * q_i^G,    phi_MLP = the tower of [p_u^M; q_i^M],    y = sigmoid(h^T [phi_GMF; phi_MLP])

Here y is the logit before the sigmoid, with a bias as in the authors' code. Both parts give `factors` numbers, the
tower has the sizes and everything the initial values of `trilab.models.recsys.ncf_mlp` and `gmf`. A row of the table
holds both parts' embeddings, side by side: one lookup serves both.

Expected, the paper's on MovieLens 1M with 32 factors: HR@10 0.701, NDCG@10 0.425; pretrained (`fuse`) 0.726, 0.445.
After pretraining the paper goes on by vanilla SGD: a few epochs of Adam take from the parts what they knew.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.errors import UserError
from trilab.models.module import OptimizerFactory
from trilab.models.recsys.checks import tower_sizes
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.gmf import ncf_head
from trilab.models.recsys.layers import outside_autocast, take_fields, user_and_item_fields
from trilab.models.recsys.ncf_mlp import ncf_tower
from trilab.models.recsys.recommender import Recommender
from trilab.models.schedules import Schedule
from trilab.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class NeuMF(nn.Module):
    """From the ids of a user and an item to the logit of a click; other fields and dense features are not looked at.

    Args:
        factors: numbers that each part gives to the head: the paper's predictive factors.
        layers: hidden layers of the tower, each with half the units of the one before.
        embedding_std: standard deviation of the initial embeddings.
    """

    def __init__(
        self,
        spec: TableSpec,
        factors: PositiveInt = 32,
        layers: NonNegativeInt = 3,
        embedding_std: PositiveFloat = 0.01,
    ) -> None:
        super().__init__()
        self.fields = user_and_item_fields(spec)
        sizes = tower_sizes(factors, layers)
        columns = (factors, sizes[0] // 2)
        self.table = FusedEmbedding([spec.cardinalities[field] for field in self.fields], columns, embedding_std)
        self.tower = ncf_tower(sizes)
        self.head = ncf_head(2 * factors)

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        gmf, mlp = self.table.vectors(take_fields(ids, self.fields))  # (batch, 2, columns) each
        users, items = gmf.unbind(1)  # (batch, factors) each
        phi = torch.cat([users * items, self.tower(mlp.flatten(1))], 1)  # (batch, 2 factors)
        return outside_autocast(self.head, phi).squeeze(1)


def fuse(gmf: Mapping[str, Tensor], mlp: Mapping[str, Tensor], neumf: NeuMF, alpha: Fraction = 0.5) -> None:
    """Loads a trained GMF and a trained MLP into a NeuMF (section 3.4.1, equation 13):

        h <- [alpha h_GMF; (1 - alpha) h_MLP],    b <- alpha b_GMF + (1 - alpha) b_MLP

    so that its logits are alpha times the one's plus 1 - alpha times the other's. The paper has alpha = 0.5.

    Args:
        gmf: state_dict of a `GMF`.
        mlp: state_dict of an `NCFMLP`.
        neumf: whose parameters are overwritten.
        alpha: the weight of GMF.

    Raises:
        UserError: a state is not of such a network, or of other sizes. `neumf` is then as it was.
    """
    factors = neumf.table.columns[0]
    own = neumf.state_dict()  # shares the parameters' memory
    heads = own["head.weight"].split(factors, 1)
    tables = own["table.weight"].split(neumf.table.columns, 1)
    tower = {name: value for name, value in own.items() if name.startswith("tower.")}
    for kind, state, table, rest in (("GMF", gmf, tables[0], {}), ("MLP", mlp, tables[1], tower)):
        _check(kind, state, {"table.weight": table, "head.weight": heads[0], "head.bias": own["head.bias"], **rest})
    with torch.no_grad():
        tables[0].copy_(gmf["table.weight"])
        tables[1].copy_(mlp["table.weight"])
        for name, value in tower.items():
            value.copy_(mlp[name])
        heads[0].copy_(alpha * gmf["head.weight"])
        heads[1].copy_((1 - alpha) * mlp["head.weight"])
        own["head.bias"].copy_(alpha * gmf["head.bias"] + (1 - alpha) * mlp["head.bias"])


def _check(kind: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises UserError where the state of a pretrained network does not fit its part of a NeuMF."""
    if set(state) != set(expected):
        missing = sorted(set(expected) - set(state))
        difference = f"no {missing[0]}" if missing else f"a {min(set(state) - set(expected))}"
        raise UserError(f"pretrained {kind}: has {difference}, so it is no {kind} with this NeuMF's layers.")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            theirs, ours = ("x".join(map(str, value.shape)) for value in (state[name], tensor))
            raise UserError(
                f"pretrained {kind}: {name} is {theirs}, where this NeuMF needs {ours}. "
                f"Train the {kind} on the same data and with the same factors{' and layers' * (kind == 'MLP')}."
            )


class NeuMFRecommender(Recommender):
    """A NeuMF that may begin with what a GMF and an MLP have learned (section 3.4.1).

    Args:
        network: makes the NeuMF from the data's spec.
        embedding_l2: as of `Recommender`.
        pretrained_gmf: checkpoint of a run of model=recsys/gmf; a configuration may name the run. None for none.
        pretrained_mlp: the same of model=recsys/ncf_mlp. Both or neither.
        pretrained_alpha: the weight of GMF's head; 1 less it is the MLP's.

    Raises:
        UserError: a checkpoint is of another network, or of other sizes.
    """

    def __init__(
        self,
        spec: TableSpec,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        network: Callable[..., nn.Module],
        embedding_l2: NonNegativeFloat = 0.0,
        pretrained_gmf: str | None = None,
        pretrained_mlp: str | None = None,
        pretrained_alpha: Fraction = 0.5,
    ) -> None:
        super().__init__(spec, optimizer, schedule, network, embedding_l2)
        if pretrained_gmf is not None and pretrained_mlp is not None:
            assert isinstance(self.network, NeuMF)
            fuse(_network_state(pretrained_gmf), _network_state(pretrained_mlp), self.network, pretrained_alpha)


def _network_state(path: str) -> dict[str, Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    return {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
