"""Optimisers that update those rows of embedding tables that a batch has looked up, and no others.

A dense optimiser goes through the whole table in every step, however few rows have a gradient. Here a step costs the
same whatever the table's size. Updates are exact: duplicates within a batch are summed before a row is updated, once.
All other parameters are trained by Adam.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from trilab.collectives import all_rows, ranks
from trilab.models.recsys.embedding import FusedEmbedding, Lookup, Runs
from trilab.ranges import FractionBelowOne, NonNegativeFloat, PositiveFloat


class RowOptimizer(torch.optim.Adam):
    """Adam for dense parameters, and a rule of a subclass for the rows of tables (`update`).

    The parameter groups are: dense parameters; the tables' weights, whose `grad` is never set; and the rows that were
    looked up since the last step, as long as there are any. Those have ordinary gradients, so a GradScaler unscales
    and checks them, and clipping counts them, as any other parameter's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        fused: bool,
    ) -> None:
        super().__init__(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused)
        # A scaler would leave unscaling to a fused kernel, which sees no rows, and Lightning would refuse to clip.
        self._step_supports_amp_scaling = False
        self._tables: list[FusedEmbedding] = []
        self._rows: list[Tensor] = []

    def bind(self, tables: Sequence[FusedEmbedding]) -> None:
        """Trains the tables row by row from now on. Their weights are among the parameters that were given."""
        weights = [table.weight for table in tables]
        known = {id(weight) for weight in weights}
        for group in self.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in known]
        self._tables = list(tables)
        self.add_param_group({"params": weights})
        self.add_param_group({"params": []})
        self.param_groups[-1]["params"] = self._rows
        for table in tables:
            table.by_row = True
            table.lookups = _Noted(self._rows)

    @torch.no_grad()
    def gather_rows(self) -> None:
        """Makes of what this rank has looked up what all ranks have, each row with the mean of the ranks' gradients.

        To be called on every rank after its backward pass, and before anything uses the gradients.
        """
        for table in self._tables:
            table.lookups[:] = [
                lookup if lookup.of_all or lookup.rows.grad is None else _of_all(table, lookup)
                for lookup in table.lookups
            ]
        self._forget(lambda lookup: False)

    def update(self, table: FusedEmbedding, lookup: Lookup, grad: Tensor, group: dict[str, Any]) -> None:
        """Updates a table's rows.

        Args:
            table: whose `weight` is changed in place.
            lookup: the rows' numbers, and their values, which may be overwritten.
            grad: (unique, columns), of those rows.
            group: the options of the tables' parameter group.
        """
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._tables:
            super().step()
            return loss
        rows = self.param_groups.pop()  # they are no parameters to keep moments for
        try:
            super().step()
        finally:
            self.param_groups.append(rows)
        for table in self._tables:
            used = [lookup for lookup in table.lookups if lookup.rows.grad is not None]
            if used:
                lookup, grad = _joined(table, used)
                self.update(table, lookup, grad, self.param_groups[-2])
        self._forget(lambda lookup: True)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Also forgets rows that have a gradient: of a step that a GradScaler left out."""
        self._forget(lambda lookup: lookup.rows.grad is not None)
        super().zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        rows, self._rows[:] = list(self._rows), []  # they are of a step that is not finished
        try:
            return super().state_dict()
        finally:
            self._rows[:] = rows

    def _forget(self, which: Callable[[Lookup], bool]) -> None:
        for table in self._tables:
            kept = [lookup for lookup in table.lookups if not which(lookup)]
            table.lookups[:] = kept
        self._rows[:] = [lookup.rows for table in self._tables for lookup in table.lookups]


class _Noted(list[Lookup]):
    """A table's lookups, whose rows are also noted in the optimiser's last parameter group."""

    def __init__(self, rows: list[Tensor]) -> None:
        super().__init__()
        self._rows = rows

    def append(self, lookup: Lookup) -> None:
        super().append(lookup)
        self._rows.append(lookup.rows)


def _of_all(table: FusedEmbedding, lookup: Lookup) -> Lookup:
    """What all ranks have looked up where this one has made a lookup; the same on each of them, to the bit."""
    grad = lookup.rows.grad
    assert grad is not None
    runs = Runs.of(all_rows(lookup.index))
    rows = table.weight.detach().index_select(0, runs.index).requires_grad_()
    rows.grad = runs.sums(all_rows(grad)).div_(ranks())
    return Lookup(runs.index, rows, of_all=True)


def _joined(table: FusedEmbedding, lookups: Sequence[Lookup]) -> tuple[Lookup, Tensor]:
    """Several lookups as one: of a network that reads a table twice, or of accumulated batches."""
    if len(lookups) == 1:
        grad = lookups[0].rows.grad
        assert grad is not None
        return lookups[0], grad
    runs = Runs.of(torch.cat([lookup.index for lookup in lookups]))
    grads = torch.cat([lookup.rows.grad for lookup in lookups])  # type: ignore[misc]
    return Lookup(runs.index, table.weight.index_select(0, runs.index)), runs.sums(grads)


class LazyAdam(RowOptimizer):
    """Adam whose moments of a table's row change only in steps that look the row up.

    Kingma & Ba 2015, algorithm 1 (https://arxiv.org/abs/1412.6980), on rows; the bias correction counts all steps. The
    same rule as torch.optim.SparseAdam's. It differs from Adam on the whole table in that a row that was not looked up
    does not move on by its momentum.

    Args:
        lr: peak learning rate, of tables and all other parameters.
        betas: decay of the first and the second moment, each in [0, 1).
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient; of a table's row in steps that look it up.
        fused: one kernel for all parameters.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: PositiveFloat = 1e-3,
        betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused)

    def update(self, table: FusedEmbedding, lookup: Lookup, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table.weight]
        if not state:
            state["step"] = torch.zeros((), device=table.weight.device if group["fused"] else "cpu")
            state["exp_avg"] = torch.zeros_like(table.weight)
            state["exp_avg_sq"] = torch.zeros_like(table.weight)
        index, rows = lookup.index, lookup.rows.detach()
        first, second = state["exp_avg"].index_select(0, index), state["exp_avg_sq"].index_select(0, index)
        beta1, beta2 = group["betas"]
        adam(
            [rows], [grad], [first], [second], [], [state["step"]],
            foreach=False, capturable=False, differentiable=False, fused=group["fused"], grad_scale=None,
            found_inf=None, has_complex=False, amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip
        for whole, part in ((table.weight, rows), (state["exp_avg"], first), (state["exp_avg_sq"], second)):
            whole.index_copy_(0, index, part)


class RowwiseAdagrad(RowOptimizer):
    """Adagrad with one accumulator for each vector of a table's row; Adam for all other parameters.

    With g the gradient of a vector of d numbers (Duchi, Hazan & Singer 2011, with their diagonal shrunk to one number;
    Naumov et al. 2019, https://arxiv.org/abs/1906.00091, train DLRM so):

        s <- s + |g|^2 / d,    w <- w - lr g / (sqrt(s) + eps)

    A table of n rows of d columns takes n numbers of state, where Adam takes 2 n d.

    Args:
        lr: peak learning rate of Adam.
        betas: decay of Adam's first and second moment, each in [0, 1).
        eps: added to Adam's denominator.
        weight_decay: L2 penalty, added to the gradient; of a table's row in steps that look it up.
        fused: one kernel for all of Adam's parameters.
        table_lr: peak learning rate of the tables.
        table_eps: added to the tables' denominator.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: PositiveFloat = 1e-3,
        betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        fused: bool = True,
        table_lr: PositiveFloat = 0.02,
        table_eps: PositiveFloat = 1e-8,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused)
        self._table_lr, self._table_eps = table_lr, table_eps

    def bind(self, tables: Sequence[FusedEmbedding]) -> None:
        super().bind(tables)
        self.param_groups[-2]["lr"] = self._table_lr

    def update(self, table: FusedEmbedding, lookup: Lookup, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table.weight]
        if not state:
            state["step"] = torch.zeros(())  # Adam's loading of a state asks every parameter's for it
            state["sum"] = table.weight.new_zeros(len(table.weight), len(table.columns))
        state["step"] += 1
        index, rows = lookup.index, lookup.rows.detach()
        if group["weight_decay"]:
            grad = grad.add(rows, alpha=group["weight_decay"])
        vectors = grad.split(table.columns, 1)
        squares = torch.stack(
            [torch.linalg.vector_norm(vector, dim=1).square() / vector.shape[1] for vector in vectors], 1
        )  # (unique, vectors)
        total = state["sum"].index_select(0, index).add_(squares)
        rates = total.sqrt().add_(self._table_eps).reciprocal_().mul_(-group["lr"])
        for row, vector, rate in zip(rows.split(table.columns, 1), vectors, rates.split(1, 1), strict=True):
            row.addcmul_(vector, rate)
        state["sum"].index_copy_(0, index, total)
        table.weight.index_copy_(0, index, rows)
