"""The losses, one a file, each with its formula and source."""

from distill.training.losses.cosine import cosine_loss
from distill.training.losses.info_nce import info_nce_loss
from distill.training.losses.odd_one_out import odd_one_out_loss
from distill.training.losses.relational import relational_loss
from distill.training.losses.triplet_margin import triplet_margin_loss

__all__ = [
    "cosine_loss",
    "info_nce_loss",
    "odd_one_out_loss",
    "relational_loss",
    "triplet_margin_loss",
]
