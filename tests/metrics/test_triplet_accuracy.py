"""The published metric on cases worked out by hand."""

from pathlib import Path

import evaluate
import numpy as np
import pytest

FOLDER = str(Path(__file__).parents[2] / "metrics" / "triplet_accuracy")
ORIGIN, NEAR, FAR = [0.0, 0.0], [0.0, 1.0], [3.0, 0.0]


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(FOLDER)


def test_the_odd_one_is_found_wherever_it_stands(metric):
    result = metric.compute(
        a=[ORIGIN, ORIGIN, FAR], b=[NEAR, FAR, ORIGIN], c=[FAR, NEAR, NEAR], odd=[2, 1, 0]
    )
    assert result["accuracy"] == 1.0
    assert (result["n"], result["ties"]) == (3, 0)
    assert result["chance"] == pytest.approx(1 / 3)


def test_the_definitions_differ_where_the_positive_is_nearest_to_the_negative(metric):
    # on a line: anchor 0, positive 2, negative 3: d(a,p)=2 < d(a,n)=3, yet d(p,n)=1 is smallest
    inputs = {"anchor": [[0.0]], "positive": [[2.0]], "negative": [[3.0]]}
    assert metric.compute(**inputs, definition="triplet")["accuracy"] == 1.0
    assert metric.compute(**inputs, definition="odd_one_out")["accuracy"] == 0.0


def test_a_tie_is_wrong_and_counted(metric):
    result = metric.compute(anchor=[[0.0]], positive=[[1.0]], negative=[[-1.0]])
    assert (result["accuracy"], result["ties"]) == (0.0, 1)


def test_both_namings_give_the_same_result(metric):
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 50, 4))
    by_letters = metric.compute(a=a, b=b, c=c, odd=[2] * 50)
    assert by_letters == metric.compute(anchor=a, positive=b, negative=c)
    metric.add_batch(anchor=a[:20], positive=b[:20], negative=c[:20])
    for i in range(20, 50):
        metric.add(anchor=a[i], positive=b[i], negative=c[i])
    assert metric.compute() == by_letters


def test_naming_both_ways_is_refused(metric):
    with pytest.raises(ValueError, match="either a, b, c and odd, or anchor"):
        metric.compute(anchor=[ORIGIN], positive=[NEAR], negative=[FAR], odd=[2])


def test_weights_count(metric):
    right, wrong = (ORIGIN, NEAR, FAR), (ORIGIN, FAR, NEAR)
    a, b, c = (list(side) for side in zip(right, wrong, strict=True))
    assert metric.compute(a=a, b=b, c=c, odd=[2, 2], weights=[3.0, 1.0])["accuracy"] == 0.75
    assert metric.compute(a=a, b=b, c=c, odd=[2, 2], weights=[0.0, 2.0])["accuracy"] == 0.0


def test_wilsons_interval_of_nine_in_twelve(metric):
    a, b, c = [ORIGIN] * 12, [NEAR] * 9 + [FAR] * 3, [FAR] * 9 + [NEAR] * 3
    result = metric.compute(a=a, b=b, c=c, odd=[2] * 12)
    assert result["accuracy"] == 0.75
    # Wilson's 95 % interval of 9 in 12, worked out from his formula
    assert (result["low"], result["high"]) == (
        pytest.approx(0.4677, abs=5e-4),
        pytest.approx(0.9111, abs=5e-4),
    )


def test_groups_widen_the_interval_where_their_items_correlate(metric):
    # ten groups of twenty; all of a group are correct, or all wrong
    correct = np.repeat([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], 20).astype(bool)
    b = np.where(correct[:, None], NEAR, FAR)
    c = np.where(correct[:, None], FAR, NEAR)
    inputs = {"a": [ORIGIN] * 200, "b": b, "c": c, "odd": [2] * 200}
    alone = metric.compute(**inputs)
    grouped = metric.compute(**inputs, groups=np.repeat(np.arange(10), 20))
    assert alone["accuracy"] == grouped["accuracy"] == 0.5
    assert grouped["high"] - grouped["low"] > 2 * (alone["high"] - alone["low"])
    assert metric.compute(**inputs, groups=np.repeat(np.arange(10), 20)) == grouped  # seeded


def test_cosine_ignores_lengths(metric):
    inputs = {"anchor": [[1.0, 0.0]], "positive": [[50.0, 1.0]], "negative": [[1.0, 1.0]]}
    assert metric.compute(**inputs, distance="cosine")["accuracy"] == 1.0
    assert metric.compute(**inputs, distance="euclidean")["accuracy"] == 0.0


def test_evaluate_combines_both_definitions():
    both = evaluate.combine(
        {name: evaluate.load(FOLDER, name) for name in ("triplet", "odd_one_out")}
    )
    result = both.compute(a=[[0.0]], b=[[2.0]], c=[[3.0]], odd=[2])
    assert (result["triplet_accuracy"], result["odd_one_out_accuracy"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"odd": [3]}, "odd must be 0, 1 or 2"),
        ({"definition": "best"}, "definition is 'best'; known: triplet, odd_one_out"),
        ({"distance": "manhattan"}, "known: euclidean, cosine"),
        ({"weights": [-1.0]}, "expected 1 weights, none negative"),
        ({"weights": [0.0]}, "not all zero"),
        ({"weights": [1.0, 1.0]}, "expected 1 weights"),
        ({"groups": ["x", "y"]}, "expected 1 groups"),
        ({"c": [[3.0]]}, r"one length, found \[1, 2\]"),
        ({"c": [[float("nan"), 0.0]]}, "not finite"),
        ({"c": [[0.0, 0.0]], "distance": "cosine"}, "length zero"),
    ],
)
def test_bad_input_is_refused(metric, change, message):
    inputs = {"a": [[1.0, 0.0]], "b": [[0.0, 1.0]], "c": [[3.0, 0.0]], "odd": [2]} | change
    with pytest.raises(ValueError, match=message):
        metric.compute(**inputs)


def test_no_triplets_are_refused(metric):
    with pytest.raises(ValueError, match="no triplets"):
        metric.compute(a=[], b=[], c=[], odd=[])


def test_the_folder_is_a_space():
    names = {path.name for path in Path(FOLDER).iterdir()}
    assert {"README.md", "app.py", "requirements.txt", "triplet_accuracy.py"} <= names
    card = (Path(FOLDER) / "README.md").read_text()
    assert "sdk: gradio" in card and "app_file: app.py" in card
