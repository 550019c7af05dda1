import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel

from trilab.data.batches import TensorBatches, TensorData
from trilab.errors import UserError


def rows(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(n), torch.arange(n).float() * 10


def order(batches: TensorBatches) -> list[int]:
    return torch.cat([batch[0] for batch in batches]).tolist()


def test_each_row_once_an_epoch_and_rows_stay_together():
    batches = TensorBatches(rows(10), 4, shuffle=True, seed=3)
    for _ in range(3):
        seen = list(batches)
        assert [len(ids) for ids, _ in seen] == [4, 4, 2]
        assert len(batches) == 3
        assert sorted(torch.cat([ids for ids, _ in seen]).tolist()) == list(range(10))
        assert all(torch.equal(values, ids.float() * 10) for ids, values in seen)


def test_without_shuffling_batches_are_views_in_order():
    tensors = rows(10)
    batches = TensorBatches(tensors, 4)
    first = next(iter(batches))
    assert first[0].data_ptr() == tensors[0].data_ptr()
    assert order(batches) == order(batches) == list(range(10))


def test_drop_last_leaves_out_the_rest_and_refuses_to_leave_out_everything():
    batches = TensorBatches(rows(10), 4, shuffle=True, drop_last=True)
    assert [len(ids) for ids, _ in batches] == [4, 4]
    assert len(batches) == 2
    with pytest.raises(UserError, match=r"data.batch_size=11: more than the 10 rows"):
        TensorBatches(rows(10), 11, drop_last=True)


def test_every_epoch_has_an_order_of_its_own_and_a_seed_always_the_same_ones():
    first, second, other = (TensorBatches(rows(50), 7, shuffle=True, seed=seed) for seed in (1, 1, 2))
    epochs = [order(first) for _ in range(3)]
    assert epochs == [order(second) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert order(other) not in epochs
    first.set_epoch(1)
    assert order(first) == epochs[1]


def test_permutations_are_uniform():
    batches = TensorBatches((torch.arange(4),), 4, shuffle=True, seed=0)
    firsts = torch.tensor([order(batches)[0] for _ in range(2000)])
    counts = torch.bincount(firsts, minlength=4).float()
    assert ((counts - 500) ** 2 / 500).sum() < 16.3  # chi-square with 3 degrees of freedom, p = 0.001


def test_an_interrupted_epoch_goes_on_where_it_stopped():
    whole = TensorBatches(rows(10), 3, shuffle=True, seed=5)
    expected = [[ids.tolist() for ids, _ in whole] for _ in range(3)]

    interrupted = TensorBatches(rows(10), 3, shuffle=True, seed=5)
    list(interrupted)
    iterator = iter(interrupted)
    next(iterator), next(iterator)
    resumed = TensorBatches(rows(10), 3, shuffle=True, seed=5)
    resumed.load_state_dict(interrupted.state_dict())
    resumed.set_epoch(1)  # as Lightning does
    assert [ids.tolist() for ids, _ in resumed] == expected[1][2:]
    assert [ids.tolist() for ids, _ in resumed] == expected[2]


def test_a_finished_epoch_is_not_repeated_after_loading():
    finished = TensorBatches(rows(10), 3, shuffle=True, seed=5)
    epochs = [order(finished) for _ in range(2)]
    resumed = TensorBatches(rows(10), 3, shuffle=True, seed=5)
    list(resumed)
    state = resumed.state_dict()
    fresh = TensorBatches(rows(10), 3, shuffle=True, seed=5)
    fresh.load_state_dict(state)
    assert order(fresh) == epochs[1]
    limited = TensorBatches(rows(10), 3, shuffle=True, seed=5)
    limited.load_state_dict({"epoch": 0, "given": 2})  # an epoch that trainer.limit_train_batches ended
    limited.set_epoch(1)
    assert order(limited) == epochs[1]


def test_transform_gets_whole_batches():
    batches = TensorBatches(rows(5), 2, transform=lambda batch: (batch[0] + 100, batch[1]))
    assert order(batches) == [100, 101, 102, 103, 104]


def test_tensors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="different lengths"):
        TensorBatches((torch.zeros(3), torch.zeros(4)), 2)


class Rows(TensorData):
    def setup(self, stage: str) -> None:
        self.parts = {part: (torch.randn(40, 32),) for part in ("train", "val", "test")}


class Seen(BoringModel):
    """Notes what it was trained on, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: dict[int, list[float]] = {}

    def training_step(self, batch, batch_idx):
        self.epochs.setdefault(self.current_epoch, []).append(batch[0].sum().item())
        return self.step(batch[0])

    def validation_step(self, batch, batch_idx):
        return self.step(batch[0])


@pytest.mark.parametrize(
    ("options", "batches", "same"),
    [({}, 4, False), ({"limit_train_batches": 2}, 2, False), ({"overfit_batches": 2}, 2, True)],
)
def test_lightning_numbers_the_epochs_and_overfit_batches_repeats_them(options, batches, same):
    model = Seen()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    pl.Trainer(max_epochs=2, enable_model_summary=False, **quiet, **options).fit(model, datamodule=Rows(10, 20, seed=1))
    assert [len(sums) for sums in model.epochs.values()] == [batches] * 2
    assert (model.epochs[0] == model.epochs[1]) is same
