"""The picture of the valence and arousal plane: where people and the model place clips."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from datasets_scripts.musifeast import build_musifeast
from datasets_scripts.ratings import rated_corpus
from distill.evaluation import plane
from distill.evaluation.excerpts import student_embedder
from distill.evaluation.people import anchor_scores, embed_clips
from distill.evaluation.plane import main, picture, places
from student import Feelprint
from tests.datasets_scripts.made_musifeast import write_musifeast

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plane")
    build_musifeast(write_musifeast(folder / "in"), folder / "corpus")
    return folder / "corpus"


def test_clips_are_drawn_where_they_are_placed() -> None:
    """The corners of the scale are the corners of a panel: valence to the right, arousal up."""
    corners = np.array([[1.0, 1.0], [5.0, 5.0], [3.0, 1.0]])
    root = ET.fromstring(picture({"people": corners}, np.array(["Jazz", "Rock & roll", "Jazz"])))
    panel = root.findall(f"{SVG}rect")[1]
    left, top, side = (float(panel.attrib[name]) for name in ("x", "y", "width"))
    dots = [dot for dot in root.findall(f"{SVG}circle") if dot.find(f"{SVG}title") is not None]
    found = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in dots]
    assert found == [(left, top + side), (left + side, top), (left + side / 2, top + side)]
    assert dots[0].attrib["fill"] == dots[2].attrib["fill"] != dots[1].attrib["fill"]
    legend = {text.text for text in root.findall(f"{SVG}text")}
    assert {"people", "valence", "arousal", "Jazz", "Rock & roll"} <= legend


def test_places_are_the_neighbours_ratings_and_cross_validated_where_fitted(
    corpus: Path, exported: tuple[Feelprint, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(exported[0])
    rated, placed, ratings = places(model, corpus)
    assert np.array_equal(rated, np.stack([ratings.valence, ratings.arousal], axis=1))
    embed = student_embedder(model.without_ratings())
    vectors = embed_clips(rated_corpus(corpus)[0], [str(i) for i in ratings.ids], embed, "clips")
    scores = anchor_scores(vectors, ratings)
    assert np.allclose(placed[:, 0], scores["valence_r"][:, 1])
    assert np.allclose(placed[:, 1], scores["arousal_r"][:, 1])

    # a fitted metric is fitted anew for each fold: here one that keeps the first dimension alone
    first = np.eye(vectors.shape[1])[:, :1]
    monkeypatch.setattr(plane, "is_fitted_to", lambda *_: True)
    monkeypatch.setattr(plane, "fit_rating_metric", lambda *_: first)
    scores = anchor_scores(vectors @ first, ratings)
    assert np.allclose(places(model, corpus)[1][:, 1], scores["arousal_r"][:, 1])


def test_the_command(corpus: Path, exported: tuple[Feelprint, Path], tmp_path: Path) -> None:
    exported[0].save_pretrained(tmp_path / "model")
    out = tmp_path / "people.svg"
    main([str(corpus), "--model", str(tmp_path / "model"), "--out", str(out)])
    assert out.read_text().count("<title>") == 2 * len(places(exported[0], corpus)[2])
    with pytest.raises(SystemExit, match=r"error: no model.safetensors in"):
        main([str(corpus), "--model", str(tmp_path / "none"), "--out", str(out)])
