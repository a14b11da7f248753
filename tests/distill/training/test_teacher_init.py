"""A student initialised from its teacher computes the same at the teacher's resolution."""

import dataclasses
import math
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.teachers import musicnn
from distill.training.teacher_init import (
    TEACHER_LEVEL,
    fit_channel_targets,
    init_from_musicnn,
    resampled,
)
from student import ConfigError, Feelprint, FeelprintConfig

FULL = FeelprintConfig(
    sample_rate=musicnn.SAMPLE_RATE,
    n_fft=musicnn.N_FFT,
    hop_length=musicnn.HOP_LENGTH,
    n_mels=musicnn.N_MELS,
    window_frames=musicnn.PATCH_FRAMES,
    filters=((23, 38, 7, 1), (14, 67, 7, 1), (3, 1, 128, 1), (7, 1, 64, 1), (17, 1, 32, 1)),
    layer_frames=7,
)


@pytest.fixture(scope="module")
def network(wheel_folder: Path) -> musicnn.MusicnnNetwork:
    """The teacher, with the maximum pooled for every filter; for two of 64 it is the minimum."""
    found = musicnn.load_network(wheel_folder)
    for number in range(1, 6):
        found.variables[f"batch_normalization_{number}/gamma"].abs_()
    return found


def music() -> torch.Tensor:
    """Two chords with a pulse, and noise: (3, window) samples at the teacher's rate."""
    t = torch.arange(musicnn.PATCH_SAMPLES - 1) / musicnn.SAMPLE_RATE
    pulse = torch.exp(-8 * (t * 2 % 1))
    low, high = (sum(torch.sin(2 * math.pi * hz * k * t) / k for k in range(1, 6) for hz in chord)
                 for chord in ((110, 139, 165), (440, 523, 660)))  # fmt: skip
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    return torch.stack([0.1 * low, 0.05 * high * pulse + 0.01 * noise, 0.2 * noise * pulse])


ACTIVE = (64, 20, 61, 63)  # channels of the teacher: front end, temporal convolutions
EDGE = 80  # frames at a window's ends, where the two pad differently


@pytest.mark.parametrize("layers", [(64, 64, 64), (20, 61, 63)])
@torch.inference_mode()
def test_at_the_teachers_resolution_it_computes_the_teachers_channels(
    network: musicnn.MusicnnNetwork, layers: tuple[int, ...]
) -> None:
    shape = dataclasses.replace(FULL, layers=layers)
    model = Feelprint(shape).eval()
    init_from_musicnn(model, network)
    log_mel = musicnn.log_mel(music()).transpose(1, 2)  # (windows, mels, frames)
    frames = network.frames(log_mel.transpose(1, 2))
    targets = fit_channel_targets(model, network, network.pool(frames).numpy())
    begins = (0, *accumulate((64, *layers[:2])))
    counted = [torch.arange(n) + at for n, at in zip(ACTIVE, begins, strict=True)]
    assert torch.equal(targets.channels, torch.cat(counted))
    want = frames.transpose(1, 2) @ torch.from_numpy(
        targets.projection
    )  # (windows, frames, channels)
    # a channel's scale and shift belong to the layer that takes it; no layer takes the last ones
    cnn, last = model.cnn, network.filters(7)[2]
    ends = [(one.scale.flatten(), one.shift.flatten()) for one in (cnn.layers[0], cnn.layers[2])]
    ends.append(tuple(one[last] for one in network.affine(8)))
    scale, shift = (torch.cat(each)[targets.channels] for each in zip(*ends, strict=True))
    varies = want.std(dim=1).amax(dim=0) > 1e-3
    assert varies.sum() > 120

    def error(student: Feelprint) -> float:
        mel = (log_mel - TEACHER_LEVEL) * math.log(10)
        maps = student.cnn.feature_maps(mel, torch.ones(len(mel), 1, 1, mel.shape[2]))
        maps = maps[:, targets.channels, 0].transpose(1, 2) * scale + shift
        inner = (slice(None), slice(EDGE, -EDGE), varies)
        return float((maps - want)[inner].abs().max() / want[inner].std())

    assert error(model) < 0.02
    assert error(Feelprint(shape).eval()) > 0.5


