from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from distill.teachers.base import TeacherError
from tests.tones import write_tones

torch.set_num_threads(1)
TEACHER = Path(__file__).parents[2] / "data" / "teacher"


@pytest.fixture(autouse=True)
def no_accelerator_of_an_earlier_test() -> None:
    """accelerate keeps one state a process, and refuses a run of another precision."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def wheel_folder() -> Path:
    """The folder with the default teacher's wheel. Raises TeacherError where it is missing."""
    from distill.teachers.musicnn import WHEEL

    if not (TEACHER / WHEEL.filename).is_file():
        raise TeacherError(
            f"{TEACHER / WHEEL.filename} is missing: run `make setup`, which fetches it"
        )
    return TEACHER


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 24 tracks of 11 s in 8 albums, of which 2 are held out."""
    return write_tones(tmp_path_factory.mktemp("corpora") / "tones", seconds=11.0, albums=8)


@pytest.fixture(scope="session")
def vibenet_wheel() -> Path:
    """The folder with VibeNet's wheel, which is fetched with its checksum when it is missing."""
    from distill.teachers.vibenet import WHEEL

    return WHEEL.fetch(TEACHER).parent
