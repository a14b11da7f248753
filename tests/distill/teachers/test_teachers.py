"""MERT and CLAP on tiny checkpoints in folders, by the path that the published ones take; and what
needs none, the average spectrum."""

import json
import math
import os
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers import ClapFeatureExtractor, Wav2Vec2FeatureExtractor

from distill.config import TeacherConfig
from distill.teachers import pretrained
from distill.teachers.base import TeacherError
from distill.teachers.pretrained import find_checkpoint
from distill.teachers.registry import load_teacher
from student import Feelprint, FeelprintConfig
from student.frontend import LogMel
from tests.distill.teachers.checkpoints import MERT_LAYERS, as_published, write_clap, write_mert


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
    hear = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    heard = np.stack(hear(list(windows.numpy()), sampling_rate=24_000)["input_values"])
    made = model(torch.from_numpy(heard), output_hidden_states=True)
    states = [*made.hidden_states[:-1], made.last_hidden_state]
    for layers in ((), (0,), (1,), (2, 3), (MERT_LAYERS,)):
        teacher = load_teacher(mert(tmp_path, *layers))
        want = torch.stack([states[layer] for layer in layers or (MERT_LAYERS,)]).mean(dim=(0, 2))
        assert teacher.window == windows.shape[1]
        assert teacher(windows).shape == (2, teacher.dim)
        assert (teacher(windows) - want).abs().max() < 1e-5
    if stable:  # the trap: of this kind, the last hidden state lacks the final norm
        assert (made.hidden_states[-1] - made.last_hidden_state).abs().max() > 0.01


def test_mert_loads_what_the_hub_has(tmp_path: Path) -> None:
    write_mert(tmp_path)
    windows = audio(5, 24_000)
    before = load_teacher(mert(tmp_path))(windows)
    as_published(tmp_path)
    assert torch.equal(load_teacher(mert(tmp_path))(windows), before)


