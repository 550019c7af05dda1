import copy
import io

import pytest
import torch
from torch import nn

from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.row_optimizers import LazyAdam, RowwiseAdagrad

SIZES, COLUMNS = (5, 40, 7), (1, 4)


class Tower(nn.Module):
    """Reads a table and adds up what a linear layer makes of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = FusedEmbedding(SIZES, COLUMNS, std=0.5)
        self.linear = nn.Linear(sum(COLUMNS) * len(SIZES), 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat(self.table.vectors(ids), 2).flatten(1)).squeeze(1)


def batches(count: int, rows: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.stack([torch.randint(0, size, (rows,), generator=generator) for size in SIZES], 1)
           for _ in range(count)]  # fmt: skip
    return [(each, torch.randn(rows, generator=generator)) for each in ids]


def loss_of(model: Tower, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    ids, target = batch
    return (model(ids) - target).square().mean()


def train(model: Tower, optimizer: torch.optim.Optimizer, data: list) -> None:
    for batch in data:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def bound(model: Tower, kind: type = LazyAdam, **options) -> LazyAdam:
    optimizer = kind(model.parameters(), **{"lr": 0.05, **options})
    optimizer.bind([model.table])
    return optimizer


@pytest.mark.parametrize("fused", [True, False])
def test_lazy_adam_is_torchs_sparse_adam_on_the_table_and_adam_elsewhere(fused):
    ours, theirs = Tower(), Tower()
    weight = theirs.table.weight
    sparse = torch.optim.SparseAdam([weight], lr=0.05)
    dense = torch.optim.Adam(theirs.linear.parameters(), lr=0.05)
    optimizer = bound(ours, fused=fused)
    for batch in batches(20):
        train(ours, optimizer, [batch])
        loss = loss_of(theirs, batch)
        dense.zero_grad()
        weight.grad = None
        loss.backward()
        touched = torch.unique(batch[0] + theirs.table.offsets)
        weight.grad = torch.sparse_coo_tensor(touched[None], weight.grad[touched], weight.shape, check_invariants=True)
        dense.step()
        sparse.step()
    # Rounding aside; torch's adds eps elsewhere in the denominator.
    assert torch.allclose(ours.table.weight, weight, atol=2e-4)
    assert torch.allclose(ours.linear.weight, theirs.linear.weight, atol=2e-4)
    assert not torch.allclose(weight, Tower().table.weight, atol=0.1)


def test_lazy_adam_is_adam_where_every_row_is_looked_up_in_every_step():
    everything = torch.cartesian_prod(*(torch.arange(size) for size in (3, 4, 3)))
    ours, theirs = Tower(), Tower()
    data = [(everything, torch.randn(36, generator=torch.Generator().manual_seed(n))) for n in range(10)]
    train(ours, bound(ours, weight_decay=0.1), data)
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.05, weight_decay=0.1), data)
    looked_up = torch.unique(everything + ours.table.offsets)
    assert torch.allclose(ours.table.weight[looked_up], theirs.table.weight[looked_up], atol=1e-6)


def test_rowwise_adagrad_is_its_equation_row_by_row():
    ours, naive = Tower(), Tower()
    optimizer = bound(ours, RowwiseAdagrad, table_lr=0.3, table_eps=1e-3)
    adam = torch.optim.Adam(naive.linear.parameters(), lr=0.05)
    sums = torch.zeros(sum(SIZES), 2)
    for batch in batches(12):
        train(ours, optimizer, [batch])
        adam.zero_grad()
        naive.table.weight.grad = None
        loss_of(naive, batch).backward()
        adam.step()
        with torch.no_grad():
            for row in set((batch[0] + naive.table.offsets).flatten().tolist()):
                for number, part in enumerate((slice(0, 1), slice(1, 5))):
                    g = naive.table.weight.grad[row, part]
                    sums[row, number] += (g**2).sum() / len(g)
                    naive.table.weight[row, part] -= 0.3 * g / (sums[row, number].sqrt() + 1e-3)
    assert torch.allclose(ours.table.weight, naive.table.weight, atol=1e-5)
    assert torch.allclose(optimizer.state[ours.table.weight]["sum"], sums, atol=1e-6)


@pytest.mark.parametrize("kind", [LazyAdam, RowwiseAdagrad])
def test_rows_that_no_batch_looks_up_stay_as_they_were(kind):
    model = Tower()
    before, data = model.table.weight.detach().clone(), batches(5, rows=4)
    optimizer = bound(model, kind, weight_decay=0.5)
    train(model, optimizer, data)
    touched = torch.zeros(sum(SIZES), dtype=torch.bool)
    touched[torch.cat([(ids + model.table.offsets).flatten() for ids, _ in data])] = True
    moved = (model.table.weight != before).any(1)
    assert torch.equal(moved, touched)
    assert 0 < touched.sum() < len(touched)
    state = optimizer.state[model.table.weight]
    for name in ("exp_avg", "sum"):
        if name in state:
            assert torch.equal((state[name] != 0).any(1), touched)


@pytest.mark.parametrize("kind", [LazyAdam, RowwiseAdagrad])
def test_accumulated_batches_step_as_one_of_all_their_rows(kind):
    ours, whole = Tower(), Tower()
    optimizer, other = bound(ours, kind), bound(whole, kind)
    for first, second in zip(batches(8)[::2], batches(8)[1::2], strict=True):
        optimizer.zero_grad()
        (loss_of(ours, first) / 2).backward()
        (loss_of(ours, second) / 2).backward()
        optimizer.step()
        train(whole, other, [tuple(torch.cat(pair) for pair in zip(first, second, strict=True))])
    assert torch.allclose(ours.table.weight, whole.table.weight, atol=1e-5)


def test_clipping_counts_the_rows_gradients_as_it_counts_a_whole_tables():
    ours, dense = Tower(), Tower()
    optimizer = bound(ours)
    [batch] = batches(1)
    loss_of(ours, batch).backward()
    loss_of(dense, batch).backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, 0.1)
    assert norm.item() == pytest.approx(nn.utils.clip_grad_norm_(dense.parameters(), 0.1).item())
    touched = ours.table.lookups[0].index
    assert torch.allclose(ours.table.lookups[0].rows.grad, dense.table.weight.grad[touched])


@pytest.mark.parametrize("kind", [LazyAdam, RowwiseAdagrad])
def test_a_grad_scaler_unscales_the_rows_and_leaves_out_an_overflow(kind):
    scaled, plain = Tower(), Tower()
    optimizer, other = bound(scaled, kind), bound(plain, kind)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    data = batches(6)
    for number, batch in enumerate(data):
        if number == 3:  # an overflow on the rows alone
            before = scaled.table.weight.detach().clone()
            loss = loss_of(scaled, batch)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaled.table.lookups[0].rows.grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(scaled.table.weight, before)
            assert scaler.get_scale() == 2.0**9
            continue
        loss = loss_of(scaled, batch)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        train(plain, other, [batch])
    assert torch.allclose(scaled.table.weight, plain.table.weight, atol=1e-6)


@pytest.mark.parametrize("kind", [LazyAdam, RowwiseAdagrad])
def test_a_restored_optimizer_goes_on_as_one_that_never_stopped(kind):
    data = batches(10)
    whole = Tower()
    train(whole, bound(whole, kind), data)

    first = Tower()
    optimizer = bound(first, kind)
    train(first, optimizer, data[:5])
    loss_of(first, data[0])  # rows of an unfinished step are nobody's state
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = Tower()
    again = bound(second, kind)
    second.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    train(second, again, data[5:])
    assert torch.equal(second.table.weight, whole.table.weight)
    assert torch.equal(second.linear.weight, whole.linear.weight)


def test_without_tables_it_is_adam():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for model, optimizer in ((ours, LazyAdam(ours.parameters())), (theirs, torch.optim.Adam(theirs.parameters()))):
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_evaluation_leaves_nothing_behind():
    model = Tower()
    bound(model)
    ids, _ = batches(1)[0]
    model.eval()
    model(ids)
    model.train()
    with torch.no_grad():
        model(ids)
    assert not model.table.lookups


def test_the_two_ways_to_read_a_table_agree_with_their_gradients():
    ids, _ = batches(1)[0]
    for by_row in (False, True):
        grads = []
        for read in (lambda table: table(ids), lambda table: torch.cat(table.vectors(ids), 2)):
            model = Tower()
            model.table.by_row = by_row
            values = read(model.table)
            assert values.shape == (16, 3, 5)
            assert torch.equal(values, model.table.weight[ids + model.table.offsets])
            values.mul(torch.arange(5.0)).square().sum().backward()
            grads.append(model.table.lookups[0].rows.grad if by_row else model.table.weight.grad)
        assert torch.allclose(grads[0], grads[1], rtol=1e-5)
