"""Patch whitening: a convolution whose outputs on image patches are uncorrelated and of variance 1.

With S = E[x x'] the second moments of the images' patches x, and its eigenvectors e_i with eigenvalues l_i, the filters

    w_i = e_i / sqrt(l_i + eps)    give    E[(w_i' x) (w_j' x)] = l_i / (l_i + eps) where i = j, else 0

Used as a frozen first layer with every filter in both signs, for the activation that follows passes one sign alone:
Page 2018 (https://myrtle.ai/learn/how-to-train-your-resnet-8-bag-of-tricks/) and Jordan 2024, section 3.2
(https://arxiv.org/abs/2404.00498). The moments are about zero, not about the patches' mean; images are normalised.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 500  # images whose patches are spread out at once: 2x2 patches of 32x32 colour images take 23 MB


def patch_moments(images: Tensor, size: int) -> Tensor:
    """E[x x'] of all size x size patches: (n, channels, height, width) to float64 (d, d) on the CPU.

    d = channels * size * size, in the order of a convolution's flattened filter.
    """
    width = images.shape[1] * size * size
    total, count = torch.zeros(width, width, dtype=torch.float64), 0
    for chunk in images.float().split(_CHUNK):
        patches = F.unfold(chunk, size).transpose(0, 1).flatten(1)  # (d, patches)
        total += (patches @ patches.T).cpu().double()
        count += patches.shape[1]
    return total / count


def whitening_filters(moments: Tensor, eps: float) -> Tensor:
    """Filters w_i as rows, of the largest eigenvalue first: (d, d) to (d, d)."""
    values, vectors = torch.linalg.eigh(moments)  # ascending; eigenvectors are columns
    return (vectors / (values + eps).sqrt()).T.flip(0)
