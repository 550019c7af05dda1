from functools import partial
from itertools import combinations

import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from trilab.data.batches import TensorBatches
from trilab.data.recsys.spec import TableSpec
from trilab.data.recsys.synthetic import SyntheticClicks
from trilab.models.recsys.deepfm import DeepFM
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.layers import mlp
from trilab.models.recsys.recommender import Recommender
from trilab.models.schedules import Constant, Linear

SPEC = TableSpec(cardinalities=(3, 4, 2), dense=2)
NETWORK = partial(DeepFM, dim=4, hidden=(8,), embedding_std=0.1)


def recommender(spec=SPEC, network=NETWORK, lr=1e-2, schedule=None) -> Recommender:
    torch.manual_seed(0)
    return Recommender(spec, partial(torch.optim.Adam, lr=lr), schedule or Constant(), network)


def trainer(**options) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0}  # fmt: skip
    return pl.Trainer(**{**quiet, **options})


def rows(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(0, size, (n,), generator=generator) for size in SPEC.cardinalities], 1)
    return ids, torch.randn(n, 2, generator=generator), (torch.rand(n, generator=generator) < 0.4).float()


def test_the_fused_table_is_one_table_a_field():
    table = FusedEmbedding(SPEC.cardinalities, (5,), std=0.1)
    apart = torch.split(table.weight, list(SPEC.cardinalities))
    ids = rows(20)[0]
    expected = torch.stack([weights[column] for weights, column in zip(apart, ids.T, strict=True)], 1)
    assert torch.equal(table(ids), expected)
    assert "offsets" not in table.state_dict()


def test_mlp_has_dropout_only_where_asked():
    assert [type(layer) for layer in mlp(3, [4, 5], 0.0)] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert sum(isinstance(layer, nn.Dropout) for layer in mlp(3, [4, 5], 0.5)) == 2


def test_forward_of_hand_made_numbers():
    """One field of two ids and one dense feature, dimension 1: everything fits on a line."""
    network = DeepFM(TableSpec(cardinalities=(2,), dense=1), dim=1, hidden=(1,))
    with torch.no_grad():
        network.bias.fill_(0.5)
        network.table.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # w, V of the ids
        network.dense_table.copy_(torch.tensor([[5.0, 6.0]]))  # w, V of the dense feature
        first, last = network.deep[0], network.deep[2]
        first.weight.copy_(torch.tensor([[1.0, -1.0]]))
        first.bias.fill_(0.25)
        last.weight.fill_(2.0)
        last.bias.fill_(0.125)
    # id 1, x = 0.5: first order 3 + 5 * 0.5; pair 4 * (6 * 0.5); deep 2 relu(4 - 3 + 0.25) + 0.125
    expected = 0.5 + (3 + 2.5) + 4 * 3 + (2 * 1.25 + 0.125)
    assert network(torch.tensor([[1]]), torch.tensor([[0.5]])).tolist() == [expected]


def test_forward_is_the_papers_equations_row_by_row():
    torch.manual_seed(1)
    network = DeepFM(SPEC, dim=4, hidden=(6, 5), embedding_std=0.5).double()
    ids, dense, _ = rows(9)
    dense = dense.double()
    tables = torch.split(network.table.weight, list(SPEC.cardinalities))
    layers = [layer for layer in network.deep if isinstance(layer, nn.Linear)]
    for row in range(9):
        features = [tables[field][ids[row, field]] for field in range(3)]
        features += [network.dense_table[field] * dense[row, field] for field in range(2)]
        w, e = [f[0] for f in features], [f[1:] for f in features]
        y_fm = sum(w) + sum(e[i] @ e[j] for i, j in combinations(range(5), 2))
        a = torch.cat(e)
        for layer in layers[:-1]:
            a = torch.clamp(layer.weight @ a + layer.bias, min=0)
        y_dnn = layers[-1].weight[0] @ a + layers[-1].bias[0]
        expected = network.bias + y_fm + y_dnn
        assert network(ids[row : row + 1], dense[row : row + 1]).item() == pytest.approx(expected.item(), abs=1e-12)


def test_embeddings_stay_in_fp32_under_autocast():
    network = DeepFM(SPEC, dim=4, hidden=(8,))
    ids, dense, _ = rows(5)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(ids, dense)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert {parameter.grad.dtype for parameter in network.parameters()} == {torch.float32}


def test_reported_auc_and_logloss_are_over_the_whole_set():
    model, (ids, dense, labels) = recommender(), rows(500)
    loop = trainer()
    with torch.no_grad():
        logits = model(ids, dense)
    auc = roc_auc_score(labels, logits)
    loop.validate(model, TensorBatches((ids, dense, labels), 64), verbose=False)
    assert loop.callback_metrics["val/auc"].item() == pytest.approx(auc, abs=1e-6)
    loop.test(model, TensorBatches((ids, dense, labels), 77), verbose=False)
    assert loop.callback_metrics["test/auc"].item() == pytest.approx(auc, abs=1e-6)
    assert loop.callback_metrics["test/logloss"].item() == pytest.approx(
        log_loss(labels, logits.double().sigmoid()), abs=1e-6
    )


def test_overfits_one_batch():
    ids, dense, labels = rows(24)
    model = recommender(network=partial(DeepFM, dim=8, hidden=(32,)))
    trainer(max_epochs=150).fit(model, TensorBatches((ids, dense, labels), 24))
    with torch.no_grad():
        logits = model(ids, dense)
    assert nn.functional.binary_cross_entropy_with_logits(logits, labels) < 0.05


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_one_seed_one_result():
    def run(seed: int) -> torch.Tensor:
        model = recommender()
        trainer(max_epochs=2).fit(model, TensorBatches(rows(300), 50, shuffle=True, seed=seed))
        return weights(model)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_learns_the_planted_clicks_nearly_as_well_as_can_be():
    data = SyntheticClicks(
        train_rows=100_000, val_rows=1000, test_rows=20_000, fields=4, cardinality=20, exponent=1.1, dense=2, factors=2,
        signal=2.0, interaction=0.5, bias=-1.0, planted_seed=1, batch_size=256, eval_batch_size=10_000, seed=1,
    )  # fmt: skip
    data.setup("fit")
    model = recommender(data.spec, partial(DeepFM, dim=4, hidden=(16,), embedding_std=0.01), schedule=Linear())
    loop = trainer(max_epochs=3)
    loop.test(model, datamodule=data, verbose=False)
    untrained = loop.callback_metrics["test/auc"].item()
    loop.fit(model, datamodule=data)
    loop.test(model, datamodule=data, verbose=False)
    best, trained = data.reference["test/bayes_auc"], loop.callback_metrics["test/auc"].item()
    assert abs(untrained - 0.5) < 0.15
    assert trained > 0.5 + 0.9 * (best - 0.5)
    assert best - trained < 0.01
