"""The student starts as its teacher: musicnn's living filters, at the student's resolution.

A student that is shaped like its teacher and starts from the teacher's layers keeps far more of
what the teacher does on music that neither has heard (V. Sanh et al., "DistilBERT", 2019, section
3, take every second layer). Here every living filter is taken, over fewer mels and frames.
"""

from __future__ import annotations

import math
import operator

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.musicnn import MusicnnNetwork
from student import ConfigError, Feelprint
from student.model import SPREAD, USUAL, Filters, Layer

FRONT_END = (0, 1, 2, 3, 4)  # musicnn's convolutions over the log-mel: two tall, three long
MID_END = (5, 6, 7)  # those over time
# log10(10000 power + 1) of music at the level that the teacher hears, where the student's log-mel
# is 0; found with a ridge regression from the resampled filters' answers (docs/experiments.md)
TEACHER_LEVEL = 3.75


def resampled(weight: Tensor, mels: int, frames: int) -> Tensor:
    """Filters (count, mels, frames) at another resolution, with the same sum."""
    scale = weight.shape[1] * weight.shape[2] / (mels * frames)
    resized = F.interpolate(
        weight.unsqueeze(1), size=(mels, frames), mode="bilinear", antialias=True
    )
    return resized.squeeze(1) * scale


def same_channels(model: Feelprint, network: MusicnnNetwork) -> tuple[Tensor, Tensor]:
    """Which channels that the student's window CNN hears are which of the teacher's.

    Two rows of indices of one length: into the last axis of `WindowCNN.heard`, and into the
    teacher's 753 features. What the student has beyond its teacher is in neither.
    """
    mine, its, of_mine, of_its = [], [], 0, 0
    for number, (count, *_) in zip(FRONT_END, model.config.filters, strict=True):
        living = network.filters(number)[2]
        its.append(of_its + living.nonzero().flatten())
        mine.append(of_mine + torch.arange(len(its[-1])))
        of_mine, of_its = of_mine + count, of_its + len(living)
    for number, count in zip(MID_END, model.config.layers, strict=True):
        channels = torch.arange(len(network.filters(number)[1]))
        mine.append(of_mine + channels)
        its.append(of_its + channels)
        of_mine, of_its = of_mine + count, of_its + len(channels)
    return torch.cat(mine), torch.cat(its)


@torch.no_grad()
def start_as_teacher(model: Feelprint, network: MusicnnNetwork) -> None:
    """Give ``model``'s window CNN the filters and layers of ``network``, as far as they live.

    The projection to tokens and the head stay as they are. Two of the 64 filters are heard by the
    teacher where they answer least; here they are like the others, and left to the training.

    Raises:
        ConfigError: the student has fewer filters than live in the teacher, or other layers.
    """
    config, cnn = model.config, model.cnn
    wanted = [int(network.filters(n)[2].sum()) for n in FRONT_END]
    layers = [len(network.filters(n)[1]) for n in MID_END]
    found = [count for count, *_ in config.filters]
    pairs = ((found, wanted), (config.layers, layers))
    if any(len(f) != len(w) or any(map(operator.lt, f, w)) for f, w in pairs):
        raise ConfigError(
            f"a student that starts as musicnn has {wanted} filters or more, and layers of "
            f"{layers} or more; got {found} and {list(config.layers)}"
        )
    # the teacher's normalised log-mel is a line of the student's
    scale, shift = (float(one) for one in network.affine(0))
    slope = scale * SPREAD / math.log(10)
    offset = scale * (USUAL / math.log(10) + TEACHER_LEVEL) + shift
    dead_answers, mine = [], []
    for number, filters, (_, mels, frames, _) in zip(
        FRONT_END, cnn.filters, config.filters, strict=True
    ):
        assert isinstance(filters, Filters) and filters.conv.bias is not None
        weight, bias, living = network.filters(number)  # long ones are (filters, 1, frames)
        weight = resampled(weight, mels, frames)
        scales, shifts = network.affine(number + 1)
        count = len(weight)
        mine.append(torch.arange(len(filters.scale)) < count)
        filters.conv.weight[:count] = (weight * slope).unsqueeze(1)
        filters.conv.bias[:count] = bias[living] + offset * weight.sum(dim=(1, 2))
        filters.scale[:count] = scales[living].view(-1, 1, 1)
        filters.shift[:count] = shifts[living].view(-1, 1, 1)
        dead_answers.append(torch.where(living, torch.nan, F.relu(bias) * scales + shifts))
    taken = torch.cat(mine)  # of the student's filters, those that are the teacher's
    always = torch.cat(dead_answers)  # what each of the front end's dead filters answers; or nan
    for number, layer in zip(MID_END, cnn.layers, strict=True):
        assert isinstance(layer, Layer) and layer.conv.bias is not None
        weight, bias, living = network.filters(number)  # (living, before, 7)
        frames = config.layer_frames
        weight = resampled(weight.flatten(0, 1).unsqueeze(1), 1, frames).view(
            *weight.shape[:2], frames
        )
        bias = bias.clone()
        if number == MID_END[0]:
            dead = ~always.isnan()
            bias[living] += weight[:, dead].sum(dim=2) @ always[dead]
            heard = torch.zeros(len(weight), len(taken), frames)
            heard[:, taken] = weight[:, ~dead]
            weight = heard
        scales, shifts = network.affine(number + 1)
        count = len(living)
        its = living.nonzero().flatten()
        layer.conv.weight[its] = 0.0  # of what the student has beyond its teacher
        layer.conv.weight[its, : weight.shape[1]] = weight.unsqueeze(2)
        layer.conv.bias[its] = bias[living]
        layer.scale[:count] = torch.where(living, scales, 0).view(-1, 1, 1)
        # a dead one answers the same to anything, until training finds a use for it
        answers = torch.where(living, shifts, F.relu(bias) * scales + shifts)
        layer.shift[:count] = answers.view(-1, 1, 1)
