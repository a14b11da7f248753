"""Initialise the student from its teacher: musicnn's active filters, at the student's resolution.

A student that has its teacher's layout and is initialised from the teacher's layers generalises
more like the teacher to unseen music (V. Sanh et al., "DistilBERT", 2019, section 3, copy every
second layer). Here every active filter is copied, over fewer mels and frames; each of the student's
channels then has one of the teacher's channels as its target.
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
from distill.training.teacher_space import safe_std
from student import ConfigError, Feelprint, FeelprintConfig
from student.model import LOG_MEL_MEAN, LOG_MEL_STD, FrequencyPooledConv, TemporalConv

FRONT_END = (0, 1, 2, 3, 4)  # musicnn's convolutions over the log-mel: two tall, three long
MID_END = (5, 6, 7)  # musicnn's temporal convolutions
# the teacher's log-mel, log10(10000 power + 1), where the student's log-mel is 0; found by the
# ridge regression from the outputs of the resampled filters to the teacher's space, whose protocol
# is in docs/log/2026-11-24-init-from-teacher.md (this value is not in its tables)
TEACHER_LEVEL = 3.75


def resampled(weight: Tensor, mels: int, frames: int) -> Tensor:
    """Filters (count, n_mels, n_frames) -> (count, mels, frames), each with the same sum."""
    scale = weight.shape[1] * weight.shape[2] / (mels * frames)
    resized = F.interpolate(
        weight.unsqueeze(1), size=(mels, frames), mode="bilinear", antialias=True
    )
    return resized.squeeze(1) * scale


def channel_map(config: FeelprintConfig, network: MusicnnNetwork) -> list[tuple[Tensor, Tensor]]:
    """Which channel of the student corresponds to which of the teacher's, by convolution.

    For each of musicnn's convolutions, the student's indices into `WindowCNN.pooled_features` and
    the teacher's indices into its 753 features, in the same order. Channels that are inactive in
    the teacher, and those that only one of the two has, are omitted.
    """
    pairs, student_offset, teacher_offset = [], 0, 0
    sizes = [count for count, *_ in config.filters] + list(config.layers)
    for number, size in zip((*FRONT_END, *MID_END), sizes, strict=True):
        active = network.filters(number)[2]
        teacher_idx = active.nonzero().flatten()
        student_idx = torch.arange(len(teacher_idx))
        pairs.append((student_offset + student_idx, teacher_offset + teacher_idx))
        student_offset, teacher_offset = student_offset + size, teacher_offset + len(active)
    return pairs


@torch.no_grad()
def init_from_musicnn(model: Feelprint, network: MusicnnNetwork) -> None:
    """Copy the active filters and layers of ``network`` into ``model``'s window CNN.

    The projection to tokens and the head are not changed. The teacher pools two of the 64 filters
    by their minimum over frequency; the student pools all of them by their maximum, and training
    corrects these two.

    Raises:
        ConfigError: the student has fewer filters than are active in the teacher, or fewer or
            smaller layers.
    """
    config, cnn = model.config, model.cnn
    found = [count for count, *_ in config.filters], list(config.layers)
    wanted = tuple([int(network.filters(n)[2].sum()) for n in end] for end in (FRONT_END, MID_END))
    if any(
        len(has) != len(needs) or any(map(operator.lt, has, needs))
        for has, needs in zip(found, wanted, strict=True)
    ):
        raise ConfigError(
            f"a student that is initialised from musicnn has {wanted[0]} filters or more, and "
            f"layers of {wanted[1]} or more; got {found[0]} and {found[1]}"
        )
    # the teacher's normalised log-mel is a linear function of the student's
    scale, shift = (float(one) for one in network.affine(0))
    slope = scale * LOG_MEL_STD / math.log(10)
    offset = scale * (LOG_MEL_MEAN / math.log(10) + TEACHER_LEVEL) + shift
    for number, filters, (_, mels, frames, _) in zip(
        FRONT_END, cnn.filters, config.filters, strict=True
    ):
        assert isinstance(filters, FrequencyPooledConv) and filters.conv.bias is not None
        weight, bias, active = network.filters(number)  # long ones are (filters, 1, frames)
        weight = resampled(weight, mels, frames)
        count = len(weight)
        filters.conv.weight[:count] = (weight * slope).unsqueeze(1)
        filters.conv.bias[:count] = bias[active] + offset * weight.sum(dim=(1, 2))
    channels = [student_idx for student_idx, _ in channel_map(config, network)]
    for depth, (number, layer) in enumerate(zip(MID_END, cnn.layers, strict=True)):
        assert isinstance(layer, TemporalConv) and layer.conv.bias is not None
        weight, bias, active = network.filters(number)  # (active, in_channels, 7)
        rows, frames = torch.arange(len(weight)), config.layer_frames
        weight = resampled(weight.flatten(0, 1).unsqueeze(1), 1, frames).view(
            *weight.shape[:2], frames
        )
        layer.conv.weight[rows] = 0.0  # of input channels that only the student has
        layer.conv.bias[rows] = bias[active]
        # both concatenate the front end's outputs; the temporal convolutions before this one are
        # summed in the teacher and concatenated in the student
        earlier = MID_END[:depth] or FRONT_END
        sizes = [len(network.filters(each)[1]) for each in earlier]
        parts = [weight] * depth or weight.split(sizes, dim=1)
        student_offset = sum(found[0]) if depth else 0  # later layers do not take the filters
        for each, part in zip(earlier, parts, strict=True):
            _, bias, active = network.filters(each)
            scales, shifts = network.affine(each + 1)
            student_idx = channels[each] - student_offset
            layer.scale[student_idx, 0, 0] = scales[active]
            layer.shift[student_idx, 0, 0] = shifts[active]
            layer.conv.weight[rows[:, None], student_idx] = part[:, active].unsqueeze(2)
            constant = F.relu(bias) * scales + shifts  # the output of an inactive filter
            layer.conv.bias[rows] += part[:, ~active].sum(dim=2) @ constant[~active]


@dataclass(frozen=True)
class ChannelTargets:
    """The target of each of the student's channels: the corresponding channel of the teacher.

    ``channels`` (n,) are the student's indices into `WindowCNN.pooled_features`; ``projection``
    (753, n) maps the teacher's means to the targets, ``mean`` and ``scale`` (n,) standardise them.
    A channel that the teacher lacks has no target.
    """

    channels: Tensor
    projection: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Teacher means of clips (clips, dim), musicnn's first -> targets (clips, n)."""
        means = clips[:, MEANS].astype(np.float32)
        return (means @ self.projection - self.mean) / self.scale


def fit_channel_targets(
    model: Feelprint, network: MusicnnNetwork, clips: np.ndarray
) -> ChannelTargets:
    """The targets of a student that was initialised from ``network``.

    ``clips`` (clips, 1506) are the teacher's embeddings of music, for the mean and the scale.
    """
    pairs = channel_map(model.config, network)
    student_idx, teacher_idx = (torch.cat(each) for each in zip(*pairs, strict=True))
    projection = np.eye(FRAME_DIM, dtype=np.float32)
    for number, (_, later) in zip(MID_END[1:], pairs[len(FRONT_END) + 1 :], strict=True):
        # the teacher adds the convolution before to its output; the target is the difference
        projection[later - len(network.filters(number)[1]), later] = -1.0
    projection = projection[:, teacher_idx]
    targets = clips[:, MEANS].astype(np.float32) @ projection
    return ChannelTargets(
        student_idx, projection, targets.mean(axis=0), safe_std(targets.std(axis=0))
    )
