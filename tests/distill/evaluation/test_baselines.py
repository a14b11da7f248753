"""The external baselines: present, absent, and failing."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from distill.evaluation.baselines import BaselineError, Bliss, Mecomp


def a_model(path):
    """A model of MECOMP's kind: audio (batch, samples) -> embedding, here the mean square."""
    audio = helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", "samples"])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceSumSquare", ["audio", "axes"], ["embedding"], keepdims=1)
    graph = helper.make_graph([node], "baseline", [audio], [out], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_mecomps_model_embeds_audio_of_any_length(tmp_path):
    baseline = Mecomp(a_model(tmp_path / "baseline.onnx"))
    assert baseline(np.full(4_000, 0.5, np.float32)) == pytest.approx([1_000.0])
    # fewer samples than onnxruntime accepts are zero-padded
    assert baseline(np.ones(10, np.float32)) == pytest.approx([10.0])


def test_an_absent_baseline_says_how_to_get_it(tmp_path):
    with pytest.raises(BaselineError, match=r"no MECOMP model at .*--mecomp"):
        Mecomp(tmp_path / "none.onnx")
    with pytest.raises(BaselineError, match="cargo build --release"):
        Bliss(tmp_path / "none")


PROGRAM = """#!{python}
import struct, sys
while head := sys.stdin.buffer.read(4):
    n = struct.unpack("<I", head)[0]
    clip = struct.unpack(f"<{{n}}f", sys.stdin.buffer.read(4 * n))
    if n < 3:
        sys.exit("empty or too short song")
    sys.stdout.buffer.write(struct.pack("<I2f", 2, sum(clip), n))
    sys.stdout.buffer.flush()
"""


def test_the_bliss_program_returns_features_and_its_failure_is_an_error(tmp_path):
    program = tmp_path / "features"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    baseline = Bliss(program)
    assert baseline(np.array([1.0, 2.0, 3.0], np.float32)).tolist() == [6.0, 3.0]
    assert baseline(np.ones(500, np.float32)).tolist() == [500.0, 500.0]
    with pytest.raises(BaselineError, match="cannot analyse an excerpt"):
        baseline(np.ones(2, np.float32))
    baseline.process.wait()
    with pytest.raises(BaselineError):
        baseline(np.ones(500, np.float32))
    baseline.close()