@torch.inference_mode()
def test_additional_channels_have_no_effect_before_training(
    network: musicnn.MusicnnNetwork,
) -> None:
    same = Feelprint(FULL).eval()
    init_from_musicnn(same, network)
    filters = tuple((count + 2, *shape) for count, *shape in FULL.filters)
    wide = Feelprint(dataclasses.replace(FULL, filters=filters, layers=(70, 66, 64))).eval()
    init_from_musicnn(wide, network)
    log_mel = (musicnn.log_mel(music()).transpose(1, 2) - TEACHER_LEVEL) * math.log(10)
    clips = network.pool(network.frames(musicnn.log_mel(music()))).numpy()
    targets = fit_channel_targets(wide, network, clips)
    assert len(targets.channels) == sum(ACTIVE)
    wider = wide.cnn.pooled_features(log_mel)[:, targets.channels]
    narrow = same.cnn.pooled_features(log_mel)[
        :, fit_channel_targets(same, network, clips).channels
    ]
    assert torch.allclose(wider, narrow, atol=1e-4)
    values = targets(clips)
    with_another_teacher = np.concatenate([clips, np.ones((len(clips), 9), np.float32)], axis=1)
    assert np.array_equal(targets(with_another_teacher), values)
    varies = values.std(axis=0) > 0.1
    assert np.allclose(values.mean(axis=0), 0, atol=1e-4)
    assert np.allclose(values.std(axis=0)[varies], 1, atol=1e-3) and varies.sum() > 150


@torch.inference_mode()
def test_at_the_students_resolution_the_channels_correlate(network: musicnn.MusicnnNetwork) -> None:
    model = Feelprint().eval()
    init_from_musicnn(model, network)
    audio = torch.randn(12, 22_528, generator=torch.Generator().manual_seed(1))
    tilt = torch.linspace(0.02, 0.98, 12).unsqueeze(1)
    for n in range(1, audio.shape[1]):  # noise from white to low-pass
        audio[:, n] += tilt[:, 0] * audio[:, n - 1]
    features = model.cnn.pooled_features(model.log_mel(audio)[0])
    at_16k = torch.nn.functional.interpolate(audio.unsqueeze(1), 16_346, mode="linear")[:, 0]
    level = 10 ** (-13 / 20)
    at_16k = at_16k * (level / at_16k.square().mean(dim=1, keepdim=True).sqrt())
    pooled = network.pool(network.frames(musicnn.log_mel(at_16k))).numpy()
    targets = fit_channel_targets(model, network, pooled)
    wanted = torch.from_numpy(targets(pooled))
    correlations = [
        torch.corrcoef(torch.stack([own, target]))[0, 1]
        for own, target in zip(features.T[targets.channels], wanted.T, strict=True)
        if target.std() > 0.05
    ]
    assert len(correlations) > 50 and torch.stack(correlations).nanmedian() > 0.6


def test_a_resampled_filter_has_the_same_sum() -> None:
    weight = torch.randn(5, 38, 7, generator=torch.Generator().manual_seed(0))
    ones = resampled(torch.ones(1, 38, 7), 25, 4)
    assert ones.shape == (1, 25, 4)
    assert ones.sum().item() == pytest.approx(38 * 7, rel=1e-4)
    assert torch.allclose(resampled(weight, 38, 7), weight, atol=1e-5)


@pytest.mark.parametrize("changed", [{"filters": ((24, 25, 4, 2),)}, {"layers": (32, 32, 32)}])
def test_a_student_of_another_shape_is_refused(
    network: musicnn.MusicnnNetwork, changed: dict[str, object]
) -> None:
    model = Feelprint(dataclasses.replace(FeelprintConfig(), **changed))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"\[23, 14, 3, 7, 17\] filters or more, and"):
        init_from_musicnn(model, network)
