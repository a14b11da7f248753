"""Each loss on cases computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from distill.config import FinetuneConfig
from distill.training.batches import Clips
from distill.training.losses import (
    cosine_loss,
    info_nce_loss,
    odd_one_out_loss,
    relational_loss,
    triplet_margin_loss,
)
from distill.training.train import clip_losses, made_triplets

RIGHT, UP, LEFT = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
# -log of a softmax of (1, 0, 0) at the first place, temperature 1
ONE_OF_THREE = math.log(math.e + 2) - 1


def rows(*vectors: list[float]) -> Tensor:
    return torch.tensor(vectors, requires_grad=True)


def test_cosine() -> None:
    assert cosine_loss(rows(RIGHT), rows([3.0, 0.0])).item() == pytest.approx(0)
    assert cosine_loss(rows(RIGHT), rows(UP)).item() == pytest.approx(1)
    assert cosine_loss(rows(RIGHT), rows(LEFT)).item() == pytest.approx(2)
    assert cosine_loss(rows(RIGHT, UP), rows(LEFT, UP)).item() == pytest.approx(1)


def test_triplet_margin() -> None:
    # squared distances: right to up 2, right to left 4, right to itself 0
    assert triplet_margin_loss(rows(RIGHT), rows(UP), rows(LEFT)).item() == 0
    assert triplet_margin_loss(rows(RIGHT), rows(UP), rows(RIGHT)).item() == pytest.approx(2.2)
    assert triplet_margin_loss(rows(RIGHT), rows(UP), rows(UP)).item() == pytest.approx(0.2)
    both = rows(RIGHT, RIGHT), rows(UP, UP), rows(RIGHT, LEFT)
    assert triplet_margin_loss(*both).item() == pytest.approx(1.1)


def test_odd_one_out() -> None:
    pair_agrees = odd_one_out_loss(rows(RIGHT), rows(RIGHT), rows(UP), temperature=1.0)
    assert pair_agrees.item() == pytest.approx(ONE_OF_THREE)
    undecided = odd_one_out_loss(rows(RIGHT), rows(RIGHT), rows(RIGHT))
    assert undecided.item() == pytest.approx(math.log(3))
    # the wrong pair is the similar one: log(e + 2), more than the loss of a guess
    wrong = odd_one_out_loss(rows(RIGHT), rows(UP), rows(RIGHT), temperature=1.0)
    assert wrong.item() == pytest.approx(math.log(math.e + 2))
    # at a tenth of the temperature the similarities are multiplied by ten
    sharp = odd_one_out_loss(rows(RIGHT), rows(RIGHT), rows(UP), temperature=0.1)
    assert sharp.item() == pytest.approx(math.log(math.exp(10) + 2) - 10, abs=1e-5)
    both = rows(RIGHT, RIGHT), rows(RIGHT, RIGHT), rows(UP, RIGHT)
    mean = odd_one_out_loss(*both, temperature=1.0)
    assert mean.item() == pytest.approx((ONE_OF_THREE + math.log(3)) / 2)


def test_odd_one_out_does_not_depend_on_the_order_of_the_pair() -> None:
    first, second, odd = (torch.randn(5, 8) for _ in range(3))
    assert torch.allclose(
        odd_one_out_loss(first, second, odd), odd_one_out_loss(second, first, odd)
    )


def test_info_nce() -> None:
    four = rows(RIGHT, RIGHT, UP, UP)
    groups = torch.tensor([0, 0, 1, 1])
    assert info_nce_loss(four, groups, 1.0).item() == pytest.approx(ONE_OF_THREE)
    # groups across: the one positive has similarity 0, another has 1
    across = info_nce_loss(four, torch.tensor([0, 1, 0, 1]), 1.0)
    assert across.item() == pytest.approx(math.log(math.e + 2))
    # two positives are summed in the numerator; the fourth, alone in its group, is ignored
    three = info_nce_loss(rows(RIGHT, RIGHT, RIGHT, UP), torch.tensor([5, 5, 5, 7]), 1.0)
    assert three.item() == pytest.approx(math.log(2 * math.e + 1) - math.log(2 * math.e))


def test_info_nce_without_positives_is_zero_and_has_a_gradient() -> None:
    embeddings = rows(RIGHT, UP)
    loss = info_nce_loss(embeddings, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embeddings.grad, torch.zeros(2, 2))


def test_relational() -> None:
    same = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    assert relational_loss(same, same).item() == pytest.approx(0, abs=1e-6)
    # the teacher has two of three alike, the student all alike: rows (e, 1) / (e + 1) against a
    # half each, twice, and one row where both say a half each
    p = math.e / (math.e + 1)
    row = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    loss = relational_loss(rows(RIGHT, RIGHT, RIGHT), rows(RIGHT, RIGHT, UP), temperature=1.0)
    assert loss.item() == pytest.approx(2 / 3 * row)


def test_made_triplets_are_of_the_batchs_quadruplets() -> None:
    # three quadruplets: tracks 1 and 2 of album 0, track 3 (twice) of album 1, tracks 1 and 5 of
    # album 0
    album = torch.tensor([0] * 4 + [1] * 4 + [0] * 4)
    clips = Clips(torch.zeros(12), torch.zeros(12), torch.zeros(12), album, album)
    anchor, positive, negative = made_triplets(clips, ("excerpts",))
    # the negative is the corresponding clip of the next quadruplet of another album
    assert anchor.tolist() == [0, 4, 8, 2, 6, 10]
    assert positive.tolist() == [1, 5, 9, 3, 7, 11]
    assert negative.tolist() == [4, 8, 4, 6, 10, 6]
    anchor, positive, negative = made_triplets(clips, ("albums",))
    assert list(zip(anchor.tolist(), positive.tolist(), strict=True)) == [
        (0, 2), (4, 6), (8, 10), (1, 3), (5, 7), (9, 11)
    ]  # fmt: skip
    assert (album[anchor] == album[positive]).all()
    assert (album[anchor] != album[negative]).all()
    assert len(made_triplets(clips, ("excerpts", "albums"))[0]) == 12


def test_one_album_makes_no_triplet_and_no_loss() -> None:
    album = torch.zeros(8, dtype=torch.long)
    embeddings = torch.nn.functional.normalize(torch.randn(8, 32, requires_grad=True), dim=1)
    clips = Clips(torch.zeros(8), torch.zeros(8), embeddings.detach(), album, album)
    assert len(made_triplets(clips, ("excerpts",))[0]) == 0
    only = FinetuneConfig(teacher=0.0, triplet_margin=1.0, odd_one_out=1.0)
    losses = clip_losses(embeddings, clips, only)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.item() == 0


def test_peoples_triplets_are_used_instead_of_made_ones() -> None:
    album = torch.tensor([0] * 4 + [1] * 4 + [2, 3, 4])
    embeddings = torch.nn.functional.normalize(torch.randn(11, 32), dim=1)
    triplets = torch.tensor([[9, 10, 8]])
    clips = Clips(torch.zeros(11), torch.zeros(11), embeddings, album, album, triplets)
    only = FinetuneConfig(teacher=0.0, triplet_margin=1.0, odd_one_out=1.0, margin=2.0)
    losses = clip_losses(embeddings, clips, only)
    songs = [embeddings[n : n + 1] for n in (9, 10, 8)]
    assert torch.equal(losses["odd_one_out"], odd_one_out_loss(*songs))
    assert torch.equal(losses["triplet_margin"], triplet_margin_loss(*songs, 2.0))


def test_the_terms_are_weighted_and_can_be_switched_off() -> None:
    album = torch.tensor([0] * 4 + [1] * 4)
    embeddings = torch.nn.functional.normalize(torch.randn(8, 32), dim=1)
    targets = torch.nn.functional.normalize(torch.randn(8, 40), dim=1)
    clips = Clips(torch.zeros(8), torch.zeros(8), targets, torch.arange(8) // 2, album)
    every = FinetuneConfig(
        teacher=2.0, relational=1.0, same_track=1.0, same_album=1.0, triplet_margin=1.0,
        odd_one_out=1.0,
    )  # fmt: skip
    losses = clip_losses(embeddings, clips, every)
    assert set(losses) == {
        "teacher", "relational", "same_track", "same_album", "triplet_margin", "odd_one_out"
    }  # fmt: skip
    # the target is the first dimensions of the teacher's space
    cosine = cosine_loss(embeddings, targets[:, :32])
    assert losses["teacher"].item() == pytest.approx(2 * cosine.item())
    assert set(clip_losses(embeddings, clips, FinetuneConfig())) == {"teacher"}
