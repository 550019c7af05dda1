"""What the processes that share one run tell each other. In a run of one process each costs next to nothing."""

import torch
from torch import Tensor
from torch import distributed as dist


def ranks() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(tensor: Tensor) -> Tensor:
    """The sum of every rank's tensor, all of one shape; in place."""
    if ranks() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_rows(tensor: Tensor) -> Tensor:
    """Every rank's rows, those of rank 0 first: (n, ...), with an n of its own on each rank, to (sum of n, ...)."""
    count = ranks()
    if count == 1:
        return tensor
    own = torch.tensor([len(tensor)], device=tensor.device)
    lengths = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(lengths, own)
    rows = [int(length) for length in lengths]
    padded = tensor.new_zeros(max(rows), *tensor.shape[1:])  # a gather wants one shape of all
    padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in range(count)]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:length] for part, length in zip(gathered, rows, strict=True)])
