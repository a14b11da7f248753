"""The triplet margin loss."""

import torch
from torch import Tensor


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 0.2,
    weight: Tensor | None = None,
) -> Tensor:
    """Weighted mean of ``max(0, d(a, p) - d(a, n) + margin)``, d squared Euclidean.

    All three (batch, dim); ``weight`` (batch,) or none. On unit vectors d is ``2 - 2 cos``.
    Source: F. Schroff et al., "FaceNet", 2015, equation 3.
    """
    near = (anchor - positive).square().sum(dim=1)
    far = (anchor - negative).square().sum(dim=1)
    loss = torch.relu(near - far + margin)
    return loss.mean() if weight is None else (loss * weight).sum() / weight.sum()
