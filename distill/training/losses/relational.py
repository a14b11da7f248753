"""The pairwise similarities of a batch, matched to the teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor


def relational_loss(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean over i of ``KL(p_i || q_i)``, p from the teacher and q from the student.

    ``p_i = softmax over j of (x_i . x_j / t)`` over the rows x (batch, dim), which have unit
    length; j = i is excluded. Source: N. Passalis and A. Tefas, "Learning deep representations
    with probabilistic knowledge transfer", 2018, with cosine similarities.
    """
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)

    def rows(x: Tensor) -> Tensor:
        scores = x @ x.T / temperature
        return scores[others].view(len(x), len(x) - 1)

    return F.kl_div(
        F.log_softmax(rows(student), dim=1),
        F.log_softmax(rows(teacher), dim=1),
        reduction="batchmean",
        log_target=True,
    )
