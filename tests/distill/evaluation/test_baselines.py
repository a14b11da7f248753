"""Peers: present, absent, and not answering."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from distill.evaluation.baselines import Bliss, Mecomp, PeerError


def a_model(path):
    """A model of MECOMP's kind: audio (batch, samples) -> embedding, here the mean square."""
    audio = helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", "samples"])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceSumSquare", ["audio", "axes"], ["embedding"], keepdims=1)
    graph = helper.make_graph([node], "peer", [audio], [out], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_a_model_that_is_there_answers(tmp_path):
    peer = Mecomp(a_model(tmp_path / "peer.onnx"))
    assert peer(np.full(4_000, 0.5, np.float32)) == pytest.approx([1_000.0])
    # fewer samples than it can take are padded with zeros, not passed on
    assert peer(np.ones(10, np.float32)) == pytest.approx([10.0])


def test_what_is_absent_says_how_to_get_it(tmp_path):
    with pytest.raises(PeerError, match=r"no MECOMP model at .*--mecomp"):
        Mecomp(tmp_path / "none.onnx")
    with pytest.raises(PeerError, match="cargo build --release"):
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


def test_a_program_answers_clip_by_clip_and_its_failure_is_told(tmp_path):
    program = tmp_path / "features"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    peer = Bliss(program)
    assert peer(np.array([1.0, 2.0, 3.0], np.float32)).tolist() == [6.0, 3.0]
    assert peer(np.ones(500, np.float32)).tolist() == [500.0, 500.0]
    with pytest.raises(PeerError, match="cannot analyse a clip"):
        peer(np.ones(2, np.float32))
    peer.process.wait()
    with pytest.raises(PeerError):
        peer(np.ones(500, np.float32))
    peer.close()
