"""The second and third stage, over one training loop that resumes where it was killed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from distill.config import DistillConfig, FinetuneConfig
from distill.features.dataset import ClipBatches, Clips, Recording
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
LAST_RATE = 0.01  # of the learning rate, at the end of the cosine

Losses = dict[str, Tensor]


def _rate(step: int, steps: int) -> float:
    """Warm-up, then half a cosine: the factor on the learning rate at ``step``."""
    warm = max(1, int(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _save(path: Path, state: dict[str, object]) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def run_steps(
    accelerator: Accelerator,
    name: str,
    module: nn.Module,
    groups: list[dict[str, object]],
    batches: ClipBatches,
    loss_of: Callable[[nn.Module, Clips], Losses],
    steps: int,
    folder: Path,
) -> None:
    """Train ``module`` for ``steps`` batches; a checkpoint in ``folder`` is gone on from.

    ``groups`` are the optimiser's parameter groups, ``loss_of`` returns the weighted terms of
    the loss by name. Raises FloatingPointError where the loss is no longer finite.
    """
    optimiser = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    path = folder / f"{name}.pt"
    first, rng, cuda_rng = 0, None, None
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first, rng, cuda_rng = state["step"], state["rng"], state.get("cuda_rng")
    if first >= steps:
        return
    module.to(memory_format=torch.channels_last)  # a third faster on a CPU
    prepared, optimiser = accelerator.prepare(module, optimiser)
    mine = range(first * accelerator.num_processes, steps * accelerator.num_processes)
    mine = mine[accelerator.process_index :: accelerator.num_processes]
    coming = iter(DataLoader(Subset(batches, mine), batch_size=None, num_workers=0))
    if rng is not None:  # after the loader, which draws a number for itself when it starts
        torch.set_rng_state(rng)
    on_cuda = accelerator.device.type == "cuda"
    if cuda_rng is not None and on_cuda:
        torch.cuda.set_rng_state(cuda_rng, accelerator.device)
    module.train()
    bar = tqdm(
        _moved(coming, accelerator.device),
        desc=name,
        total=steps,
        initial=first,
        unit="step",
        disable=not accelerator.is_main_process,
    )
    for step, clips in enumerate(bar, first + 1):
        losses = loss_of(prepared, clips)
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"{name}: the loss is {loss.item()} at step {step}; lower the learning rate"
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if step % LOG_EVERY == 0 or step == steps:
            values = {f"{name}/{key}": value.item() for key, value in losses.items()}
            accelerator.log({**values, f"{name}/loss": loss.item()}, step=step)
            bar.set_postfix_str(f"loss {loss.item():.4f}")
        if (step % CHECKPOINT_EVERY == 0 or step == steps) and accelerator.is_main_process:
            _save(
                path,
                {
                    "module": module.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state(accelerator.device) if on_cuda else None,
                    "step": step,
                },
            )
    accelerator.wait_for_everyone()


def _moved(coming: Iterator[Clips], device: torch.device) -> Iterator[Clips]:
    for clips in coming:
        yield Clips(*(tensor.to(device) for tensor in vars(clips).values()))


class ChannelStudent(nn.Module):
    """What the window CNN hears in a segment, each channel on the scale of its teacher's own.

    ``channels`` are those that have one. A. Romero et al., "FitNets", arXiv:1412.6550, teach a
    hidden layer through a regressor; here it is a line a channel, for each has its counterpart.
    """

    def __init__(self, model: Feelprint, channels: Tensor):
        super().__init__()
        self.model, self.channels = model, channels
        self.scale = nn.Parameter(torch.ones(len(channels)))
        self.shift = nn.Parameter(torch.zeros(len(channels)))

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mel (batch, windows, n_mels, frames) -> (batch, channels)."""
        cnn = self.model.cnn
        heard = (
            cnn.norm(cnn.pooled_features(mel.flatten(0, 1))).unflatten(0, mel.shape[:2]).mean(dim=1)
        )
        return heard[:, self.channels] * self.scale + self.shift


class TokenStudent(nn.Module):
    """The student's tokens, averaged over a segment, in the teacher's coordinates."""

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
    """Second stage: the CNN learns the teacher's segments.

    By squared error of its ``channels``, each of which ``batches`` label with its teacher's own,
    standardised; where none are given, by cosine on projected tokens.
    """
    module = (
        TokenStudent(model, config.components)
        if channels is None
        else ChannelStudent(model, channels)
    )

    def loss_of(prepared: nn.Module, clips: Clips) -> Losses:
        made = prepared(clips.mel)
        if channels is not None:
            return {"teacher": F.mse_loss(made, clips.teacher)}
        return {"teacher": cosine_loss(made, clips.teacher[:, : config.components])}

    groups: list[dict[str, object]] = [
        {
            "params": list(module.parameters()),
            "lr": config.learning_rate,
            "weight_decay": config.weight_decay,
        }
    ]
    run_steps(accelerator, "distill", module, groups, batches, loss_of, config.steps, folder)


class EmbeddingStudent(nn.Module):
    """Log-mel (batch, windows, n_mels, frames) and nonsilent_ratio (batch, windows) -> directions."""

    def __init__(self, model: Feelprint):
        super().__init__()
        self.model = model

    def forward(self, mel: Tensor, nonsilent_ratio: Tensor) -> Tensor:
        """Of each clip, (batch, embedding_dim) of unit length."""
        model = self.model
        return model.head.unit_embedding(model.dropout(model.tokens(mel)), nonsilent_ratio)[0]


