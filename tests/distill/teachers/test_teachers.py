"""MERT and CLAP with tiny checkpoints, loaded as the published ones are; and the mean spectrum."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers import ClapFeatureExtractor, Wav2Vec2FeatureExtractor

from distill.config import TeacherConfig
from distill.teachers import pretrained
from distill.teachers.base import Teacher, TeacherError
from distill.teachers.pretrained import find_checkpoint
from distill.teachers.registry import load_teacher as load_for
from student import Feelprint, FeelprintConfig
from student.frontend import LogMel
from tests.distill.teachers.checkpoints import MERT_LAYERS, as_published, write_clap, write_mert


def load_teacher(config: TeacherConfig) -> Teacher:
    return load_for(config, FeelprintConfig())


def mert(folder: Path, *layers: int) -> TeacherConfig:
    return TeacherConfig(name="mert", path=str(folder), layers=layers)


def audio(seconds: float, sample_rate: int) -> torch.Tensor:
    """Two windows, quiet and off centre, so that normalising them matters."""
    made = np.random.default_rng(0).standard_normal((2, round(seconds * sample_rate)))
    return torch.from_numpy((0.05 * made + 0.02).astype(np.float32))


@pytest.mark.parametrize("stable", [False, True], ids=["95M", "330M"])
@torch.inference_mode()
def test_mert_is_the_mean_over_time_of_its_layers(tmp_path: Path, stable: bool) -> None:
    model = write_mert(tmp_path, stable)
    windows = audio(5, 24_000)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    inputs = np.stack(extractor(list(windows.numpy()), sampling_rate=24_000)["input_values"])
    made = model(torch.from_numpy(inputs), output_hidden_states=True)
    states = [*made.hidden_states[:-1], made.last_hidden_state]
    for layers in ((), (0,), (1,), (2, 3), (MERT_LAYERS,)):
        teacher = load_teacher(mert(tmp_path, *layers))
        want = torch.stack([states[layer] for layer in layers or (MERT_LAYERS,)]).mean(dim=(0, 2))
        assert teacher.window == windows.shape[1]
        assert teacher(windows).shape == (2, teacher.dim)
        assert (teacher(windows) - want).abs().max() < 1e-5
    if stable:  # the last hidden state lacks the final norm
        assert (made.hidden_states[-1] - made.last_hidden_state).abs().max() > 0.01


def test_mert_loads_the_hubs_format(tmp_path: Path) -> None:
    write_mert(tmp_path)
    windows = audio(5, 24_000)
    before = load_teacher(mert(tmp_path))(windows)
    as_published(tmp_path)
    assert torch.equal(load_teacher(mert(tmp_path))(windows), before)


def test_merts_name_licence_and_key(tmp_path: Path) -> None:
    folder = tmp_path / "MERT-v1-95M"
    write_mert(folder)
    teacher, other = load_teacher(mert(folder, 1, 2)), load_teacher(mert(folder))
    assert teacher.name == "MERT-v1-95M-layer-1-2"
    assert teacher.licence == "CC-BY-NC-4.0"
    assert teacher.revision.startswith("sha256-")
    assert teacher.key() == {
        "name": "mert", "revision": teacher.revision, "layers": [1, 2], "window": 120_000
    }  # fmt: skip
    assert other.key() == teacher.key() | {"layers": [MERT_LAYERS]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deepnorm": True}, "deepnorm"),
        ({"feature_extractor_cqt": True}, "feature_extractor_cqt"),
        ({"model_type": "data2vec-audio"}, "expected a mert_model"),
        ({"num_hidden_layers": MERT_LAYERS + 1}, r"not a MERT-v1 checkpoint: \d+ weights"),
        ({"num_hidden_layers": MERT_LAYERS - 1}, r"not a MERT-v1 checkpoint: \d+ weights"),
        ({"hidden_size": 64}, "cannot be loaded|not a MERT-v1 checkpoint"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    write_mert(tmp_path, **settings)
    with pytest.raises(TeacherError, match=message):
        load_teacher(mert(tmp_path))


def test_a_layer_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    write_mert(tmp_path)
    with pytest.raises(TeacherError, match=r"layers 0 to 3, got \[2, 4\]"):
        load_teacher(mert(tmp_path, 2, 4))


def test_another_sampling_rate_is_refused(tmp_path: Path) -> None:
    write_mert(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(path.read_text().replace("24000", "16000"))
    with pytest.raises(TeacherError, match="has a sampling rate of 16000 Hz"):
        load_teacher(mert(tmp_path))


@torch.inference_mode()
def test_clap_is_the_normalised_audio_embedding(tmp_path: Path) -> None:
    model = write_clap(tmp_path)
    teacher = load_teacher(TeacherConfig(name="clap", path=str(tmp_path)))
    windows = audio(10, 48_000)
    assert teacher.window == windows.shape[1]
    extractor = ClapFeatureExtractor.from_pretrained(tmp_path)
    inputs = extractor(list(windows.numpy()), sampling_rate=48_000, return_tensors="pt")
    assert (teacher.log_mel(windows) - inputs["input_features"]).abs().max() < 1e-3  # decibels
    want = model.get_audio_features(**inputs).pooler_output
    made = teacher(windows)
    assert made.shape == (2, teacher.dim) == (2, 40)
    assert (made - want).abs().max() < 1e-5
    assert (made.norm(dim=1) - 1).abs().max() < 1e-6
    assert teacher.licence == "Apache-2.0"
    assert not any(name.startswith("text") for name, _ in teacher.model.named_parameters())


def test_a_fused_clap_is_refused(tmp_path: Path) -> None:
    write_clap(tmp_path, truncation="fusion")
    with pytest.raises(TeacherError, match="fused CLAP"):
        load_teacher(TeacherConfig(name="clap", path=str(tmp_path)))


def test_a_clap_without_its_audio_tower_is_refused(tmp_path: Path) -> None:
    write_clap(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    settings["audio_config"]["depths"] = [1, 2]
    path.write_text(json.dumps(settings))
    with pytest.raises(
        TeacherError, match=r"not a CLAP checkpoint: \d+ weights of the audio tower"
    ):
        load_teacher(TeacherConfig(name="clap", path=str(tmp_path)))


OTHER_FRONT_END = FeelprintConfig(n_fft=512, hop_length=256, n_mels=48, floor=1e-4)


@pytest.mark.parametrize("student", [FeelprintConfig(), OTHER_FRONT_END])
def test_the_spectrum_is_the_mean_log_mel_of_the_runs_student(student: FeelprintConfig) -> None:
    teacher = load_for(TeacherConfig(name="spectrum"), student)
    model = Feelprint(student).eval()
    noise = audio(teacher.window / student.sample_rate, student.sample_rate)
    made = teacher(noise)
    assert made.shape == (2, teacher.dim) == (2, student.n_mels)
    with torch.inference_mode():
        log_mel, _ = model.log_mel_windows(noise)
        features = model.cnn.pooled_features(log_mel.flatten(0, 1)).unflatten(0, (2, -1))
        features = features[:, : teacher.windows]  # the others are padding
    assert (made - features.mean(dim=1)[:, -student.n_mels :]).abs().max() < 1e-5
    assert (teacher(0.1 * noise) - made).abs().max() < 1e-5  # a gain changes nothing


@pytest.mark.parametrize(
    "change", [{"floor": 1e-4}, {"f_max": 7_000.0}, {"n_mels": 48}, {"sample_rate": 24_000}]
)
def test_the_spectrums_key_changes_with_the_front_end(change: dict[str, Any]) -> None:
    one, other = FeelprintConfig(), dataclasses.replace(FeelprintConfig(), **change)
    keys = [load_for(TeacherConfig(name="spectrum"), student).key() for student in (one, other)]
    assert keys[0] != keys[1]
    assert load_teacher(TeacherConfig(name="spectrum")).key() == keys[0]


def test_a_silent_window_has_no_effect_on_the_spectrum() -> None:
    teacher, student = load_teacher(TeacherConfig(name="spectrum")), FeelprintConfig()
    noise = audio(teacher.window / student.sample_rate, student.sample_rate)
    noise[0, : student.window_length] = 0.0
    noise[1] = 0.0
    again = noise.clone()
    again[0, : student.window_length] = again[0, student.window_length : 2 * student.window_length]
    log_mel, _ = LogMel(student)(noise[0].view(3, -1))
    made = teacher(noise)
    assert (made[0] - log_mel[1:].mean(dim=(0, 2))).abs().max() < 1e-5
    assert (made[0] - teacher(again)[0]).abs().max() > 1e-3
    assert torch.allclose(made[1], torch.tensor(math.log(student.floor)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            TeacherConfig(name="wav2vec"),
            "unknown teacher wav2vec; known: musicnn, musicnn-tags, musicnn-mtt, vibenet, "
            "spectrum, mert, clap",
        ),
        (TeacherConfig(name="mert"), "mert needs a path: m-a-p/MERT-v1-95M"),
        (TeacherConfig(name="clap"), "clap needs a path: laion/larger_clap_music"),
        (TeacherConfig(name="clap", layers=(1,)), "clap takes no layers"),
        (TeacherConfig(name="spectrum", path="x"), "spectrum takes no path and no layers"),
        (TeacherConfig(name="spectrum", layers=(1,)), "spectrum takes no path and no layers"),
    ],
)
def test_a_teacher_that_cannot_be_loaded_is_an_error(config: TeacherConfig, message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        load_teacher(config)


# --- folders and the Hub -------------------------------------------------------------------


def test_a_folders_revision_is_its_content(tmp_path: Path) -> None:
    write_mert(tmp_path / "one")
    write_mert(tmp_path / "same")
    one, same = (find_checkpoint(str(tmp_path / name), "main") for name in ("one", "same"))
    assert (one.name, same.name) == ("one", "same")
    assert one.revision == same.revision
    weights = tmp_path / "same" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert find_checkpoint(str(tmp_path / "same"), "main").revision != one.revision


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "holds no weights"),
        ("config.json", "config.json is missing"),
        ("preprocessor_config.json", "preprocessor_config.json is missing"),
    ],
)
def test_a_folder_that_lacks_a_file_is_an_error(tmp_path: Path, missing: str, message: str) -> None:
    write_mert(tmp_path)
    os.remove(tmp_path / missing)
    with pytest.raises(TeacherError, match=message):
        load_teacher(mert(tmp_path))


def test_a_name_that_cannot_be_reached_says_how_to_point_at_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TeacherError) as caught:
        find_checkpoint("m-a-p/MERT-v1-95M", "main")
    message = str(caught.value)
    assert "there is no folder m-a-p/MERT-v1-95M" in message
    assert "into a folder and give that folder as the teacher's path" in message
    with pytest.raises(TeacherError, match="there is no folder /no/where"):
        find_checkpoint("/no/where", "main")


def test_from_the_hub_the_revision_is_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the Hub: it copies the requested files to a folder named by the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    requests: list[tuple[str, object]] = []
    write_mert(tmp_path / "there")
    as_published(tmp_path / "there")

    def snapshot_download(name: str, revision: str, allow_patterns: object) -> str:
        requests.append((revision, allow_patterns))
        here = tmp_path / "snapshots" / commit
        here.mkdir(parents=True, exist_ok=True)
        for pattern in [allow_patterns] if isinstance(allow_patterns, str) else allow_patterns:
            for path in (tmp_path / "there").glob(pattern):
                (here / path.name).write_bytes(path.read_bytes())
        return str(here)

    monkeypatch.setattr(pretrained, "snapshot_download", snapshot_download)
    config = TeacherConfig(name="mert", path="m-a-p/MERT-v1-95M", revision="v2", layers=(1,))
    teacher = load_teacher(config)
    assert teacher.revision == commit
    assert teacher.name == "m-a-p/MERT-v1-95M-layer-1"
    assert requests[0] == ("v2", "*.json")
    assert {revision for revision, _ in requests[1:]} == {commit}  # all from one commit


def test_a_connection_that_breaks_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise OfflineModeIsEnabled("no way out")

    monkeypatch.setattr(pretrained, "snapshot_download", broken)
    with pytest.raises(TeacherError, match="cannot be fetched from the Hugging Face Hub: no way"):
        find_checkpoint("laion/larger_clap_music", "main")
