"""The student's shape: what a configuration may say, and what it is told when it may not."""

import dataclasses

import pytest

from student import ConfigError, Feelprint, FeelprintConfig
from student.config import from_mapping


def test_a_window_is_whole_hops_and_whole_cache_lines() -> None:
    config = FeelprintConfig()
    assert config.window_length == 22_528 == config.hop_length * config.window_frames
    assert config.window_length * 4 % 64 == 0


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"student: unknown key n_mel; known keys: .*n_mels"):
        Feelprint({"n_mel": 64})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hop_length", 700, "multiple of 16"),
        ("n_fft", 1_000, "multiple of 16 samples and n_fft of 32"),
        ("hop_length", 720, "n_fft - hop_length"),
        ("f_max", 12_000.0, "f_min < f_max"),
        ("f_min", 9_000.0, "f_min < f_max"),
        ("n_mels", 40, "mels up to 40, frames, stride"),
        ("filters", [[8, 25, 4]], r"got \[8, 25, 4\]"),
        ("filters", [[8, 25, 4, 0]], "filters are"),
        ("filters", [[8, 65, 4, 2]], "mels up to 64"),
        ("filters", [], "give at least one"),
        ("layers", [0], "layers must have 1 channel or more"),
        ("layer_frames", 0, "layer_frames"),
        ("n_mels", "64", "expected a whole number, got '64'"),
        ("dropout", "1e-1", "YAML reads 1e-3 as text"),
        ("layers", [64, 128.5], r"layers\[1\]: expected a whole number"),
        ("filters", [[8, 25, 4, 2.5]], r"filters\[0\]\[3\]: expected a whole number"),
        ("filters", [8], r"filters\[0\]: expected a list"),
    ],
)
def test_an_impossible_value_is_refused(key: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_mapping(FeelprintConfig, {key: value}, "student")


def test_what_json_makes_of_a_configuration_is_read_back() -> None:
    config = FeelprintConfig(filters=((8, 20, 4, 2), (8, 1, 8, 4)), layers=(16, 16), dropout=0.0)
    filters = [[8, 20, 4, 2], [8, 1, 8, 4]]
    plain = dataclasses.asdict(config) | {"filters": filters, "layers": [16, 16], "dropout": 0}
    assert from_mapping(FeelprintConfig, plain, "student") == config


def test_a_missing_key_is_named() -> None:
    @dataclasses.dataclass
    class Needy:
        needed: int

    with pytest.raises(ConfigError, match="here: missing key needed"):
        from_mapping(Needy, {}, "here")
