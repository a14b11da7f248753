"""The second and third stage, over one training loop that resumes from its last checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from datasets_scripts.files import atomic_path
from distill.config import DistillConfig, FinetuneConfig
from distill.features.recordings import Recording
from distill.training.batches import ClipBatches, Clips
from distill.training.losses import (
    cosine_loss,
    info_nce_loss,
    odd_one_out_loss,
    relational_loss,
    triplet_margin_loss,
)
from distill.training.teacher_space import fit_metric_transform
from student import Feelprint

CHECKPOINT_EVERY = 250  # steps
LOG_EVERY = 25  # steps
WARM_UP = 0.05  # of the steps
FINAL_LR_FACTOR = 0.01  # of the learning rate, at the end of the cosine

Losses = dict[str, Tensor]
ParamGroup = dict[str, object]  # of the optimiser: params, lr, weight_decay


def _lr_factor(step: int, steps: int) -> float:
    """Factor on the learning rate at ``step``: linear warm-up, then half a cosine."""
    warm = max(1, int(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return FINAL_LR_FACTOR + (1 - FINAL_LR_FACTOR) * 0.5 * (
        1 + math.cos(math.pi * min(1.0, progress))
    )


def _save(path: Path, state: dict[str, object]) -> None:
    with atomic_path(path) as part:
        torch.save(state, part)


def store_transform(path: Path, name: str, transform: np.ndarray) -> None:
    """Put a linear metric of the head, (dim, dim), into the checkpoint of the third stage."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    state["module"][f"model.head.{name}"] = torch.from_numpy(transform).float()
    _save(path, state)


class Trainer:
    """Trains ``module`` for ``steps`` batches, and resumes from ``folder/name.pt`` if it exists.

    ``groups`` are the optimiser's parameter groups, ``loss_fn`` returns the weighted terms of the
    loss by name. A resumed run ends with the same weights as one that was not interrupted.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        name: str,
        module: nn.Module,
        groups: list[ParamGroup],
        loss_fn: Callable[[nn.Module, Clips], Losses],
        steps: int,
        folder: Path,
    ):
        self.accelerator, self.name, self.module = accelerator, name, module
        self.loss_fn, self.steps, self.path = loss_fn, steps, folder / f"{name}.pt"
        self.optimiser = torch.optim.AdamW(groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: _lr_factor(step, steps)
        )
        self.first = 0  # steps that are done already
        self.rng: tuple[Tensor, Tensor | None] | None = None  # of the CPU and the GPU
        if self.path.exists():
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            module.load_state_dict(state["module"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])
            self.first, self.rng = state["step"], (state["rng"], state.get("cuda_rng"))

    @property
    def _on_gpu(self) -> bool:
        return self.accelerator.device.type == "cuda"

    def train(self, batches: ClipBatches) -> None:
        """Run the remaining steps. Raises FloatingPointError where the loss is not finite."""
        if self.first >= self.steps:
            return
        accelerator = self.accelerator
        self.module.to(memory_format=torch.channels_last)  # a third faster on a CPU
        prepared, optimiser = accelerator.prepare(self.module, self.optimiser)
        clips_of_steps = self._clips(batches)
        self._restore_rng()  # after the data loader, which draws a random number when it starts
        self.module.train()
        bar = tqdm(
            clips_of_steps,
            desc=self.name,
            total=self.steps,
            initial=self.first,
            unit="step",
            disable=not accelerator.is_main_process,
        )
        for step, clips in enumerate(bar, self.first + 1):
            losses = self.loss_fn(prepared, clips)
            loss = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"{self.name}: the loss is {loss.item()} at step {step}; "
                    "lower the learning rate"
                )
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            self.schedule.step()
            if step % LOG_EVERY == 0 or step == self.steps:
                values = {f"{self.name}/{key}": value.item() for key, value in losses.items()}
                accelerator.log({**values, f"{self.name}/loss": loss.item()}, step=step)
                bar.set_postfix_str(f"loss {loss.item():.4f}")
            if step % CHECKPOINT_EVERY == 0 or step == self.steps:
                self._save_checkpoint(step)
        accelerator.wait_for_everyone()

    def _clips(self, batches: ClipBatches) -> Iterator[Clips]:
        """This process's share of the remaining batches, on its device."""
        world, device = self.accelerator.num_processes, self.accelerator.device
        remaining = range(self.first * world, self.steps * world)
        own = remaining[self.accelerator.process_index :: world]
        loaded = iter(DataLoader(Subset(batches, own), batch_size=None, num_workers=0))
        return (Clips(*(tensor.to(device) for tensor in vars(clips).values())) for clips in loaded)

    def _restore_rng(self) -> None:
        if self.rng is None:
            return
        cpu, gpu = self.rng
        torch.set_rng_state(cpu)
        if gpu is not None and self._on_gpu:
            torch.cuda.set_rng_state(gpu, self.accelerator.device)

    def _save_checkpoint(self, step: int) -> None:
        if not self.accelerator.is_main_process:
            return
        device = self.accelerator.device
        _save(
            self.path,
            {
                "module": self.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state(device) if self._on_gpu else None,
                "step": step,
            },
        )


