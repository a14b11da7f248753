"""The student's promises: any length is valid; padding, silence and loudness have no effect."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.export import run_onnxruntime, run_tract
from student import ConfigError, Feelprint, FeelprintConfig
from student.frontend import activity_mask, masked_mean
from student.model import TemporalConv

WINDOW = FeelprintConfig().window_length
RELEASED = Path(__file__).parents[2] / "rust" / "models"
LENGTHS = [1, 2_047, WINDOW - 1, WINDOW, WINDOW + 1, 4 * WINDOW + 3]


def music(batch: int, samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((batch, samples)) * 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> Feelprint:
    """A student with batch-norm statistics and a linear metric that is not the identity."""
    torch.manual_seed(0)
    made = Feelprint().train()
    torch.nn.init.uniform_(made.cnn.norm.weight, 0.5, 2.0)
    torch.nn.init.normal_(made.cnn.norm.bias, std=0.2)
    for each in made.cnn.layers:  # of either sign
        torch.nn.init.normal_(each.scale)
        torch.nn.init.normal_(each.shift)
    with torch.inference_mode():
        for seed in range(20):
            made(torch.from_numpy(music(4, 2 * WINDOW, seed)))
    made.head.metric_transform.copy_(torch.randn(32, 32) * 32**-0.5)
    return made.eval()


@torch.inference_mode()
def embed(model: Feelprint, audio: np.ndarray) -> np.ndarray:
    return model(torch.from_numpy(audio)).numpy()


@pytest.mark.parametrize("samples", LENGTHS)
def test_any_length_gives_an_embedding(model: Feelprint, samples: int) -> None:
    made = embed(model, music(3, samples))
    assert made.shape == (3, 32)
    assert np.isfinite(made).all()


@pytest.mark.parametrize(
    "samples", [WINDOW, 24 * WINDOW, 26 * WINDOW, 26 * WINDOW + 1, 41 * WINDOW]
)
@torch.inference_mode()
def test_a_long_track_is_embedded_from_the_windows_of_the_rule(
    model: Feelprint, samples: int
) -> None:
    """The first 24 windows, then 26, 30, 34, ..., each of which counts as four."""
    audio = torch.from_numpy(music(2, samples))
    every = dataclasses.replace(model.config, dense_windows=0, window_stride=1)
    whole = Feelprint(every).eval()
    whole.load_state_dict(model.state_dict())
    tokens, nonsilent_ratio = whole.encode(audio)
    used = [at for at in range(tokens.shape[1]) if at < 24 or at % 4 == 2]
    counts = torch.tensor([1.0 if at < 24 else 4.0 for at in used])
    want = whole.pool(tokens[:, used], nonsilent_ratio[:, used] * counts)[0]
    assert torch.allclose(model(audio), want, atol=1e-6)
    zeros = audio.new_zeros(2, 9 * WINDOW)
    assert torch.allclose(model(torch.cat([audio, zeros], dim=1)), want, atol=1e-6)


def test_a_saved_model_without_a_rule_uses_every_window() -> None:
    assert FeelprintConfig().window_stride == 4
    old = Feelprint({"dim": 64}).config
    assert (old.dense_windows, old.window_stride, old.dim) == (0, 1, 64)


@pytest.mark.parametrize(("dense", "stride"), [(24, 0), (-4, 4), (25, 4)])
def test_an_impossible_rule_is_refused(dense: int, stride: int) -> None:
    with pytest.raises(ConfigError, match=f"dense_windows, got {stride} and {dense}"):
        FeelprintConfig(dense_windows=dense, window_stride=stride)


@torch.inference_mode()
def test_shapes_inside(model: Feelprint) -> None:
    audio = torch.from_numpy(music(2, 2 * WINDOW + 1))
    tokens, window_weight = model.encode(audio)
    embedding, attention = model.pool(tokens, window_weight)
    assert tokens.shape == (2, 4, 128)  # padded to a multiple of `window_stride` windows
    assert window_weight.shape == (2, 4)
    assert attention.shape == (2, 4, 4)
    assert torch.equal(embedding, model(audio))
    unit, _ = model.head.unit_embedding(tokens, window_weight)
    assert torch.allclose(unit.norm(dim=1), torch.ones(2))
    assert torch.allclose(unit @ model.head.metric_transform, embedding)
    assert not torch.allclose(unit, embedding, atol=0.1)
    assert torch.allclose(attention.sum(dim=2), torch.ones(2, 4))


def test_the_parameters_are_few(model: Feelprint) -> None:
    assert sum(p.numel() for p in model.parameters()) <= 1_250_000


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "tract"])
def test_zeros_at_the_end_change_nothing(exported: tuple[Feelprint, Path], runtime: str) -> None:
    model, path = exported
    run = {
        "torch": lambda audio: embed(model, audio),
        "onnxruntime": lambda audio: run_onnxruntime(path, audio),
        "tract": lambda audio: run_tract(path, audio),
    }[runtime]
    audio = music(2, 2 * WINDOW + 100)
    for zeros in (1, WINDOW, 7 * WINDOW):
        assert np.abs(run(np.pad(audio, ((0, 0), (0, zeros)))) - run(audio)).max() < 1e-5


# the maxima include the silent frames, which are not masked again behind the filters
@pytest.mark.parametrize(("share", "most"), [(0.4, 0.6), (0.6, 0.6), (0.8, 0.35)])
@torch.inference_mode()
def test_a_window_that_ends_early_acts_as_a_shorter_window(
    model: Feelprint, share: float, most: float
) -> None:
    whole = music(8, WINDOW, seed=3)
    whole[:4, 1:] += 0.9 * whole[:4, :-1]  # two groups, dull and white
    ends = whole.copy()
    ends[:, round(share * WINDOW) :] = 0.0
    (full, _), (log_mel, window_weight) = (
        model.log_mel_windows(torch.from_numpy(x)) for x in (whole, ends)
    )
    assert (window_weight[:, 0] - share).abs().max() < 2 / model.config.window_frames
    full_features, short = (model.cnn.pooled_features(x[:, 0]) for x in (full, log_mel))
    between = (full_features[:4].mean(dim=0) - full_features[4:].mean(dim=0)).norm()
    assert (short.mean(dim=0) - full_features.mean(dim=0)).norm() < most * between
    # without the mask the silence would move it farther than the groups are from each other
    unmasked = log_mel.mean(dim=(0, 1, 3)) - full_features[:, -model.config.n_mels :].mean(dim=0)
    assert unmasked.norm() > between


@torch.inference_mode()
def test_the_values_of_a_silent_frame_have_no_effect(model: Feelprint) -> None:
    log_mel = torch.full((1, 64, 32), math.log(model.config.floor))
    log_mel[..., :9] = torch.randn(64, 9, generator=torch.Generator().manual_seed(0)) - 2.7
    activity = activity_mask(log_mel, model.config.floor)
    assert activity.flatten().tolist() == [1.0] * 9 + [0.0] * 23
    shown = log_mel.clone()
    shown[..., 9:] = 5.0  # any value
    maps, other = (model.cnn.feature_maps(x, activity) for x in (log_mel, shown))
    assert torch.equal(maps, other) and maps[..., :9].any()


@torch.inference_mode()
def test_the_features_are_each_channels_mean_and_maximum_and_the_mean_log_mel(
    model: Feelprint,
) -> None:
    log_mel, window_weight = (
        x[:, 0] for x in model.log_mel_windows(torch.from_numpy(music(3, WINDOW)))
    )
    assert window_weight.tolist() == [1.0] * 3
    everywhere = torch.ones(3, 1, 1, model.config.window_frames)
    maps = model.cnn.feature_maps(log_mel, everywhere).squeeze(2)
    wanted = torch.cat([maps.mean(dim=2), maps.amax(dim=2), log_mel.mean(dim=2)], dim=1)
    assert torch.allclose(model.cnn.pooled_features(log_mel), wanted, atol=1e-5)


def test_a_mean_is_over_the_nonsilent_frames_or_over_all_where_none_is() -> None:
    values = torch.tensor([[[1.0, 2.0, 6.0], [4.0, 0.0, 2.0]]])
    for nonsilent_ratio, want in (
        ([1, 1, 0], [1.5, 2.0]),
        ([0, 0, 1], [6.0, 2.0]),
        ([0, 0, 0], [3.0, 2.0]),
    ):
        made = masked_mean(values, torch.tensor(nonsilent_ratio).float().view(1, 1, 1, 3))
        assert torch.allclose(made, torch.tensor([want]))


def test_without_the_mask_silence_would_change_the_embedding(model: Feelprint) -> None:
    tokens, window_weight = model.encode(
        torch.from_numpy(np.pad(music(1, WINDOW), ((0, 0), (0, WINDOW))))
    )
    masked, attention = model.pool(tokens, window_weight)
    unmasked, _ = model.pool(tokens, torch.ones_like(window_weight))
    assert window_weight.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert attention[..., 1:].abs().max() < 1e-20
    assert (masked - unmasked).abs().max() > 1e-3


def test_silence_has_one_embedding(model: Feelprint) -> None:
    one = embed(model, np.zeros((1, 1), np.float32))
    assert np.isfinite(one).all()
    for samples in LENGTHS:
        assert np.abs(embed(model, np.zeros((1, samples), np.float32)) - one).max() < 1e-6


def test_a_track_does_not_depend_on_its_batch(model: Feelprint) -> None:
    audio = music(3, 3 * WINDOW)
    audio[1] = 0
    alone = np.concatenate([embed(model, audio[i : i + 1]) for i in range(3)])
    assert np.abs(embed(model, audio) - alone).max() < 1e-6


@torch.inference_mode()
def test_windows_are_independent(model: Feelprint) -> None:
    audio = torch.from_numpy(music(1, 3 * WINDOW))
    whole = model.encode(audio)[0]
    middle = model.encode(audio[:, WINDOW : 2 * WINDOW])[0][:, :1]
    assert (whole[:, 1:2] - middle).abs().max() < 1e-5


@pytest.mark.parametrize("gain", [0.01, 20.0])
def test_loudness_has_no_effect(model: Feelprint, gain: float) -> None:
    audio = music(2, 2 * WINDOW)
    assert (
        np.abs(embed(model, (gain * audio).astype(np.float32)) - embed(model, audio)).max() < 1e-4
    )


def test_different_music_has_different_embeddings(model: Feelprint) -> None:
    t = np.arange(2 * WINDOW) / 22_050
    tone = np.sin(2 * np.pi * 220 * t).astype(np.float32)[None]
    assert np.abs(embed(model, tone) - embed(model, music(1, 2 * WINDOW))).max() > 0.01


def test_the_fused_form_is_exact_to_float16(model: Feelprint) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fused = model.fold_for_inference()
    assert [spec[0] for spec in fused.config.filters] == [32, 16, 32]
    assert len(model.cnn.filters) == 5
    assert not any(name.endswith(("scale", "shift")) or "norm" in name
                   for name, _ in fused.cnn.named_parameters())  # fmt: skip
    audio = music(2, 3 * WINDOW)
    difference = np.abs(embed(fused, audio) - embed(model, audio)).max()
    assert 0 < difference < 5e-3
    for weight in (*fused.parameters(), fused.head.metric_transform):
        assert torch.equal(weight, weight.half().float())
    assert fused.fold_for_inference() is fused
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@torch.inference_mode()
def test_a_folded_layer_computes_the_same_at_a_windows_ends_too() -> None:
    torch.manual_seed(0)
    layer, folded = TemporalConv(6, 5, 4, fused=False), TemporalConv(6, 5, 4, fused=True)
    torch.nn.init.normal_(layer.scale)  # of either sign
    torch.nn.init.normal_(layer.shift)
    weight, bias = layer.fold()
    folded.load_state_dict({"conv.weight": weight, "conv.bias": bias})
    x = torch.relu(torch.randn(3, 6, 1, 9))
    assert (layer(x) - folded(x)).abs().max() < 1e-5
    assert (layer(x)[..., 0] > 0).any() and (layer(x)[..., -1] > 0).any()


def test_what_is_saved_is_loaded(model: Feelprint, tmp_path: Path) -> None:
    fused = model.fold_for_inference()
    fused.save(str(tmp_path))
    again = Feelprint.from_pretrained(str(tmp_path)).eval()
    assert again.config == fused.config
    audio = music(1, WINDOW)
    assert np.array_equal(embed(again, audio), embed(fused, audio))


def test_a_saved_model_with_an_unknown_key_is_refused(model: Feelprint, tmp_path: Path) -> None:
    model.save(str(tmp_path))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"n_mels"', '"mels"'))
    with pytest.raises(ConfigError, match="unknown key mels"):
        Feelprint.from_pretrained(str(tmp_path))


def test_the_names_of_models_up_to_0_10_are_still_read(model: Feelprint, tmp_path: Path) -> None:
    model.save(str(tmp_path))
    path, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights = load_file(path)
    save_file({k.replace("metric_transform", "stretch"): v for k, v in weights.items()}, path)
    config.write_text(config.read_text().replace('"fused"', '"folded"'))
    again = Feelprint.from_pretrained(str(tmp_path)).eval()
    assert torch.equal(again.head.metric_transform, model.head.metric_transform)
    audio = music(1, WINDOW)
    assert np.array_equal(embed(again, audio), embed(model, audio))


@torch.inference_mode()
def test_the_released_model_computes_what_its_onnx_file_does() -> None:
    released = Feelprint.from_pretrained(str(RELEASED)).eval()
    audio = music(1, 3 * WINDOW + 5)
    want = run_onnxruntime(RELEASED / "feelprint.onnx", audio)
    assert np.abs(embed(released, audio) - want).max() < 1e-4


@pytest.mark.parametrize(("old", "new"), [("head.out.bias", "head.out.bios"), ("head.key", "key")])
def test_a_lost_weight_is_refused(model: Feelprint, tmp_path: Path, old: str, new: str) -> None:
    model.save(str(tmp_path))
    path = tmp_path / "model.safetensors"
    save_file({k.replace(old, new): v for k, v in load_file(path).items()}, path)
    with pytest.raises(RuntimeError, match=f'Missing key.* "{old}'):
        Feelprint.from_pretrained(str(tmp_path))


@torch.inference_mode()
def test_another_shape_works_as_well() -> None:
    config = dataclasses.replace(
        FeelprintConfig(),
        n_fft=512,
        hop_length=256,
        n_mels=32,
        filters=((8, 20, 4, 3), (4, 1, 9, 5)),
        layers=(12,),
        layer_frames=3,
        dim=24,
        queries=2,
    )
    small = Feelprint(config).eval()
    assert small(torch.zeros(2, 10_000)).shape == (2, 32)


def test_the_names_of_models_up_to_0_10_are_read(model: Feelprint, tmp_path: Path) -> None:
    fused = model.fold_for_inference()
    fused.save(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k.replace("metric_transform", "stretch"): v for k, v in weights.items()},
        tmp_path / "model.safetensors",
    )
    config = json.loads((tmp_path / "config.json").read_text())
    config["folded"] = config.pop("fused")
    (tmp_path / "config.json").write_text(json.dumps(config))
    old = Feelprint.from_pretrained(str(tmp_path))
    assert old.config == fused.config
    assert torch.equal(old.head.metric_transform, fused.head.metric_transform)


def test_a_missing_weight_is_an_error(model: Feelprint, tmp_path: Path) -> None:
    model.fold_for_inference().save(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["head.metric_transform"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="metric_transform"):
        Feelprint.from_pretrained(str(tmp_path))
