"""The student's shape, as one dataclass that refuses unknown keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

DFT_RADIX = 32  # factor of the two-stage DFT: a frame is rows of 32 samples

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that names an unknown key or an impossible value."""


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass ``cls`` from ``values``; nested dataclasses from nested mappings.

    Hand-written: in pydantic, the translation of its errors into these messages is longer.

    Raises:
        ConfigError: a key that ``cls`` does not have (the message lists those it has), a key
            without a default that is missing, a value of another type, or one that ``cls`` itself
            refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping of keys, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in set(values) - set(fields))
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {', '.join(unknown)}; known keys: {', '.join(sorted(fields))}"
        )
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing key {', '.join(missing)}")
    types = get_type_hints(cls)
    built: dict[str, Any] = {}
    for name, value in values.items():
        built[name] = _checked(types[name], value, f"{where}.{name}")
    try:
        return cls(**built)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _checked(wanted: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``wanted``: a scalar, dataclass, ``tuple[item, ...]`` or ``dict``.

    A whole number is taken as a float too. Raises ConfigError for any other type.
    """
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return value if isinstance(value, wanted) else from_mapping(wanted, value, where)
    container, items = get_origin(wanted), get_args(wanted)
    if container is tuple and isinstance(value, list | tuple):
        return tuple(_checked(items[0], one, f"{where}[{at}]") for at, one in enumerate(value))
    if container is dict and isinstance(value, Mapping):
        return {
            _checked(items[0], key, f"{where}: key"): _checked(items[1], one, f"{where}.{key}")
            for key, one in value.items()
        }
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is wanted:
        return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    expected = names.get(wanted, "a mapping of keys" if container is dict else "a list")
    hint = " (YAML reads 1e-3 as text; write 1.0e-3)" if wanted is float else ""
    raise ConfigError(f"{where}: expected {expected}, got {value!r}{hint}")


@dataclasses.dataclass(frozen=True)
class FeelprintConfig:
    """Shape of the front end, the window CNN and the head. Lengths are in samples or frames."""

    sample_rate: int = 22_050  # Hz, the rate that MECOMP passes to its model
    n_fft: int = 1_024  # samples per frame
    hop_length: int = 704  # samples between frames
    window_frames: int = 32  # frames per window: 32 hops of 704 are 22,528 samples, 1.02 s
    # the first `dense_windows` of a track are all used, and of each later `window_stride` windows
    # the middle one, which stands for all of them; a stride of 1 uses every window
    dense_windows: int = 24
    window_stride: int = 4
    n_mels: int = 64
    f_min: float = 30.0  # Hz
    f_max: float = 8_000.0  # Hz, the upper limit of the default teacher
    # added to the mel power, which is relative to the window's mean, before the logarithm: the
    # log-mel levels off at log(floor), as the teacher's does at its own floor
    floor: float = 1.78e-4
    # filter specifications (count, mels, frames, stride in mels): tall filters respond to timbre,
    # long ones to rhythm. Runtimes compute channels in blocks of 16, so that each shape has a
    # multiple of it: more than the teacher's 23, 14 and 27 active filters, in the same time
    filters: tuple[tuple[int, ...], ...] = (
        (32, 25, 3, 3),
        (16, 45, 3, 3),
        (3, 1, 32, 6),
        (7, 1, 32, 6),
        (22, 1, 16, 6),
    )
    layers: tuple[int, ...] = (32, 64, 64)  # channels of the temporal convolutions that follow
    layer_frames: int = 4  # kernel length of each temporal convolution
    fused: bool = False  # whether scales, shifts and batch norm are folded into the weights
    dim: int = 128  # of a window token
    queries: int = 4  # of the attention pooling
    embedding_dim: int = 32
    dropout: float = 0.1  # on the tokens, while training

    def __post_init__(self) -> None:
        if self.hop_length % DFT_RADIX or self.n_fft % (2 * DFT_RADIX):
            raise ConfigError(
                f"hop_length must be a multiple of {DFT_RADIX} samples and n_fft of "
                f"{2 * DFT_RADIX}, got {self.hop_length} and {self.n_fft}"
            )
        if (self.n_fft - self.hop_length) % (2 * DFT_RADIX):
            raise ConfigError(
                f"n_fft - hop_length must be a multiple of {2 * DFT_RADIX} samples (a window is "
                f"padded by half of it on either side), got {self.n_fft} - {self.hop_length}"
            )
        if (
            self.window_stride < 1
            or self.dense_windows < 0
            or self.dense_windows % self.window_stride
        ):
            raise ConfigError(
                "expected a window_stride of 1 or more and a multiple of it, or 0, as "
                f"dense_windows, got {self.window_stride} and {self.dense_windows}"
            )
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ConfigError(
                f"expected 0 <= f_min < f_max <= {self.sample_rate / 2} Hz, "
                f"got {self.f_min} and {self.f_max}"
            )
        if not self.filters:
            raise ConfigError("filters is empty; give at least one (count, mels, frames, stride)")
        for each in self.filters:
            if len(each) != 4 or min(each) < 1 or each[1] > self.n_mels:
                raise ConfigError(
                    f"filters are (count, mels up to {self.n_mels}, frames, stride in mels), "
                    f"got {list(each)}"
                )
        if min(self.layers, default=0) < 1:
            raise ConfigError(f"layers must have 1 channel or more each, got {list(self.layers)}")
        if self.layer_frames < 1:
            raise ConfigError(f"expected layer_frames of 1 or more, got {self.layer_frames}")

    @property
    def window_length(self) -> int:
        """Samples per window: a whole number of hops and of 64-byte cache lines."""
        return self.hop_length * self.window_frames
