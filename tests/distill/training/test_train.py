"""The training loop: it learns, resumes with the same result, and stops at a loss of NaN."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from datasets_scripts.corpora.corpus import Track
from distill.config import DistillConfig, FinetuneConfig
from distill.features.recordings import Recording
from distill.training import train
from distill.training.batches import ClipBatches, Clips, Targets
from distill.training.losses import cosine_loss
from distill.training.teacher_space import fit_metric_transform
from distill.training.train import (
    ChannelStudent,
    EmbeddingStudent,
    Losses,
    TokenStudent,
    Trainer,
    distill,
    finetune,
    unit_embeddings,
)
from student import Feelprint, FeelprintConfig

SMALL = FeelprintConfig(
    n_mels=16,
    window_frames=16,
    filters=((12, 16, 3, 1), (4, 1, 8, 4)),
    layers=(8, 8),
    dim=16,
    queries=2,
    embedding_dim=8,
)
COMPONENTS = 8


@pytest.fixture(scope="module")
def found() -> list[Recording]:
    """Tracks whose teacher embedding is a fixed linear function of the log-mel."""
    rng = np.random.default_rng(0)
    projection = rng.standard_normal((16, 24))
    made = []
    for number in range(40):
        colour = rng.standard_normal(16) + 0.3 * rng.standard_normal((6, 16))  # (segment, mel)
        mel = np.repeat(colour, 3, axis=0)[:, :, None] + 0.3 * rng.standard_normal((18, 16, 16))
        track = Track(
            str(number), "", "", f"album {number // 4}", [], "", "", 1.0, "", "train"
        )  # fmt: skip
        embedding = (colour @ projection).astype(np.float16)
        made.append(
            Recording(track, 0, mel.astype(np.float16), np.ones(18, np.uint8), (embedding,))  # type: ignore[arg-type]
        )
    return made


@pytest.fixture(scope="module")
def targets(found: list[Recording]) -> Targets:
    return Targets.fit(found, COMPONENTS)


def batches(found: list[Recording], targets: Targets) -> ClipBatches:
    return ClipBatches(found, targets, 16, (1, 2), 0)


def student() -> Feelprint:
    torch.manual_seed(0)
    model = Feelprint(SMALL)
    for name, parameter in model.cnn.named_parameters():
        if name.endswith("conv.bias"):
            torch.nn.init.constant_(parameter, 2.0)  # every channel is active before training
    return model


def finetuned(
    found: list[Recording], targets: Targets, folder: Path, steps: int = 8
) -> dict[str, torch.Tensor]:
    """The final weights of the third stage, with every term and with dropout."""
    config = FinetuneConfig(
        steps=steps, relational=0.2, same_track=0.1, same_album=0.1, triplet_margin=0.1,
        odd_one_out=0.1,
    )  # fmt: skip
    model = student()
    folder.mkdir(exist_ok=True)
    finetune(Accelerator(), model, batches(found, targets), config, folder)
    return model.state_dict()


def test_the_second_stage_learns_the_teacher(
    found: list[Recording], targets: Targets, tmp_path: Path
) -> None:
    config = DistillConfig(steps=80, batch_size=16, learning_rate=0.01, components=COMPONENTS)
    model, drawn = student(), batches(found, targets)

    def loss(module: TokenStudent) -> float:
        clips = drawn[10**6]
        with torch.inference_mode():
            return float(cosine_loss(module.eval()(clips.mel), clips.teacher))

    before = loss(TokenStudent(model, COMPONENTS))
    distill(Accelerator(), model, drawn, config, tmp_path)
    state = torch.load(tmp_path / "distill.pt", weights_only=True)
    module = TokenStudent(student(), COMPONENTS)
    module.load_state_dict(state["module"])
    assert state["step"] == 80
    assert before > 0.8
    assert loss(module) < 0.4


def test_each_channel_learns_its_own_target(found: list[Recording], tmp_path: Path) -> None:
    """Three channels have targets, each with its scale; weights without a target do not change."""
    channels = torch.tensor([3, 13, 21])
    targets = Targets.fit(found, COMPONENTS)
    space = targets.space
    drawn = ClipBatches(
        found,
        targets,
        16,
        (1,),
        0,
        target_fn=lambda clips: ((clips - space.mean) / space.scale)[:, :3],
    )
    model = student()
    before = ChannelStudent(student(), channels)

    def error(module: ChannelStudent) -> float:
        clips = drawn[10**6]
        with torch.inference_mode():
            return float((module.train()(clips.mel) - clips.teacher).square().mean())

    config = DistillConfig(steps=80, batch_size=16, learning_rate=0.01, weight_decay=0.0)
    distill(Accelerator(), model, drawn, config, tmp_path, channels)
    trained = ChannelStudent(student(), channels)
    trained.load_state_dict(torch.load(tmp_path / "distill.pt", weights_only=True)["module"])
    assert error(trained) < 0.3 * error(before)
    initial = student().state_dict()
    for name, value in trained.model.state_dict().items():
        if name.startswith(("head.", "cnn.token")):
            assert torch.equal(value, initial[name]), name


def test_a_cnn_with_a_learning_rate_of_zero_does_not_change(
    found: list[Recording], targets: Targets, tmp_path: Path
) -> None:
    model = student()
    config = FinetuneConfig(steps=4, cnn_learning_rate=0.0)
    finetune(Accelerator(), model, batches(found, targets), config, tmp_path)
    before = student().state_dict()
    for name, value in model.state_dict().items():
        frozen = name.startswith(
            ("cnn.filters", "cnn.layers", "head.metric_transform", "head.rating_transform")
        )
        assert torch.equal(value, before[name]) == frozen, name


def test_the_metric_is_fitted_after_training_and_again_with_the_same_result(
    found: list[Recording], targets: Targets, tmp_path: Path
) -> None:
    config = FinetuneConfig(steps=4, metric_weight=0.5)
    made = []
    for _ in range(2):  # the second time, training is done
        model = student()
        finetune(Accelerator(), model, batches(found, targets), config, tmp_path, found)
        made.append(torch.load(tmp_path / "finetune.pt")["module"]["model.head.metric_transform"])
    assert torch.allclose(*made, atol=1e-4)
    embeddings, albums = unit_embeddings(EmbeddingStudent(model), found, max(config.clip_segments))
    assert np.allclose(made[1], fit_metric_transform(embeddings, albums, 0.5), atol=1e-6)
    assert np.allclose(np.linalg.norm(embeddings, axis=2), 1, atol=1e-5)
    assert len(set(albums)) == len(found) / 4
    assert not torch.allclose(made[0].T @ made[0], torch.eye(len(made[0])), atol=0.1)


@pytest.mark.parametrize("killed_at", [1, 3, 4, 7])
def test_a_killed_stage_ends_with_the_weights_of_an_uninterrupted_one(
    found: list[Recording],
    targets: Targets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 3)
    undisturbed = finetuned(found, targets, tmp_path / "undisturbed")
    torch.rand(killed_at)  # random numbers drawn before have no effect
    losses = train.clip_losses
    calls = 0

    def killed(*given: object) -> Losses:
        nonlocal calls
        calls += 1
        if calls == killed_at + 1:
            raise KeyboardInterrupt
        return losses(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "clip_losses", killed)
    with pytest.raises(KeyboardInterrupt):
        finetuned(found, targets, tmp_path / "killed")
    assert (tmp_path / "killed" / "finetune.pt").exists() == (killed_at >= 3)
    monkeypatch.setattr(train, "clip_losses", losses)
    resumed = finetuned(found, targets, tmp_path / "killed")
    for name, value in undisturbed.items():
        assert torch.equal(value, resumed[name]), name


def test_a_checkpoint_is_complete_or_the_one_before(
    found: list[Recording], targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while writing: the incomplete file has another name, and is not read."""
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 3)
    undisturbed = finetuned(found, targets, tmp_path / "undisturbed")
    save, saves = torch.save, 0

    def half(state: object, path: Path) -> None:
        nonlocal saves
        saves += 1
        save(state, path)
        if saves == 2:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        finetuned(found, targets, tmp_path / "killed")
    state = torch.load(tmp_path / "killed" / "finetune.pt", weights_only=True)
    assert state["step"] == 3
    monkeypatch.setattr(torch, "save", save)
    resumed = finetuned(found, targets, tmp_path / "killed")
    assert all(torch.equal(value, resumed[name]) for name, value in undisturbed.items())


