"""A student starts as its teacher: at the teacher's resolution it hears what the teacher hears."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from distill import musicnn
from distill.start import TEACHER_LEVEL, resampled, same_channels, start_as_teacher
from student import ConfigError, Feelprint, FeelprintConfig

FULL = FeelprintConfig(
    sample_rate=musicnn.SAMPLE_RATE,
    n_fft=musicnn.N_FFT,
    hop_length=musicnn.HOP_LENGTH,
    n_mels=musicnn.N_MELS,
    window_frames=musicnn.PATCH_FRAMES,
    filters=((23, 38, 7, 1), (14, 67, 7, 1), (3, 1, 128, 1), (7, 1, 64, 1), (17, 1, 32, 1)),
    frame_step=1,
    layer_frames=7,
)


@pytest.fixture(scope="module")
def network(wheel_folder: Path) -> musicnn.MusicnnNetwork:
    """The teacher, with every filter heard where it answers most: two of 64 are not."""
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


@torch.inference_mode()
def test_at_the_teachers_resolution_it_hears_what_the_teacher_hears(
    network: musicnn.MusicnnNetwork,
) -> None:
    model = Feelprint(FULL).eval()
    start_as_teacher(model, network)
    log_mel = musicnn.log_mel(music()).transpose(1, 2)  # (windows, mels, frames)
    living = torch.cat([network.filters(n)[2] for n in range(5)] + [torch.ones(192) > 0])
    want = network.frames(log_mel.transpose(1, 2)).mean(dim=2)[:, living]
    got = model.cnn.heard((log_mel - TEACHER_LEVEL) * math.log(10))
    # what lies beyond a window's ends is nearly, but not quite, the same for both
    assert (got - want).abs().max() < 0.02 * want.std()
    untrained = Feelprint(FULL).eval().cnn.heard((log_mel - TEACHER_LEVEL) * math.log(10))
    assert (untrained - want).abs().max() > 0.5 * want.std()


@torch.inference_mode()
def test_at_its_own_resolution_it_still_follows(network: musicnn.MusicnnNetwork) -> None:
    model = Feelprint().eval()
    start_as_teacher(model, network)
    audio = torch.randn(12, 22_528, generator=torch.Generator().manual_seed(1))
    tilt = torch.linspace(0.02, 0.98, 12).unsqueeze(1)
    for n in range(1, audio.shape[1]):  # noise from white to dull
        audio[:, n] += tilt[:, 0] * audio[:, n - 1]
    tokens = model.cnn.heard(model.log_mel(audio)[0])
    at_16k = torch.nn.functional.interpolate(audio.unsqueeze(1), 16_346, mode="linear")[:, 0]
    level = 10 ** (-13 / 20)
    at_16k = at_16k * (level / at_16k.square().mean(dim=1, keepdim=True).sqrt())
    heard = network.frames(musicnn.log_mel(at_16k)).mean(dim=2)
    living = torch.cat([network.filters(n)[2] for n in range(5)] + [torch.ones(192) > 0])
    likeness = [
        torch.corrcoef(torch.stack([mine, its]))[0, 1]
        for mine, its in zip(tokens.T, heard[:, living].T, strict=True)
        if its.std() > 0.05
    ]
    assert len(likeness) > 50 and torch.stack(likeness).nanmedian() > 0.6


def test_each_channel_has_its_counterpart(network: musicnn.MusicnnNetwork) -> None:
    """At the teacher's resolution the two numbers of a pair name the same answers."""
    kinds = [(count + 2, *shape) for count, *shape in FULL.filters]  # two more than the teacher has
    model = Feelprint(dataclasses.replace(FULL, filters=tuple(kinds))).eval()
    start_as_teacher(model, network)
    mine, its = same_channels(model, network)
    assert len(mine) == len(its) == 64 + 192
    log_mel = musicnn.log_mel(music())
    with torch.inference_mode():
        want = network.frames(log_mel).mean(dim=2)
        got = model.cnn.heard((log_mel.transpose(1, 2) - TEACHER_LEVEL) * math.log(10))
    moves = want[:, its].std(dim=0) > 1e-3
    assert moves.sum() > 150
    likeness = torch.nn.functional.cosine_similarity(
        got[:, mine][:, moves] - got[:, mine][:, moves].mean(dim=0),
        want[:, its][:, moves] - want[:, its][:, moves].mean(dim=0),
        dim=0,
    )
    assert likeness.min() > 0.99


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
        start_as_teacher(model, network)
