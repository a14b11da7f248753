"""The fifth stage: one ONNX file for onnxruntime and tract, and the checks that it must pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnxruntime
import onnxsim
import torch
import tract
from onnx import numpy_helper
from torch import Tensor, nn

from datasets_scripts.files import atomic_path
from student import Feelprint
from student.frontend import MAX_SAMPLE

OPSET = 18
MAX_BYTES = 5_000_000
TOLERANCE = 1e-4  # between PyTorch, onnxruntime and tract
MIN_HALF_SIZE = 1_000  # values; below, a Cast node costs more than it saves
PADDING_TOLERANCE = 1e-5  # between audio and the same with zeros appended
# tensors that keep their names, so that a player can split the graph there
SPLIT_TENSORS = ("log_mel", "tokens", "window_weight", "attention")
# settings in the metadata, for a player that has a front end of its own
FRONT_END = (
    "n_fft",
    "hop_length",
    "window_frames",
    "n_mels",
    "f_min",
    "f_max",
    "floor",
    "dense_windows",
    "window_stride",
)


class ExportError(RuntimeError):
    """An exported file that breaks the model's contract."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the model comes from, for the ONNX metadata."""

    version: str
    config_hash: str
    teacher: str
    licence: str


class _FrontEnd(nn.Module):
    def __init__(self, model: Feelprint):
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.log_mel_windows(audio)


class _Encoder(nn.Module):
    def __init__(self, model: Feelprint):
        super().__init__()
        self.model = model

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.model.tokens(log_mel)


class _Head(nn.Module):
    def __init__(self, model: Feelprint):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, window_weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.pool(tokens, window_weight)


def _graph(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: tuple[str, ...],
    rewrite: Callable[[onnx.GraphProto], None] | None = None,
) -> onnx.ModelProto:
    """``module`` as a graph, rewritten and simplified; the first two axes of inputs are dynamic."""
    auto = torch.export.Dim.AUTO
    program = torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes={name: {0: auto, 1: auto} for name in inputs},
        verbose=False,
    )
    assert program is not None
    exported = program.model_proto
    if rewrite is not None:
        rewrite(exported.graph)
    simplified, same = onnxsim.simplify(exported)
    if not same:
        raise ExportError("onnxsim changed what the graph computes; no file is written")
    del simplified.metadata_props[:]
    del simplified.graph.value_info[:]  # its symbols prevent tract from unifying shapes
    return simplified


def export_onnx(model: Feelprint, path: Path, origin: Origin) -> None:
    """Write ``model`` to ``path``: input ``audio`` (B, N), output ``embedding`` (B, 32).

    The front end, the encoder and the head are exported separately and joined, so that the only
    tensors between them are ``log_mel`` (batch, windows, n_mels, frames), ``tokens`` (batch,
    windows, dim) and ``window_weight`` (batch, windows). A player can thus split the graph there,
    stream, and use a faster front end, whose settings are in the metadata. Weights that float16
    represents exactly (those of a fused model) are stored as float16 and cast when the file is
    loaded: half the size, the same speed. The file is complete or absent.

    Raises:
        ExportError: onnxsim finds that the simplified graph computes something else.
    """
    config = model.config
    audio = torch.zeros(2, 3 * config.window_length + 5)
    log_mel = torch.zeros(2, 3, config.n_mels, config.window_frames)
    tokens, window_weight = torch.zeros(2, 3, config.dim), torch.ones(2, 3)
    front_end = _graph(
        _FrontEnd(model), {"audio": audio}, ("log_mel", "window_weight"), _threshold_samples
    )
    encoder = _graph(_Encoder(model), {"log_mel": log_mel}, ("tokens",))
    head = _graph(
        _Head(model),
        {"tokens": tokens, "window_weight": window_weight},
        ("embedding", "attention"),
    )
    joined = _joined(front_end, "encoder_", encoder, ("log_mel",))
    joined = _joined(joined, "head_", head, ("tokens", "window_weight"))
    del joined.graph.value_info[:]
    _finish(joined, model, origin)
    onnx.checker.check_model(joined)
    with atomic_path(path) as part:
        part.write_bytes(joined.SerializeToString())


def _threshold_samples(graph: onnx.GraphProto) -> None:
    """Replace the Where that selects the samples below `MAX_SAMPLE` by thresholds.

    onnxruntime takes three times as long for the Where. Like the comparison, a threshold is false
    for NaN. The samples change their sign, which their power does not depend on.
    """
    make = onnx.helper.make_node
    for where in [node for node in graph.node if node.op_type == "Where"]:
        samples, selected = where.input[1], where.output[0]
        at = list(graph.node).index(where)
        del graph.node[at]
        for node in (  # the last first
            make("ThresholdedRelu", ["negated"], [selected], alpha=-MAX_SAMPLE),
            make("Neg", ["above"], ["negated"]),
            make("ThresholdedRelu", [samples], ["above"], alpha=-MAX_SAMPLE),
        ):
            graph.node.insert(at, node)


def _joined(
    first: onnx.ModelProto, prefix: str, second: onnx.ModelProto, tensors: tuple[str, ...]
) -> onnx.ModelProto:
    """One graph of two, the second of which reads ``tensors`` from the first."""
    second = onnx.compose.add_prefix(second, prefix, rename_inputs=False, rename_outputs=False)
    second.ir_version = first.ir_version
    return onnx.compose.merge_models(first, second, io_map=[(name, name) for name in tensors])