def test_the_same_seed_gives_the_same_weights(
    found: list[Recording], targets: Targets, tmp_path: Path
) -> None:
    one, other = (finetuned(found, targets, tmp_path / name) for name in ("one", "other"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    moved = [not torch.equal(value, one[name]) for name, value in student().state_dict().items()]
    assert sum(moved) > len(moved) / 2


def test_a_complete_stage_is_not_trained_again(
    found: list[Recording], targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = finetuned(found, targets, tmp_path / "run")

    def never(*_: object) -> Losses:
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "clip_losses", never)
    again = finetuned(found, targets, tmp_path / "run")
    assert all(torch.equal(value, again[name]) for name, value in done.items())


def test_a_loss_that_is_not_finite_stops_the_run(
    found: list[Recording], targets: Targets, tmp_path: Path
) -> None:
    module = nn.Linear(1, 1)

    def loss_fn(prepared: nn.Module, clips: Clips) -> Losses:
        return {"broken": prepared(torch.ones(1, 1)).sum() * torch.nan}

    groups: list[dict[str, object]] = [{"params": list(module.parameters()), "lr": 0.1}]
    with pytest.raises(FloatingPointError, match=r"first: the loss is nan at step 1; lower"):
        trainer = Trainer(Accelerator(), "first", module, groups, loss_fn, 2, tmp_path)
        trainer.train(batches(found, targets))
    assert not list(tmp_path.iterdir())


def test_the_learning_rate_warms_up_and_falls() -> None:
    rates = [train._lr_factor(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == rates[5] == 1.0
    assert rates[100] == pytest.approx(train.FINAL_LR_FACTOR)
    assert rates[5:] == sorted(rates[5:], reverse=True)
