"""The student starts as its teacher: musicnn's living filters, at the student's resolution.

A student that is shaped like its teacher and starts from the teacher's layers keeps far more of
what the teacher does on music that neither has heard (V. Sanh et al., "DistilBERT", 2019, section
3, take every second layer). Here every living filter is taken, over fewer mels and frames; each of
the student's channels then has one of the teacher's to learn.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.teachers.musicnn import FRAME_DIM, MEANS, MusicnnNetwork
from distill.training.teacher_space import unit
from student import ConfigError, Feelprint, FeelprintConfig
from student.model import LOG_MEL_MEAN, LOG_MEL_STD, FrequencyPooledConv, TemporalConv

FRONT_END = (0, 1, 2, 3, 4)  # musicnn's convolutions over the log-mel: two tall, three long
MID_END = (5, 6, 7)  # those over time
# log10(10000 power + 1) of music at the level that the teacher hears, where the student's log-mel
# is 0; found with a ridge regression from the resampled filters' answers (docs/experiments.md)
TEACHER_LEVEL = 3.75


def resampled(weight: Tensor, mels: int, frames: int) -> Tensor:
    """FrequencyPooledConv (count, mels, frames) at another resolution, with the same sum."""
    scale = weight.shape[1] * weight.shape[2] / (mels * frames)
    resized = F.interpolate(
        weight.unsqueeze(1), size=(mels, frames), mode="bilinear", antialias=True
    )
    return resized.squeeze(1) * scale


def channel_map(config: FeelprintConfig, network: MusicnnNetwork) -> list[tuple[Tensor, Tensor]]:
    """Of each of musicnn's convolutions, which of the student's channels is which of its own.

    Two rows of numbers a convolution: into what `WindowCNN.heard` returns, and into the teacher's
    753 features. FrequencyPooledConv that are dead in the teacher, and whatever else only one of them has, are
    in neither.
    """
    pairs, of_mine, of_its = [], 0, 0
    sizes = [count for count, *_ in config.filters] + list(config.layers)
    for number, size in zip((*FRONT_END, *MID_END), sizes, strict=True):
        living = network.filters(number)[2]
        its = living.nonzero().flatten()
        pairs.append((of_mine + torch.arange(len(its)), of_its + its))
        of_mine, of_its = of_mine + size, of_its + len(living)
    return pairs


@torch.no_grad()
def init_from_musicnn(model: Feelprint, network: MusicnnNetwork) -> None:
    """Give ``model``'s window CNN the filters and layers of ``network``, as far as they live.

    The projection to tokens and the head stay as they are. Two of the 64 filters are heard by the
    teacher where they answer least; here they are like the others, and left to the training.

    Raises:
        ConfigError: the student has fewer filters than live in the teacher, or fewer or smaller
            layers.
    """
    config, cnn = model.config, model.cnn
    found = [count for count, *_ in config.filters], list(config.layers)
    wanted = tuple([int(network.filters(n)[2].sum()) for n in end] for end in (FRONT_END, MID_END))
    if any(
        len(has) != len(needs) or any(map(operator.lt, has, needs))
        for has, needs in zip(found, wanted, strict=True)
    ):
        raise ConfigError(
            f"a student that starts as musicnn has {wanted[0]} filters or more, and layers of "
            f"{wanted[1]} or more; got {found[0]} and {found[1]}"
        )
    # the teacher's normalised log-mel is a line of the student's
    scale, shift = (float(one) for one in network.affine(0))
    slope = scale * LOG_MEL_STD / math.log(10)
    offset = scale * (LOG_MEL_MEAN / math.log(10) + TEACHER_LEVEL) + shift
    for number, filters, (_, mels, frames, _) in zip(
        FRONT_END, cnn.filters, config.filters, strict=True
    ):
        assert isinstance(filters, FrequencyPooledConv) and filters.conv.bias is not None
        weight, bias, living = network.filters(number)  # long ones are (filters, 1, frames)
        weight = resampled(weight, mels, frames)
        count = len(weight)
        filters.conv.weight[:count] = (weight * slope).unsqueeze(1)
        filters.conv.bias[:count] = bias[living] + offset * weight.sum(dim=(1, 2))
    channels = [mine for mine, _ in channel_map(config, network)]
    for place, (number, layer) in enumerate(zip(MID_END, cnn.layers, strict=True)):
        assert isinstance(layer, TemporalConv) and layer.conv.bias is not None
        weight, bias, living = network.filters(number)  # (living, before, 7)
        rows, frames = torch.arange(len(weight)), config.layer_frames
        weight = resampled(weight.flatten(0, 1).unsqueeze(1), 1, frames).view(
            *weight.shape[:2], frames
        )
        layer.conv.weight[rows] = 0.0  # of what the student has beyond its teacher
        layer.conv.bias[rows] = bias[living]
        # the front end stands side by side in both; the convolutions before, which the teacher
        # adds up, in the student alone
        before = MID_END[:place] or FRONT_END
        sizes = [len(network.filters(each)[1]) for each in before]
        parts = [weight] * place or weight.split(sizes, dim=1)
        of_mine = sum(found[0]) if place else 0  # the layers after the first hear no filters
        for each, part in zip(before, parts, strict=True):
            _, bias, living = network.filters(each)
            scales, shifts = network.affine(each + 1)
            mine = channels[each] - of_mine
            layer.scale[mine, 0, 0], layer.shift[mine, 0, 0] = scales[living], shifts[living]
            layer.conv.weight[rows[:, None], mine] = part[:, living].unsqueeze(2)
            always = F.relu(bias) * scales + shifts  # what a dead one answers to anything
            layer.conv.bias[rows] += part[:, ~living].sum(dim=2) @ always[~living]


@dataclass(frozen=True)
class ChannelTargets:
    """What each of the student's channels learns: its counterpart in the teacher.

    ``channels`` (n,) are the student's, of those that `WindowCNN.heard` returns; ``rule`` (753, n)
    makes their counterparts of the teacher's means, ``mean`` and ``scale`` (n,) standardise these.
    A channel that the teacher lacks learns nothing by itself.
    """

    channels: Tensor
    rule: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Means of clips (clips, dim), musicnn's first -> what is learned of them (clips, n)."""
        its = clips[:, MEANS].astype(np.float32)
        return (its @ self.rule - self.mean) / self.scale


def fit_channel_targets(
    model: Feelprint, network: MusicnnNetwork, clips: np.ndarray
) -> ChannelTargets:
    """The hints of a student that started as ``network``; ``clips`` (clips, 1506) are of music."""
    pairs = channel_map(model.config, network)
    mine, its = (torch.cat(each) for each in zip(*pairs, strict=True))
    rule = np.eye(FRAME_DIM, dtype=np.float32)
    for number, (_, after) in zip(MID_END[1:], pairs[len(FRONT_END) + 1 :], strict=True):
        # the teacher adds it to the one before, and the student hears it by itself
        rule[after - len(network.filters(number)[1]), after] = -1.0
    rule = rule[:, its]
    answers = clips[:, MEANS].astype(np.float32) @ rule
    return ChannelTargets(mine, rule, answers.mean(axis=0), unit(answers.std(axis=0)))
