"""The exported file keeps the contract, and each check refuses a file that does not."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.utils import Extractor

from distill import export
from distill.export import (
    ExportError,
    check_export,
    run_onnxruntime,
    run_tract,
)
from student import Feelprint

Exported = tuple[Feelprint, Path]


def broken(exported: Exported, tmp_path: Path, breaks: object) -> tuple[Feelprint, Path]:
    """The same file after ``breaks(model_proto)``."""
    model, path = exported
    proto = onnx.load(path)
    breaks(proto)  # type: ignore[operator]
    onnx.save(proto, tmp_path / "broken.onnx")
    return model, tmp_path / "broken.onnx"


def test_the_file_passes_its_checks(exported: Exported) -> None:
    figures = check_export(*exported)
    assert figures["bytes"] == exported[1].stat().st_size < 5_000_000
    assert 0 < figures["largest_difference"] < 1e-4
    assert figures["padding_difference"] < 1e-5


def test_the_contract_that_players_rely_on(exported: Exported) -> None:
    proto = onnx.load(exported[1])
    assert proto.opset_import[0].version >= 16
    (given,), (made,) = proto.graph.input, proto.graph.output
    assert (given.name, made.name) == ("audio", "embedding")
    axes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (given, made)
    ]
    assert axes == [["B", "N"], ["B", 32]]
    for value in (given, made):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {entry.key: entry.value for entry in proto.metadata_props} == {
        "feelprint.version": "1.2.3",
        "feelprint.sample_rate": "22050",
        "feelprint.window": "22528",
        "feelprint.n_fft": "1024",
        "feelprint.hop_length": "704",
        "feelprint.window_frames": "32",
        "feelprint.n_mels": "64",
        "feelprint.f_min": "30.0",
        "feelprint.f_max": "8000.0",
        "feelprint.floor": "0.000178",
        "feelprint.dense_windows": "24",
        "feelprint.window_stride": "4",
        "feelprint.config_hash": "0123456789abcdef",
        "feelprint.teacher": "a teacher",
        "feelprint.licence": "MIT",
    }


@torch.inference_mode()
def test_the_graph_can_be_split_at_its_named_tensors(exported: Exported, tmp_path: Path) -> None:
    model, path = exported
    audio = np.random.default_rng(0).standard_normal((2, 50_000)).astype(np.float32)
    tokens = model.encode(torch.from_numpy(audio))[0].numpy()
    log_mel, window_weight = (t.numpy() for t in model.log_mel_windows(torch.from_numpy(audio)))
    assert log_mel.shape == (2, 4, 64, 32)  # of three windows, padded to four
    embedding, attention = (
        t.numpy() for t in model.pool(torch.from_numpy(tokens), torch.from_numpy(window_weight))
    )
    graph = onnx.shape_inference.infer_shapes(onnx.load(path))
    head_inputs = (["tokens", "window_weight"], [tokens, window_weight])
    parts = (
        (["audio"], [audio], ["log_mel", "window_weight"], [log_mel, window_weight]),
        (["log_mel"], [log_mel], ["tokens"], [tokens]),
        (*head_inputs, ["embedding", "attention"], [embedding, attention]),
    )
    for inputs, given, outputs, want in parts:
        onnx.save(Extractor(graph).extract_model(inputs, outputs), tmp_path / "part.onnx")
        session = export.onnxruntime.InferenceSession(
            str(tmp_path / "part.onnx"), providers=["CPUExecutionProvider"]
        )
        made = session.run(outputs, dict(zip(inputs, given, strict=True)))
        for one, other in zip(made, want, strict=True):
            assert one.shape == other.shape
            assert np.abs(one - other).max() < 1e-4


def test_weights_are_stored_in_half_and_constants_are_not(exported: Exported) -> None:
    sizes = {}
    for tensor in onnx.load(exported[1]).graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.size >= 1_000:
            sizes.setdefault(values.dtype, 0)
            sizes[values.dtype] += values.size
    parameters = sum(p.numel() for p in exported[0].parameters())
    assert sizes[np.dtype(np.float16)] > 0.95 * parameters
    assert sizes[np.dtype(np.float32)] > 100_000  # the front end's


def test_no_temporary_file_is_left(exported: Exported) -> None:
    assert [path.name for path in exported[1].parent.iterdir()] == ["feelprint.onnx"]


@pytest.mark.parametrize("runtime", [run_onnxruntime, run_tract])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(3e38)])
def test_samples_that_are_not_finite_count_as_zero(
    exported: Exported, runtime: Callable[[Path, np.ndarray], np.ndarray], value: float
) -> None:
    path, window = exported[1], exported[0].config.window_length
    rng = np.random.default_rng(0)
    audio = (0.1 * rng.standard_normal((2, 4 * window + 7))).astype(np.float32)
    places = [0, 2 * window + 100, audio.shape[1] - 1]  # start, middle, end
    zeroed, broken = audio.copy(), audio.copy()
    zeroed[0, places], broken[0, places] = 0.0, value
    wanted = runtime(path, zeroed)
    assert np.array_equal(runtime(path, broken), wanted)
    assert np.array_equal(wanted[1:], runtime(path, audio)[1:])  # the other track is untouched
    nothing = runtime(path, np.full((1, window), value, np.float32))
    assert np.isfinite(nothing).all()
    assert np.array_equal(nothing, runtime(path, np.zeros((1, window), np.float32)))


@pytest.mark.slow
def test_twenty_minutes_are_embedded(exported: Exported) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 20 * 60 * 22_050)).astype(np.float32)
    embedding = run_onnxruntime(exported[1], 0.1 * noise)
    assert embedding.shape == (1, 32) and np.isfinite(embedding).all()


# --- each check refuses a file -------------------------------------------------------------


def test_a_file_that_is_too_large_is_refused(exported: Exported, tmp_path: Path) -> None:
    def fatten(proto: onnx.ModelProto) -> None:
        weights = np.zeros(1_300_000, np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(weights, "idle"))

    with pytest.raises(ExportError, match="at most 5000000 are allowed"):
        check_export(*broken(exported, tmp_path, fatten))


def nudge(name: str, factor: float, exported: Exported, tmp_path: Path) -> tuple[Feelprint, Path]:
    """The file of a model one of whose head's parameters is another."""

    def other_weights(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.shape == (32,) and values.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(values + factor, tensor.name))

    return broken(exported, tmp_path, other_weights)


