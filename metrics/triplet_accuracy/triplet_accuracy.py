"""Triplet accuracy: how often an embedding agrees on which of three items is the odd one out.

The file is published alone, so it imports nothing of the repository that it comes from.
"""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Of three items, two belong together (anchor and positive) and one is the odd one out (negative). The
metric is the share of triplets in which the distances between embeddings agree, in one of two
definitions: "triplet", d(a, p) < d(a, n) (50 % by chance), or "odd_one_out", where d(a, p) is the
smallest of the three distances (33 % by chance). A tie counts as wrong.
"""

_INPUTS = """
Args:
    a, b, c: embeddings of the three items, one list of floats per triplet.
    odd: 0, 1 or 2: which of a, b and c is the odd one out. Of the other two, the first is the
        anchor of the "triplet" definition.
    anchor, positive, negative: the same as a, b, c with odd = 2 throughout.
    definition: "triplet" or "odd_one_out"; where it is not given, the configuration's name, as in
        evaluate.load("triplet_accuracy", "triplet"), or else "odd_one_out".
    distance: "euclidean" or "cosine".
    weights: one non-negative number per triplet, or none: equal weights.
    groups: one value per triplet, or none. With groups (such as the anchor's album) the interval
        is a bootstrap over groups; without, it is Wilson's, which assumes independent triplets.
    bootstrap: number of resamples. seed: of the resampling.
Returns:
    accuracy, low, high: the accuracy and its 95 % interval. n: triplets. ties: triplets whose
    nearest two distances are equal. chance: the expected accuracy of a random embedding.
Raises:
    ValueError: no triplets, an unknown definition or distance, embeddings of different lengths or
        with a value that is not finite, an odd that is not 0, 1 or 2, weights that are negative,
        all zero, or not one per triplet; groups that are not one per triplet.
Examples:
    >>> metric = evaluate.load("triplet_accuracy")
    >>> figures = metric.compute(anchor=[[0.0]], positive=[[1.0]], negative=[[3.0]])
    >>> figures["accuracy"]
    1.0
"""

CHANCE = {"triplet": 1 / 2, "odd_one_out": 1 / 3}
Z95 = 1.959964


ROLES = ("anchor", "positive", "negative")


def by_letter(inputs, single):
    """The inputs as a, b, c and odd, whether given so or as anchor, positive and negative.

    ``single``: they are of one triplet, not of a batch.
    """
    roles = [role for role in ROLES if inputs.get(role) is not None]
    if not roles:
        return inputs
    rest = {name: value for name, value in inputs.items() if name not in ROLES}
    if len(roles) < 3 or any(rest.get(name) is not None for name in ("a", "b", "c", "odd")):
        raise ValueError("give either a, b, c and odd, or anchor, positive and negative")
    a, b, c = (inputs[role] for role in ROLES)
    return rest | {"a": a, "b": b, "c": c, "odd": 2 if single else [2] * len(a)}


def distances(x, y, distance):
    """Row-wise distances of (n, dim) and (n, dim): (n,)."""
    if distance == "euclidean":
        return np.linalg.norm(x - y, axis=1)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    if np.any(norms == 0):
        raise ValueError("the cosine distance of an embedding of length zero is not defined")
    return 1 - (x * y).sum(axis=1) / norms


def wilson(share, n):
    """Wilson's 95 % interval of a share of n cases (E. B. Wilson, 1927)."""
    centre = share + Z95**2 / (2 * n)
    half = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return (centre - half) / (1 + Z95**2 / n), (centre + half) / (1 + Z95**2 / n)


def bootstrap_groups(correct, weights, groups, resamples, seed):
    """Percentile 95 % interval of the weighted mean, whole groups drawn with replacement."""
    group_of = np.unique(groups, return_inverse=True)[1]
    corrects = np.bincount(group_of, correct * weights)
    totals = np.bincount(group_of, weights)
    drawn = np.random.default_rng(seed).integers(len(totals), size=(resamples, len(totals)))
    sums = totals[drawn].sum(axis=1)
    means = corrects[drawn].sum(axis=1)[sums > 0] / sums[sums > 0]
    return np.percentile(means, 2.5), np.percentile(means, 97.5)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class TripletAccuracy(evaluate.Metric):
    """The metric that `evaluate.load` returns."""

    def compute(self, **inputs):
        """See the inputs' description."""
        return super().compute(**by_letter(inputs, single=False))

    def add_batch(self, **inputs):
        """Add several triplets, in either naming."""
        return super().add_batch(**by_letter(inputs, single=False))

    def add(self, **inputs):
        """Add one triplet, in either naming."""
        return super().add(**by_letter(inputs, single=True))

    def _info(self):
        vector = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"a": vector, "b": vector, "c": vector, "odd": datasets.Value("int64")}
            ),
        )

    def _compute(
        self,
        a,
        b,
        c,
        odd,
        definition=None,
        distance="euclidean",
        weights=None,
        groups=None,
        bootstrap=1000,
        seed=0,
    ):
        if definition is None:
            definition = self.config_name if self.config_name in CHANCE else "odd_one_out"
        if definition not in CHANCE:
            raise ValueError(f"definition is {definition!r}; known: {', '.join(CHANCE)}")
        if distance not in ("euclidean", "cosine"):
            raise ValueError(f"distance is {distance!r}; known: euclidean, cosine")
        odd = np.asarray(odd)
        n = len(odd)
        if n == 0:
            raise ValueError("no triplets were given")
        lengths = {len(row) for item in (a, b, c) for row in item}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"all embeddings must have one length, found {sorted(lengths)}")
        items = np.stack([np.asarray(x, dtype=np.float64) for x in (a, b, c)])  # (3, n, dim)
        if not np.isin(odd, (0, 1, 2)).all():
            raise ValueError("odd must be 0, 1 or 2: which of a, b and c is the odd one out")
        if not np.isfinite(items).all():
            raise ValueError("an embedding holds a value that is not finite")
        weights = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
        if len(weights) != n or np.any(weights < 0) or weights.sum() == 0:
            raise ValueError(f"expected {n} weights, none negative, not all zero")
        if groups is not None and len(groups) != n:
            raise ValueError(f"expected {n} groups, one per triplet, got {len(groups)}")
        order = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])[odd]  # anchor, positive, negative
        anchor, positive, negative = (items[order[:, i], np.arange(n)] for i in range(3))
        to_positive = distances(anchor, positive, distance)
        to_negative = distances(anchor, negative, distance)
        if definition == "odd_one_out":
            to_negative = np.minimum(to_negative, distances(positive, negative, distance))
        correct = (to_positive < to_negative).astype(np.float64)
        accuracy = float((correct * weights).sum() / weights.sum())
        if groups is None:
            # the effective number of weighted triplets (L. Kish, 1965)
            low, high = wilson(accuracy, weights.sum() ** 2 / np.square(weights).sum())
        else:
            low, high = bootstrap_groups(correct, weights, np.asarray(groups), bootstrap, seed)
        return {
            "accuracy": accuracy,
            "low": float(low),
            "high": float(high),
            "n": n,
            "ties": int((to_positive == to_negative).sum()),
            "chance": CHANCE[definition],
        }
