"""The probability of the odd one out, as a softmax over the three pair similarities."""

import torch
import torch.nn.functional as F
from torch import Tensor


def odd_one_out_loss(
    first: Tensor,
    second: Tensor,
    odd: Tensor,
    temperature: float = 0.1,
) -> Tensor:
    """Mean of ``-log p(odd)``, where the most similar pair determines the odd one out.

    ``p(odd) = exp(s(first, second) / t) / sum over the three pairs of exp(s / t)``, s the dot
    product of unit vectors (batch, dim) and t the temperature. Source: M. Hebart et al.,
    "Revealing the multidimensional mental representations of natural objects underlying human
    similarity judgements", 2020, methods.
    """
    pairs = ((first, second), (first, odd), (second, odd))
    similarities = torch.stack([(x * y).sum(dim=1) for x, y in pairs], dim=1) / temperature
    target = torch.zeros(len(similarities), dtype=torch.long, device=similarities.device)
    return F.cross_entropy(similarities, target)
