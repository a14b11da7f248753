"""A pretrained checkpoint on disk: a local folder, or a name on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, RevisionResolutionError

from distill.teachers.base import TeacherError

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # in this order of preference


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a configuration and weights, its name and its revision."""

    folder: Path
    name: str
    revision: str  # the Hub's commit, or a digest of the folder's files

    def settings(self, file: str) -> dict[str, Any]:
        """The JSON object in ``file``. Raises TeacherError where there is none."""
        path = self.folder / file
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise TeacherError(f"{path} is missing; copy it from the model's repository") from None
        except ValueError as error:
            raise TeacherError(f"{path} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise TeacherError(f"{path}: expected a JSON object, got {values!r}")
        return values


def find_checkpoint(path: str, revision: str) -> Checkpoint:
    """The checkpoint in the folder ``path``, or of that name and ``revision`` on the Hub.

    A folder's revision is a digest of its configuration and weights, so that a folder with other
    weights is another teacher. From the Hub, files in its local cache are not downloaded again.

    Raises:
        TeacherError: no such folder and no such name, no network, or no weights.
    """
    if Path(path).is_dir():
        folder = Path(path)
        return Checkpoint(folder, folder.resolve().name, _digest(folder, _weights(folder)))
    try:
        folder = Path(snapshot_download(path, revision=revision, allow_patterns="*.json"))
        for pattern in WEIGHTS:
            wanted = ["*.json", pattern]
            folder = Path(snapshot_download(path, revision=folder.name, allow_patterns=wanted))
            if any(folder.glob(pattern)):
                break
    except (OSError, HTTPError, HFValidationError, RevisionResolutionError) as error:
        reason = str(error).strip().splitlines()
        raise TeacherError(
            f"there is no folder {path}, and {path} (revision {revision}) cannot be fetched from "
            f"the Hugging Face Hub: {reason[0] if reason else type(error).__name__}\n"
            f"With a network, `hf download {path} --revision {revision}` shows the details. "
            "Without one, copy the repository's *.json files and its model.safetensors (or "
            "pytorch_model.bin) into a folder and give that folder as the teacher's path"
        ) from error
    _weights(folder)
    return Checkpoint(folder, path, folder.name)


def _weights(folder: Path) -> list[Path]:
    """The files with the weights. Raises TeacherError where there are none."""
    for pattern in WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    raise TeacherError(f"{folder} holds no weights; expected one of {', '.join(WEIGHTS)}")


def _digest(folder: Path, weights: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in [*sorted(folder.glob("*config.json")), *weights]:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.name} {digest}\n".encode())
    return f"sha256-{whole.hexdigest()[:16]}"
