"""InfoNCE: the members of one group against the rest of the batch."""

import torch
from torch import Tensor


def info_nce_loss(embeddings: Tensor, group: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean of ``-log(sum over j of i's group of exp(s_ij / t) / sum over all j of exp(s_ij / t))``.

    ``embeddings`` (batch, dim) of unit length, ``group`` (batch,) integers: a track or an album;
    i itself is excluded from both sums, and an i that is alone in its group is ignored.
    Source: A. van den Oord et al., "Representation learning with contrastive predictive coding",
    2018, equation 4, with several positives as in P. Khosla et al., "Supervised contrastive
    learning", 2020, equation 3 (the sum inside the logarithm).
    """
    itself = torch.eye(len(group), dtype=torch.bool, device=group.device)
    same = (group.unsqueeze(0) == group.unsqueeze(1)) & ~itself
    scores = (embeddings @ embeddings.T / temperature).masked_fill(itself, -torch.inf)
    positives = scores.masked_fill(~same, -torch.inf).logsumexp(dim=1)
    counted = same.any(dim=1)
    if not counted.any():
        return embeddings.sum() * 0.0
    return (scores.logsumexp(dim=1) - positives)[counted].mean()
