"""The reader of all YAML configurations, strict about keys and types."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml

from student.config import ConfigError, from_mapping

T = TypeVar("T")


def read_config(cls: type[T], path: Path) -> T:
    """The dataclass ``cls`` from the YAML file at ``path``.

    Raises:
        ConfigError: no such file, not YAML, or a key that is unknown, missing or impossible; the
            message names the file, the key, and what was expected.
    """
    if not path.is_file():
        raise ConfigError(f"no configuration at {path}; the project's are in configs/")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, got {values!r}")
    return from_mapping(cls, values, str(path))