def test_a_file_that_computes_something_else_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"onnxruntime differs from PyTorch by .*at most 0.0001"):
        check_export(*nudge("out.bias", 0.01, exported, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made * np.nan, "tract: not finite for audio of shape"),
        (lambda made: made * 1.01, "tract differs from PyTorch by"),
        (lambda made: np.roll(made, 1, axis=1), "tract differs from PyTorch by"),
    ],
)
def test_a_runtime_with_another_result_is_refused(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, change: object, message: str
) -> None:
    monkeypatch.setattr(export, "run_tract", lambda p, audio: change(run_tract(p, audio)))  # type: ignore[operator]
    with pytest.raises(ExportError, match=message):
        check_export(*exported)


def test_padding_that_counts_is_refused(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime whose result changes by zeros at the end."""

    def changed_by_zeros(path: Path, audio: np.ndarray) -> np.ndarray:
        made = run_onnxruntime(path, audio)
        if audio.shape[1] > 8 * 22_528 and not audio[:, -22_528:].any():
            made = made + 1e-4
        return made

    monkeypatch.setattr(export, "run_onnxruntime", changed_by_zeros)
    with pytest.raises(ExportError, match="zeros at the end change the embedding by"):
        check_export(*exported)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("tokens", "the encoder needs more than log_mel, so that the graph cannot be split"),
        ("embedding", "the head needs more than tokens and window_weight, so that"),
    ],
)
def test_a_graph_that_cannot_be_split_is_refused(
    exported: Exported, tmp_path: Path, tensor: str, message: str
) -> None:
    def around(proto: onnx.ModelProto) -> None:
        """Add the audio times zero to the tensor: the same values, computed from the audio."""
        graph = proto.graph
        (last,) = [node for node in graph.node if tensor in node.output]
        after = list(graph.node).index(last) + 1
        last.output[list(last.output).index(tensor)] = last.name = "almost"
        zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
        graph.initializer.append(zero)
        make = onnx.helper.make_node
        extra = [
            make("ReduceMax", ["audio"], ["loudest"], keepdims=0),
            make("Mul", ["loudest", "zero"], ["nothing"]),
            make("Add", ["almost", "nothing"], [tensor]),
        ]
        for node in reversed(extra):
            graph.node.insert(after, node)

    with pytest.raises(ExportError, match=message):
        check_export(*broken(exported, tmp_path, around))


def test_onnxsim_that_changes_the_graph_is_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Program:
        model_proto = onnx.ModelProto()

    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Program())
    monkeypatch.setattr(export.onnxsim, "simplify", lambda proto: (proto, False))
    path = tmp_path / "never.onnx"
    with pytest.raises(ExportError, match="onnxsim changed what the graph computes"):
        export.export_onnx(exported[0], path, export.Origin("", "", "", ""))
    assert not path.exists()


def test_samples_are_checked_by_thresholds(exported: Exported) -> None:
    """onnxruntime takes three times as long for a Where over all samples."""
    operations = [node.op_type for node in onnx.load(exported[1]).graph.node]
    assert "Where" not in operations and operations.count("ThresholdedRelu") == 2


def test_an_unrounded_model_keeps_its_float32_weights(exported: Exported) -> None:
    """Only weights that float16 represents exactly are stored as float16."""
    weights = [np.float32(0.5).repeat(2_000), np.linspace(0, 1, 2_000, dtype=np.float32)]
    graph = onnx.GraphProto()
    for number, values in enumerate(weights):
        graph.initializer.append(numpy_helper.from_array(values, f"w{number}"))
    original = copy.deepcopy(graph)
    export._store_as_half(graph)
    assert [numpy_helper.to_array(t).dtype for t in graph.initializer] == [np.float16, np.float32]
    assert graph.initializer[1] == original.initializer[1]
    assert [(node.op_type, *node.input, *node.output) for node in graph.node] == [
        ("Cast", "w0_f16", "w0")
    ]
