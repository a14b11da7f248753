"""Active selection needs fewer answers than random rounds for the same held-out accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from survey.rounds.simulate import Curves, Simulation, plot, simulate

SMALL = Simulation(
    tracks=120, features=12, dim=4, initial_answers=60, batch=40, answers=260, members=5, steps=80,
    held_out=2000,
)  # fmt: skip
DOCS = Path(__file__).parents[2] / "docs" / "survey"


@pytest.mark.slow
def test_active_needs_fewer_answers_at_the_end() -> None:
    torch.set_num_threads(1)
    curves = simulate(SMALL, [0, 1], lambda _: None)
    active, random = (curves.accuracy[strategy].mean(axis=0) for strategy in ("active", "random"))
    assert curves.answers == [60, 100, 140, 180, 220, 260]
    assert active[0] == random[0]  # the same first answers
    assert active[-1] > random[-1] + 0.02
    assert curves.answers_needed("active", random[-1]) < 0.8 * curves.answers[-1]
    assert curves.answers_needed("random", active[-1]) == float("inf")


def test_needed_interpolates() -> None:
    curves = Curves([100, 200, 300], {"active": np.array([[0.5, 0.7, 0.8]])})
    assert curves.answers_needed("active", 0.6) == 150
    assert curves.answers_needed("active", 0.5) == 100
    assert curves.answers_needed("active", 0.9) == float("inf")


def test_the_plot_in_the_docs_is_of_the_figures_beside_it() -> None:
    held = json.loads((DOCS / "simulation.json").read_text())
    accuracy = {strategy: np.asarray(held[strategy]) for strategy in ("active", "random")}
    curves = Curves(held["answers"], accuracy)
    assert (DOCS / "simulation.svg").read_text() == plot(curves) + "\n"
    end = accuracy["random"].mean(axis=0)[-1]
    assert curves.answers_needed("active", end) < 0.7 * curves.answers[-1]
