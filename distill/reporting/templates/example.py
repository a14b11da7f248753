"""Distance between two tracks: python example.py ONE.flac OTHER.mp3 (needs onnxruntime, librosa)"""

import sys
from pathlib import Path

import librosa
import onnxruntime

session = onnxruntime.InferenceSession(str(Path(__file__).parent / "feelprint.onnx"))


def embed(path):
    """The embedding of an audio file, (32,)."""
    audio, _ = librosa.load(path, sr=22_050, mono=True)
    return session.run(["embedding"], {"audio": audio[None]})[0][0]


one, other = (embed(path) for path in sys.argv[1:3])
print(f"distance {((one - other) ** 2).sum() ** 0.5:.3f} (0: identical)")
