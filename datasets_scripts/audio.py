"""Decode any music file to mono samples, with a clear error for one that cannot be decoded.

soundfile (libsndfile) reads WAV, FLAC, Ogg Vorbis, Opus and MP3; ffmpeg reads the rest (M4A and
other formats). A file that ends before its own headers say so is an error, not a short track:
half a download must not become training data.
"""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

# The names of files that are taken for music.
SUFFIXES = (
    *(".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".mp4"),
    *(".oga", ".ogg", ".opus", ".wav", ".webm", ".wma"),
)
BLOCK = 1 << 18  # frames decoded at a time, so that an hour of audio is never in memory twice


class AudioError(ValueError):
    """A file that cannot be used as music: the message names it and the reason."""


@dataclass(frozen=True)
class Levels:
    """The measurements of one pass over a whole file.

    duration_s: decoded length in seconds. envelope: root mean square of each half second of the
    mono signal, float32, (ceil(2 * duration_s),).
    """

    duration_s: float
    envelope: np.ndarray


def name_of(source: bytes | Path | str) -> str:
    """The name of a source in error messages."""
    return f"{len(source)} bytes of audio" if isinstance(source, bytes) else str(source)


def decode(source: bytes | Path | str, sample_rate: int) -> np.ndarray:
    """Decode a whole file to mono at `sample_rate` (Hz): float32, (samples,), about -1 to 1.

    Channels are averaged; resampling is soxr's HQ. Raises AudioError for what is missing, empty,
    not audio, or truncated.
    """
    with open_audio(source) as file:
        rate = file.samplerate
        resample = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        parts = []
        for block in _mono_blocks(file, name_of(source)):
            parts.append(block if rate == sample_rate else resample.resample_chunk(block))
        if rate != sample_rate:
            parts.append(resample.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(parts)


def duration(source: bytes | Path | str) -> float:
    """Length in seconds according to the headers, without decoding. Raises AudioError."""
    with open_audio(source) as file:
        return float(file.frames / file.samplerate)


def measure(source: bytes | Path | str) -> Levels:
    """Decode a whole file once and measure it (see Levels).

    Raises AudioError as `decode` does, and for a file of digital silence.
    """
    with open_audio(source) as file:
        step = file.samplerate // 2
        energies, rest, frames, silent = [], np.zeros(0, np.float32), 0, True
        for block in _mono_blocks(file, name_of(source)):
            frames += len(block)
            silent = silent and not block.any()
            block = np.concatenate([rest, block])
            whole = len(block) // step * step
            energies.append(np.square(block[:whole].reshape(-1, step)).mean(axis=1))
            rest = block[whole:]
        if len(rest):
            energies.append(np.square(rest).mean(keepdims=True))
        if silent:
            raise AudioError(f"{name_of(source)}: nothing but silence")
        return Levels(frames / file.samplerate, np.sqrt(np.concatenate(energies)))


@contextmanager
def open_audio(source: bytes | Path | str) -> Iterator[soundfile.SoundFile]:
    """Open a file, or the bytes of one, for reading by blocks. Raises AudioError."""
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise AudioError(f"{source}: no such file")
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if size == 0:
        raise AudioError(f"{name_of(source)}: empty file")
    with (
        tempfile.TemporaryDirectory(prefix="feelprint-") as scratch,
        io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as stream,
    ):
        _refuse_truncated(stream, size, name_of(source))
        stream.seek(0)
        try:
            file = soundfile.SoundFile(stream)
        except soundfile.LibsndfileError:
            file = soundfile.SoundFile(_by_ffmpeg(source, Path(scratch)))
        with file:
            yield file


def _mono_blocks(file: soundfile.SoundFile, name: str) -> Iterator[np.ndarray]:
    """Yield (frames,) float32 blocks. Raises AudioError for fewer samples than the headers say."""
    seen = 0
    while True:
        try:
            block = file.read(BLOCK, dtype="float32", always_2d=True)  # (frames, channels)
        except soundfile.LibsndfileError as error:
            at = f"{seen / file.samplerate:.1f} s"
            raise AudioError(f"{name}: damaged at {at}: {error.error_string}") from None
        if not len(block):
            break
        seen += len(block)
        mono = block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
        if not np.isfinite(mono).all():
            raise AudioError(f"{name}: samples that are not numbers")
        yield mono
    if not seen:
        raise AudioError(f"{name}: no samples in it")
    # The headers of MP3 and Opus are exact to about a frame; a second covers all of them.
    if seen < file.frames - file.samplerate:
        found, stated = seen / file.samplerate, file.frames / file.samplerate
        raise AudioError(f"{name}: truncated: {found:.1f} s of the {stated:.1f} s in its headers")


def _refuse_truncated(stream: io.BufferedIOBase, size: int, name: str) -> None:
    """Find cuts that libsndfile does not report: it reads a cut WAV or Ogg file as a short one."""
    head = stream.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        stated = struct.unpack("<I", head[4:8])[0] + 8
        streamed = stated <= 8 or stated >= 1 << 31  # a recorder that could not seek back
        # Old tools pad or miscount by a few bytes; half a second of audio is far more.
        if not streamed and size < stated - 4096:
            raise AudioError(f"{name}: truncated: {size} bytes of the {stated} in its header")
    elif head[:4] == b"OggS":
        stream.seek(max(0, size - (1 << 17)))  # the size of two pages of maximal length
        tail = stream.read()
        at = tail.rfind(b"OggS")
        segments = tail[at + 26] if at >= 0 and at + 26 < len(tail) else 0
        table = tail[at + 27 : at + 27 + segments]
        if at >= 0 and at + 27 + segments + sum(table) > len(tail):
            raise AudioError(f"{name}: truncated: its last Ogg page is not whole")


def _by_ffmpeg(source: bytes | Path | str, scratch: Path) -> Path:
    """Convert a file that libsndfile does not read to a float WAV in `scratch`, by ffmpeg."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise AudioError(
            f"{name_of(source)}: not WAV, FLAC, Ogg, Opus or MP3, and ffmpeg, which reads "
            "other formats, is not installed (on Debian: apt install ffmpeg)"
        )
    path, wav = Path(str(source)) if not isinstance(source, bytes) else scratch / "in", None
    if isinstance(source, bytes):
        path.write_bytes(source)  # an MP4 may keep its index at the end: it needs to seek
    wav = scratch / "out.wav"
    command = [ffmpeg, "-v", "error", "-nostdin", "-xerror", "-protocol_whitelist", "file"]
    command += ["-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_f32le", "-rf64", "auto"]
    done = subprocess.run([*command, str(wav)], capture_output=True, check=False)
    if done.returncode or not wav.is_file():
        said = done.stderr.decode(errors="replace").replace(f"file:{path}", "").strip()
        reason = (
            said.splitlines()[-1].strip(" :")
            if said
            else f"ffmpeg exited with status {done.returncode}"
        )
        raise AudioError(f"{name_of(source)}: not audio that can be read: {reason}")
    return wav
