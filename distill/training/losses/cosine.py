"""Cosine distance to the teacher's embedding."""

import torch.nn.functional as F
from torch import Tensor


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of ``1 - cos(student_i, teacher_i)``; both (batch, dim).

    Of the losses between embeddings that S-SONDO (2026) compared, the one that preserved most of
    the teacher's accuracy.
    """
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()
