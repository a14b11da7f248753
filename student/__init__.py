"""feelprint's student: the model that a player runs, and nothing that only training needs."""

from student.config import ConfigError, FeelprintConfig
from student.model import Feelprint

__all__ = ["ConfigError", "Feelprint", "FeelprintConfig"]