class ChannelStudent(nn.Module):
    """The window CNN's pooled features of a segment, scaled and shifted to the teacher's channels.

    ``channels`` are the features that have a target. A. Romero et al., "FitNets", arXiv:1412.6550,
    distil a hidden layer through a regressor; here the regressor is one scale and one shift a
    channel, since each channel has one of the teacher's as its target.
    """

    def __init__(self, model: Feelprint, channels: Tensor):
        super().__init__()
        self.model, self.channels = model, channels
        self.scale = nn.Parameter(torch.ones(len(channels)))
        self.shift = nn.Parameter(torch.zeros(len(channels)))

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mel (batch, windows, n_mels, frames) -> (batch, channels)."""
        cnn = self.model.cnn
        features = cnn.norm(cnn.pooled_features(mel.flatten(0, 1)))
        features = features.unflatten(0, mel.shape[:2]).mean(dim=1)  # (batch, features)
        return features[:, self.channels] * self.scale + self.shift


class TokenStudent(nn.Module):
    """The student's tokens, averaged over a segment and projected to the teacher's space."""

    def __init__(self, model: Feelprint, components: int):
        super().__init__()
        self.model = model
        self.projector = nn.Linear(model.config.dim, components)

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mel (batch, windows, n_mels, frames) -> (batch, components)."""
        return self.projector(self.model.dropout(self.model.tokens(mel).mean(dim=1)))


def distill(
    accelerator: Accelerator,
    model: Feelprint,
    batches: ClipBatches,
    config: DistillConfig,
    folder: Path,
    channels: Tensor | None = None,
) -> None:
    """Second stage: the CNN learns the teacher's embeddings of segments.

    With ``channels``, by the squared error of these features to the targets of ``batches``
    (per-channel feature distillation); without, by the cosine of projected tokens.
    """
    module = (
        TokenStudent(model, config.components)
        if channels is None
        else ChannelStudent(model, channels)
    )

    def loss_fn(prepared: nn.Module, clips: Clips) -> Losses:
        output = prepared(clips.mel)
        if channels is not None:
            return {"teacher": F.mse_loss(output, clips.teacher)}
        return {"teacher": cosine_loss(output, clips.teacher[:, : config.components])}

    groups: list[ParamGroup] = [
        {
            "params": list(module.parameters()),
            "lr": config.learning_rate,
            "weight_decay": config.weight_decay,
        }
    ]
    trainer = Trainer(accelerator, "distill", module, groups, loss_fn, config.steps, folder)
    trainer.train(batches)


class EmbeddingStudent(nn.Module):
    """The student from log-mels to unit embeddings, before the linear metric."""

    def __init__(self, model: Feelprint):
        super().__init__()
        self.model = model

    def forward(self, mel: Tensor, nonsilent_ratio: Tensor) -> Tensor:
        """Log-mel (batch, windows, n_mels, frames), ratio (batch, windows) -> (batch, dim)."""
        model = self.model
        return model.head.unit_embedding(model.dropout(model.tokens(mel)), nonsilent_ratio)[0]


def clip_losses(embeddings: Tensor, clips: Clips, config: FinetuneConfig) -> Losses:
    """The weighted terms of the third stage's loss that are switched on.

    ``embeddings`` (batch, dim) are the unit embeddings of ``clips``.
    """
    dim = embeddings.shape[1]
    losses: Losses = {}
    if config.teacher:
        targets = F.normalize(clips.teacher[:, :dim], dim=1)
        losses["teacher"] = config.teacher * cosine_loss(embeddings, targets)
    if config.relational:
        losses["relational"] = config.relational * relational_loss(
            embeddings, F.normalize(clips.teacher, dim=1), config.temperature
        )
    if config.same_track:
        losses["same_track"] = config.same_track * info_nce_loss(
            embeddings, clips.track, config.temperature
        )
    if config.same_album:
        losses["same_album"] = config.same_album * info_nce_loss(
            embeddings, clips.album, config.temperature
        )
    if config.triplet_margin or config.odd_one_out:
        losses |= _triplet_losses(embeddings, clips, config)
    return losses