def test_mert_says_what_it_is(tmp_path: Path) -> None:
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
    ("settings", "said"),
    [
        ({"deepnorm": True}, "deepnorm"),
        ({"feature_extractor_cqt": True}, "feature_extractor_cqt"),
        ({"model_type": "data2vec-audio"}, "expected a mert_model"),
        ({"num_hidden_layers": MERT_LAYERS + 1}, r"no MERT-v1 checkpoint: \d+ weights"),
        ({"num_hidden_layers": MERT_LAYERS - 1}, r"no MERT-v1 checkpoint: \d+ weights"),
        ({"hidden_size": 64}, "cannot be loaded|no MERT-v1 checkpoint"),
    ],
)
def test_what_would_be_loaded_wrongly_is_refused(
    tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    write_mert(tmp_path, **settings)
    with pytest.raises(TeacherError, match=said):
        load_teacher(mert(tmp_path))


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_mert(tmp_path)
    with pytest.raises(TeacherError, match=r"layers 0 to 3, got \[2, 4\]"):
        load_teacher(mert(tmp_path, 2, 4))


def test_another_sampling_rate_is_refused(tmp_path: Path) -> None:
    write_mert(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(path.read_text().replace("24000", "16000"))
    with pytest.raises(TeacherError, match="hears 16000 Hz"):
        load_teacher(mert(tmp_path))


@torch.inference_mode()
def test_clap_is_the_normalised_audio_embedding(tmp_path: Path) -> None:
    model = write_clap(tmp_path)
    teacher = load_teacher(TeacherConfig(name="clap", path=str(tmp_path)))
    windows = audio(10, 48_000)
    assert teacher.window == windows.shape[1]
    hear = ClapFeatureExtractor.from_pretrained(tmp_path)
    heard = hear(list(windows.numpy()), sampling_rate=48_000, return_tensors="pt")
    assert (teacher.log_mel(windows) - heard["input_features"]).abs().max() < 1e-3  # decibels
    want = model.get_audio_features(**heard).pooler_output
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
    with pytest.raises(TeacherError, match=r"no CLAP checkpoint: \d+ weights of the audio tower"):
        load_teacher(TeacherConfig(name="clap", path=str(tmp_path)))


def test_the_spectrum_is_what_the_student_hears_on_average() -> None:
    teacher, model = load_teacher(TeacherConfig(name="spectrum")), Feelprint().eval()
    hears = model.config
    noise = audio(teacher.window / hears.sample_rate, hears.sample_rate)
    made = teacher(noise)
    assert made.shape == (2, teacher.dim) == (2, hears.n_mels)
    with torch.inference_mode():
        log_mel, _ = model.log_mel_windows(noise)
        heard = model.cnn.pooled_features(log_mel.flatten(0, 1)).unflatten(0, (2, -1)).mean(dim=1)
    assert (made - heard[:, -hears.n_mels :]).abs().max() < 1e-5
    assert (teacher(0.1 * noise) - made).abs().max() < 1e-5  # a gain changes nothing


def test_a_silent_window_has_no_say_in_the_spectrum() -> None:
    teacher, hears = load_teacher(TeacherConfig(name="spectrum")), FeelprintConfig()
    noise = audio(teacher.window / hears.sample_rate, hears.sample_rate)
    noise[0, : hears.window_length] = 0.0
    noise[1] = 0.0
    again = noise.clone()
    again[0, : hears.window_length] = again[0, hears.window_length : 2 * hears.window_length]
    log_mel, _ = LogMel(hears)(noise[0].view(3, -1))
    made = teacher(noise)
    assert (made[0] - log_mel[1:].mean(dim=(0, 2))).abs().max() < 1e-5
    assert (made[0] - teacher(again)[0]).abs().max() > 1e-3
    assert torch.allclose(made[1], torch.tensor(math.log(hears.floor)))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            TeacherConfig(name="wav2vec"),
            "unknown teacher wav2vec; known: musicnn, musicnn-mtt, spectrum, mert, clap",
        ),
        (TeacherConfig(name="mert"), "mert needs a path: m-a-p/MERT-v1-95M"),
        (TeacherConfig(name="clap"), "clap needs a path: laion/larger_clap_music"),
        (TeacherConfig(name="clap", layers=(1,)), "clap takes no layers"),
        (TeacherConfig(name="spectrum", path="x"), "spectrum takes no path and no layers"),
        (TeacherConfig(name="spectrum", layers=(1,)), "spectrum takes no path and no layers"),
    ],
)
def test_a_teacher_that_is_not_told_is_an_error(config: TeacherConfig, said: str) -> None:
    with pytest.raises(TeacherError, match=said):
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
    ("missing", "said"),
    [
        ("model.safetensors", "holds no weights"),
        ("config.json", "config.json is missing"),
        ("preprocessor_config.json", "preprocessor_config.json is missing"),
    ],
)
def test_a_folder_that_lacks_a_file_is_an_error(tmp_path: Path, missing: str, said: str) -> None:
    write_mert(tmp_path)
    os.remove(tmp_path / missing)
    with pytest.raises(TeacherError, match=said):
        load_teacher(mert(tmp_path))


def test_a_name_that_cannot_be_reached_says_how_to_point_at_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TeacherError) as caught:
        find_checkpoint("m-a-p/MERT-v1-95M", "main")
    said = str(caught.value)
    assert "there is no folder m-a-p/MERT-v1-95M" in said
    assert "into a folder and give that folder as the teacher's path" in said
    with pytest.raises(TeacherError, match="there is no folder /no/where"):
        find_checkpoint("/no/where", "main")


def test_from_the_hub_the_revision_is_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the Hub: it puts what is asked for into a folder named by the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    asked: list[tuple[str, object]] = []
    write_mert(tmp_path / "there")
    as_published(tmp_path / "there")

    def snapshot_download(name: str, revision: str, allow_patterns: object) -> str:
        asked.append((revision, allow_patterns))
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
    assert asked[0] == ("v2", "*.json")
    assert {revision for revision, _ in asked[1:]} == {commit}  # of one commit, whatever is pushed


def test_a_connection_that_breaks_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise OfflineModeIsEnabled("no way out")

    monkeypatch.setattr(pretrained, "snapshot_download", broken)
    with pytest.raises(TeacherError, match="cannot be fetched from the Hugging Face Hub: no way"):
        find_checkpoint("laion/larger_clap_music", "main")
