"""The student's configuration: valid values are read, invalid ones give a clear error."""

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
    ("key", "value", "message"),
    [
        ("hop_length", 700, "multiple of 32"),
        ("n_fft", 1_000, "multiple of 32 samples and n_fft of 64"),
        ("hop_length", 736, "n_fft - hop_length"),
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
def test_an_impossible_value_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(FeelprintConfig, {key: value}, "student")


def test_what_json_makes_of_a_configuration_is_read_back() -> None:
    config = FeelprintConfig(filters=((8, 20, 4, 2), (8, 1, 8, 4)), layers=(16, 16), dropout=0.0)
    filters = [[8, 20, 4, 2], [8, 1, 8, 4]]
    plain = dataclasses.asdict(config) | {"filters": filters, "layers": [16, 16], "dropout": 0}
    assert from_mapping(FeelprintConfig, plain, "student") == config


@dataclasses.dataclass
class Part:
    size: int


@dataclasses.dataclass
class Whole:
    parts: tuple[Part, ...] = ()
    names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    on: bool = False


def test_lists_of_dataclasses_and_mappings_are_built() -> None:
    values = {"parts": [{"size": 1}, {"size": 2}], "names": {"a": ["b", "c"]}, "on": True}
    assert from_mapping(Whole, values, "w") == Whole((Part(1), Part(2)), {"a": ("b", "c")}, True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"parts": [{"size": 1}, {"sise": 2}]},
            r"w.parts\[1\]: unknown key sise; known keys: size",
        ),
        ({"parts": [7]}, r"w.parts\[0\]: expected a mapping of keys, got 7"),
        ({"parts": {"size": 1}}, "w.parts: expected a list, got"),
        ({"names": ["a"]}, "w.names: expected a mapping of keys, got"),
        ({"names": {"a": [1]}}, r"w.names.a\[0\]: expected text, got 1"),
        ({"names": {1: ["a"]}}, "w.names: key: expected text, got 1"),
        ({"on": 1}, "w.on: expected true or false, got 1"),
        ({"parts": [{"size": True}]}, "expected a whole number, got True"),
        ({1: 2}, "w: unknown key 1; known keys: names, on, parts"),
    ],
)
def test_a_wrong_type_inside_is_named_by_its_place(
    values: dict[object, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Whole, values, "w")  # type: ignore[arg-type]


def test_a_missing_key_is_named() -> None:
    @dataclasses.dataclass
    class Needy:
        needed: int

    with pytest.raises(ConfigError, match="here: missing key needed"):
        from_mapping(Needy, {}, "here")