def _finish(model_proto: onnx.ModelProto, model: Feelprint, origin: Origin) -> None:
    """Name axes and ``SPLIT_TENSORS``, store weights as float16, add the metadata."""
    graph = model_proto.graph
    for output in [o for o in graph.output if o.name in SPLIT_TENSORS]:
        graph.output.remove(output)  # the tensor keeps its name; MECOMP expects one output
    for node in graph.node:
        for name in node.output:
            if name in (*SPLIT_TENSORS, "embedding"):
                node.name = name
    for value, names in ((graph.input[0], ("B", "N")), (graph.output[0], ("B", None))):
        for axis, axis_name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if axis_name:
                axis.dim_param = axis_name
    _store_as_half(graph)
    metadata = {
        "version": origin.version,
        "sample_rate": str(model.config.sample_rate),
        "window": str(model.config.window_length),
        **{key: str(getattr(model.config, key)) for key in FRONT_END},
        "config_hash": origin.config_hash,
        "teacher": origin.teacher,
        "licence": origin.licence,
    }
    del model_proto.metadata_props[:]
    for key, value in metadata.items():
        entry = model_proto.metadata_props.add()
        entry.key, entry.value = f"feelprint.{key}", value


def _store_as_half(graph: onnx.GraphProto) -> None:
    """Replace each float32 weight that float16 represents exactly by its float16 and a Cast."""
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < MIN_HALF_SIZE:
            continue
        if not np.array_equal(values, values.astype(np.float16).astype(np.float32)):
            continue  # the front end's constants: rounded, the DFT would leak from loud bins
        name = tensor.name
        half = numpy_helper.from_array(values.astype(np.float16), f"{name}_f16")
        tensor.CopyFrom(half)
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}_f16"], [name], to=onnx.TensorProto.FLOAT)
        )
    for at, cast in enumerate(casts):
        graph.node.insert(at, cast)


def ancestors(graph: onnx.GraphProto, tensor: str, stop: tuple[str, ...]) -> set[str]:
    """All tensors that ``tensor`` is computed from, itself included, up to those in ``stop``."""
    node_of = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    pending = [tensor]
    while pending:
        name = pending.pop()
        if name in found or name in stop:
            continue
        found.add(name)
        if name in node_of:
            pending += node_of[name].input
    return found


def run_onnxruntime(path: Path, audio: np.ndarray) -> np.ndarray:
    """Embeddings (B, 32) of ``audio`` (B, N) by onnxruntime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["embedding"], {"audio": audio})[0])


def run_tract(path: Path, audio: np.ndarray) -> np.ndarray:
    """Embeddings (B, 32) of ``audio`` (B, N) by tract, the Rust crate's engine."""
    model = tract.onnx().load(str(path)).into_model().into_runnable()
    return np.asarray(model.run([audio])[0].to_numpy())


def check_export(model: Feelprint, path: Path) -> dict[str, float]:
    """Check the file at ``path`` against the contract and return the measurements.

    Returns its size in bytes, the largest difference of an embedding between PyTorch and the two
    runtimes, and the largest change of an embedding by appended zeros.

    Raises:
        ExportError: the file is larger than 5 MB; PyTorch, onnxruntime and tract differ by more
            than 1e-4; appended zeros change the embedding by more than 1e-5; an embedding is not
            finite; the graph cannot be split at ``log_mel`` or ``tokens``.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ExportError(f"{path} has {size} bytes; at most {MAX_BYTES} are allowed")
    window = model.config.window_length
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 3 * window + 5)).astype(np.float32) * 0.1
    # with 33 windows, a track that has used and unused windows after the dense ones
    lengths = (1, 2_047, window, window + 1, 20 * window, 33 * window)
    inputs = [noise, np.zeros((1, window), np.float32)]
    inputs += [rng.standard_normal((1, n)).astype(np.float32) * 0.1 for n in lengths]
    largest = 0.0
    for audio in inputs:
        with torch.inference_mode():
            want = model.eval()(torch.from_numpy(audio)).numpy()
        for name, runtime in (("onnxruntime", run_onnxruntime), ("tract", run_tract)):
            got = runtime(path, audio)
            if not np.isfinite(got).all():
                raise ExportError(f"{name}: not finite for audio of shape {audio.shape}")
            largest = max(largest, float(np.abs(got - want).max()))
            if largest > TOLERANCE:
                raise ExportError(
                    f"{name} differs from PyTorch by {largest:.1e} on audio of shape "
                    f"{audio.shape}; at most {TOLERANCE} is allowed"
                )
    graph = onnx.load(path).graph
    for part, output, inputs_of_part in (
        ("encoder", "tokens", ("log_mel",)),
        ("head", "embedding", ("tokens", "window_weight")),
    ):
        if "audio" in ancestors(graph, output, stop=inputs_of_part):
            raise ExportError(
                f"{path}: the {part} needs more than {' and '.join(inputs_of_part)}, so that the "
                "graph cannot be split there"
            )
    padded = np.pad(noise, ((0, 0), (0, 5 * window)))
    change = 0.0
    for runtime in (run_onnxruntime, run_tract):
        change = max(change, float(np.abs(runtime(path, padded) - runtime(path, noise)).max()))
    if change > PADDING_TOLERANCE:
        raise ExportError(
            f"zeros at the end change the embedding by {change:.1e}; at most "
            f"{PADDING_TOLERANCE} is allowed"
        )
    return {"bytes": size, "largest_difference": largest, "padding_difference": change}