def clip_losses(directions: Tensor, clips: Clips, config: FinetuneConfig) -> Losses:
    """The weighted terms of the third stage's loss that are switched on."""
    dim = directions.shape[1]
    losses: Losses = {}
    taught = F.normalize(clips.teacher[:, :dim], dim=1)
    if config.teacher:
        losses["teacher"] = config.teacher * cosine_loss(directions, taught)
    if config.relational:
        losses["relational"] = config.relational * relational_loss(
            directions, F.normalize(clips.teacher, dim=1), config.temperature
        )
    if config.same_track:
        losses["same_track"] = config.same_track * info_nce_loss(
            directions, clips.track, config.temperature
        )
    if config.same_album:
        losses["same_album"] = config.same_album * info_nce_loss(
            directions, clips.album, config.temperature
        )
    if config.triplet_margin or config.odd_one_out:
        if len(clips.answers):
            anchor, positive, negative = clips.answers.T
        else:
            anchor, positive, negative = made_triplets(clips, config.made_from)
        triplets = directions[anchor], directions[positive], directions[negative]
        nothing = directions.sum() * 0.0  # of a batch of one album, which makes no triplet
        if config.triplet_margin:
            loss = triplet_margin_loss(*triplets, config.margin) if len(anchor) else nothing
            losses["triplet_margin"] = config.triplet_margin * loss
        if config.odd_one_out:
            loss = odd_one_out_loss(*triplets, config.temperature) if len(anchor) else nothing
            losses["odd_one_out"] = config.odd_one_out * loss
    return losses


def made_triplets(clips: Clips, made_from: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of anchors, positives and negatives within a batch of fours.

    The negative is the next clip of another album; an anchor without one makes no triplet.
    `excerpts`: two clips of one track, against a track of another album. `albums`: two tracks
    of one album, against a track of another. Where an album has one track only, its mate is
    itself, and the triplet says the same as an excerpt's.
    """
    first = torch.arange(0, len(clips.track), 4, device=clips.track.device)
    pairs = []
    if "excerpts" in made_from:
        pairs += [(first, first + 1), (first + 2, first + 3)]
    if "albums" in made_from:
        pairs += [(first, first + 2), (first + 1, first + 3)]
    anchor = torch.cat([a for a, _ in pairs])
    positive = torch.cat([p for _, p in pairs])
    apart = torch.arange(4, len(clips.track), 4, device=anchor.device)
    others = (anchor.unsqueeze(1) + apart) % len(clips.track)
    strange = clips.album[others] != clips.album[anchor].unsqueeze(1)
    negative = others.gather(1, strange.long().argmax(dim=1, keepdim=True)).squeeze(1)
    found = strange.any(dim=1)
    return anchor[found], positive[found], negative[found]


def finetune(
    accelerator: Accelerator,
    model: Feelprint,
    batches: ClipBatches,
    config: FinetuneConfig,
    folder: Path,
    soundtracks: Sequence[Recording] = (),
) -> None:
    """Third stage: the head, and with it the CNN, learns the directions of whole clips.

    Then the embedding is stretched, along the axes on which ``soundtracks`` lie apart.
    """
    module = EmbeddingStudent(model)

    def loss_of(prepared: nn.Module, clips: Clips) -> Losses:
        return clip_losses(prepared(clips.mel, clips.nonsilent_ratio), clips, config)

    head: list[nn.Parameter] = []
    cnn: list[nn.Parameter] = []
    # the token and its norm learn beside the head: what is taught channel by channel ends before
    for name, parameter in model.named_parameters():
        heard = name.startswith(("cnn.filters", "cnn.layers"))
        parameter.requires_grad_(not heard or config.cnn_learning_rate > 0)
        (cnn if heard else head).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": head, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": cnn, "lr": config.cnn_learning_rate, "weight_decay": config.weight_decay},
    ]
    run_steps(accelerator, "finetune", module, groups, batches, loss_of, config.steps, folder)
    if config.metric_weight and accelerator.is_main_process:
        path = folder / "finetune.pt"
        state = torch.load(path, map_location="cpu", weights_only=True)
        directions, albums = unit_embeddings(module, soundtracks, max(config.clip_segments))
        stretch = fit_metric_transform(directions, albums, config.metric_weight)
        state["module"]["model.head.metric_transform"] = torch.from_numpy(stretch)
        _save(path, state)
    accelerator.wait_for_everyone()


@torch.inference_mode()
def unit_embeddings(
    module: EmbeddingStudent, found: Sequence[Recording], clip_segments: int, clips: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Directions of so many clips of each recording, (n, clips, dim), and its album, (n,)."""
    device = next(module.parameters()).device
    module.eval()
    directions = []
    for recording in tqdm(found, desc="directions", unit="track"):
        length = min(clip_segments, recording.segments)
        starts = np.linspace(0, recording.segments - length, clips).round().astype(int)
        heard = [recording.clip(start, length) for start in starts]
        mel, nonsilent_ratio = (
            torch.from_numpy(np.stack(one)).float() for one in zip(*heard, strict=True)
        )
        directions.append(module(mel.to(device), nonsilent_ratio.to(device)).cpu().numpy())
    return np.stack(directions), np.array([recording.album for recording in found])