def _triplet_losses(embeddings: Tensor, clips: Clips, config: FinetuneConfig) -> Losses:
    """The terms on triplets: people's where the batch has some, else made from its quadruplets."""
    if len(clips.triplets):
        anchor, positive, negative = clips.triplets.T
    else:
        anchor, positive, negative = made_triplets(clips, config.made_from)
    triplets = embeddings[anchor], embeddings[positive], embeddings[negative]
    zero = embeddings.sum() * 0.0  # the loss of a batch of one album, which makes no triplet
    losses: Losses = {}
    if config.triplet_margin:
        loss = triplet_margin_loss(*triplets, config.margin) if len(anchor) else zero
        losses["triplet_margin"] = config.triplet_margin * loss
    if config.odd_one_out:
        loss = odd_one_out_loss(*triplets, config.temperature) if len(anchor) else zero
        losses["odd_one_out"] = config.odd_one_out * loss
    return losses


def made_triplets(clips: Clips, made_from: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of anchors, positives and negatives within a batch of quadruplets.

    The negative is the corresponding clip of the next quadruplet of another album; an anchor
    without one makes no triplet. `excerpts`: two clips of one track, against another album's.
    `albums`: clips of two tracks of one album, against another album's; of an album with a single
    track, two clips of that track.
    """
    first = torch.arange(0, len(clips.track), 4, device=clips.track.device)
    pairs = []
    if "excerpts" in made_from:
        pairs += [(first, first + 1), (first + 2, first + 3)]
    if "albums" in made_from:
        pairs += [(first, first + 2), (first + 1, first + 3)]
    anchor = torch.cat([a for a, _ in pairs])
    positive = torch.cat([p for _, p in pairs])
    offsets = torch.arange(4, len(clips.track), 4, device=anchor.device)
    candidates = (anchor.unsqueeze(1) + offsets) % len(clips.track)  # (anchors, quadruplets - 1)
    other_album = clips.album[candidates] != clips.album[anchor].unsqueeze(1)
    nearest = other_album.long().argmax(dim=1, keepdim=True)
    negative = candidates.gather(1, nearest).squeeze(1)
    found = other_album.any(dim=1)
    return anchor[found], positive[found], negative[found]


def finetune(
    accelerator: Accelerator,
    model: Feelprint,
    batches: ClipBatches,
    config: FinetuneConfig,
    folder: Path,
    metric_recordings: Sequence[Recording] = (),
) -> None:
    """Third stage: the head and the CNN learn the embeddings of clips of several segments.

    Then, with ``config.metric_weight``, the linear metric is fitted to ``metric_recordings``.
    """
    module = EmbeddingStudent(model)

    def loss_fn(prepared: nn.Module, clips: Clips) -> Losses:
        return clip_losses(prepared(clips.mel, clips.nonsilent_ratio), clips, config)

    head: list[nn.Parameter] = []
    cnn: list[nn.Parameter] = []
    # the token layer and its norm have no target of their own in the second stage: they are
    # trained with the head
    for name, parameter in model.named_parameters():
        is_cnn_param = name.startswith(("cnn.filters", "cnn.layers"))
        parameter.requires_grad_(not is_cnn_param or config.cnn_learning_rate > 0)
        (cnn if is_cnn_param else head).append(parameter)
    groups: list[ParamGroup] = [
        {"params": head, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": cnn, "lr": config.cnn_learning_rate, "weight_decay": config.weight_decay},
    ]
    trainer = Trainer(accelerator, "finetune", module, groups, loss_fn, config.steps, folder)
    trainer.train(batches)
    if config.metric_weight and accelerator.is_main_process:
        clips, albums = unit_embeddings(module, metric_recordings, max(config.clip_segments))
        transform = fit_metric_transform(clips, albums, config.metric_weight)
        store_transform(trainer.path, "metric_transform", transform)
    accelerator.wait_for_everyone()


@torch.inference_mode()
def unit_embeddings(
    module: EmbeddingStudent, recordings: Sequence[Recording], clip_segments: int, clips: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings of ``clips`` evenly spaced clips of each recording, and its album.

    Returns (n, clips, dim) and (n,). A clip has ``clip_segments``, or the whole of a shorter track.
    """
    device = next(module.parameters()).device
    module.eval()
    embeddings = []
    for recording in tqdm(recordings, desc="embeddings", unit="track"):
        length = min(clip_segments, recording.segments)
        starts = np.linspace(0, recording.segments - length, clips).round().astype(int)
        inputs = [recording.clip(start, length) for start in starts]
        mel, nonsilent_ratio = (
            torch.from_numpy(np.stack(arrays)).float() for arrays in zip(*inputs, strict=True)
        )
        embeddings.append(module(mel.to(device), nonsilent_ratio.to(device)).cpu().numpy())
    return np.stack(embeddings), np.array([recording.album_key for recording in recordings])
