"""The triplet margin loss."""

import torch
from torch import Tensor


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 0.2,
) -> Tensor:
    """Mean of ``max(0, d(a, p) - d(a, n) + margin)``, d the squared Euclidean distance.

    All three (batch, dim). On unit vectors d is ``2 - 2 cos``.
    Source: F. Schroff et al., "FaceNet", 2015, equation 3.
    """
    near = (anchor - positive).square().sum(dim=1)
    far = (anchor - negative).square().sum(dim=1)
    return torch.relu(near - far + margin).mean()
