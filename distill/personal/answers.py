"""Answers to "which is the odd one out?", the songs they are about, and a head fitted to them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from tqdm import tqdm

from datasets_scripts.audio import AudioError, decode
from datasets_scripts.corpora.corpus import Corpus, Track
from datasets_scripts.corpora.splits import keys
from datasets_scripts.triplets.table import Triplet, track_of
from student import Feelprint
from student.model import AttentionPool

BASE = Path("rust/models")  # the released model
EXCERPT_S = 18.0  # of a song that an answer names by ID@SECONDS
MOST_WINDOWS = 64  # of a whole song, evenly spread: what the head is fitted on
TARGETS = ["key", "value", "mix", "mlp.0", "mlp.2", "out"]  # the head's linear layers
EVALUATE_EVERY = 10  # steps, where a fit stops early


class AnswersError(RuntimeError):
    """Answers that cannot be used: the message says which, and what is needed."""


def base_model(folder: Path) -> Feelprint:
    """The model in ``folder``, which also holds its ONNX file. Raises AnswersError elsewhere."""
    for name in ("feelprint.onnx", "model.safetensors", "config.json"):
        if not (folder / name).is_file():
            raise AnswersError(f"{folder} is no model's folder: it has no {name}")
    return Feelprint.from_pretrained(str(folder)).eval()


@dataclass(frozen=True)
class Songs:
    """The songs of the answers as the frozen encoder hears them."""

    names: list[str]
    tokens: Tensor  # (songs, windows, dim); zeros past a song's end
    nonsilent_ratio: Tensor  # (songs, windows)

    def embed(self, head: AttentionPool) -> Tensor:
        """The songs' embeddings, (songs, 32)."""
        return head(self.tokens, self.nonsilent_ratio)[0]


@dataclass(frozen=True)
class Answers:
    """Rows of three songs' numbers, the odd one last: (n, 3); how much each counts: (n,)."""

    rows: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self.rows)

    def part(self, at: np.ndarray) -> Answers:
        """Those of the given numbers or mask."""
        return Answers(self.rows[at], self.weight[at])


def to_answers(triplets: Sequence[Triplet], names: Sequence[str]) -> Answers:
    """Triplets as numbers of ``names``; those that nobody could tell are left out.

    Raises AnswersError for a song that is not among ``names``, or no answer at all.
    """
    number = {name: at for at, name in enumerate(names)}
    rows, weight = [], []
    for triplet in triplets:
        if triplet.odd is None:
            continue
        missing = [song for song in triplet.ids if song not in number]
        if missing:
            raise AnswersError(f"the song {missing[0]} of an answer is not known")
        pair = [song for song in triplet.ids if song != triplet.odd]
        rows.append([number[song] for song in (*pair, triplet.odd)])
        weight.append(triplet.weight)
    if not rows:
        raise AnswersError("no answer says which song is the odd one out")
    return Answers(np.array(rows), np.array(weight, dtype=np.float64))


@torch.no_grad()  # not inference mode: a fit goes back through what is built on these
def listen(
    model: Feelprint, corpora: Sequence[Corpus], names: Sequence[str], most: int = MOST_WINDOWS
) -> Songs:
    """Encode the songs (``ID`` or ``ID@SECONDS``), at most ``most`` windows of each.

    Raises AnswersError for a song that no corpus holds, or that cannot be decoded.
    """
    home: dict[str, Corpus] = {t.id: corpus for corpus in corpora for t in corpus.tracks}
    rate, length = model.config.sample_rate, model.config.window_length
    heard: list[tuple[Tensor, Tensor]] = []
    for name in tqdm(names, desc="songs", unit="song"):
        track = track_of(name)
        if track not in home:
            where = ", ".join(str(corpus.folder) for corpus in corpora)
            raise AnswersError(f"the answers name the song {track}, which is not in {where}")
        try:
            audio = decode(home[track].audio_bytes(track), rate)
        except AudioError as error:
            raise AnswersError(f"the song {track} cannot be heard: {error}") from None
        if "@" in name:
            start = round(float(name.split("@")[1]) * rate)
            audio = audio[start : start + round(EXCERPT_S * rate)]
        windows = model.windows(torch.from_numpy(audio)[None])[0]  # (windows, window_length)
        at = np.linspace(0, len(windows) - 1, min(most, len(windows))).round().astype(int)
        tokens, nonsilent_ratio = model.encode(windows[at].reshape(1, -1))
        assert tokens.shape[1] == len(at) and windows.shape[1] == length
        heard.append((tokens[0], nonsilent_ratio[0]))
    tokens = torch.nn.utils.rnn.pad_sequence([t for t, _ in heard], batch_first=True)
    nonsilent_ratio = torch.nn.utils.rnn.pad_sequence([a for _, a in heard], batch_first=True)
    return Songs(list(names), tokens, nonsilent_ratio)


def right(embeddings: np.ndarray, answers: Answers) -> np.ndarray:
    """Whether the two that belong together are the nearest of the three pairs: (n,) of 0 and 1."""
    x, y, odd = (embeddings[answers.rows[:, i]].astype(np.float64) for i in range(3))
    near, far, rest = (np.linalg.norm(p - q, axis=1) for p, q in ((x, y), (x, odd), (y, odd)))
    return (near < np.minimum(far, rest)).astype(float)


@dataclass(frozen=True)
class FitConfig:
    """How a head is fitted to answers.

    The loss is the weighted cross entropy of the odd one out plus `prior` times the mean squared
    distance to the base's embeddings, over the sum of the answers' weights: the more answers, the
    less the base holds. `rank` 0 fits the whole head instead of a LoRA of that rank. Few steps:
    what a head learns of its answers later, it learns by heart.
    """

    steps: int = 40
    learning_rate: float = 3e-3
    rank: int = 4
    prior: float = 20.0
    temperature: float = 0.1


@torch.inference_mode(False)
def fit(
    head: AttentionPool,
    songs: Songs,
    answers: Answers,
    config: FitConfig,
    stop: Answers | None = None,
    seed: int = 0,
) -> AttentionPool:
    """A copy of ``head``, fitted; with ``stop``, as it was when these answers went best.

    LoRA: E. Hu et al., "LoRA: low-rank adaptation of large language models", 2021; merged into
    the weights before it is returned, so the result has the base's shape.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        base = songs.embed(head)
    module: torch.nn.Module = copy.deepcopy(head).requires_grad_(True)
    if config.rank:
        lora = LoraConfig(
            r=config.rank, lora_alpha=2 * config.rank, lora_dropout=0.0, target_modules=TARGETS
        )
        module = get_peft_model(module, lora)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    rows = torch.from_numpy(answers.rows)
    weight = torch.from_numpy(answers.weight).float()
    target = torch.zeros(len(rows), dtype=torch.long)
    best, kept = -np.inf, copy.deepcopy(module.state_dict())
    for step in range(config.steps + 1):
        made = module(songs.tokens, songs.nonsilent_ratio)[0]
        if stop is not None and step % EVALUATE_EVERY == 0:
            going = _likelihood(made.detach(), stop, config.temperature)
            if going > best:
                best, kept = going, copy.deepcopy(module.state_dict())
        if step == config.steps:
            break
        scores = _similarities(made, rows) / config.temperature
        told = (F.cross_entropy(scores, target, reduction="none") * weight).sum()
        held = config.prior * (made - base).square().sum(dim=1).mean()
        optimiser.zero_grad()
        ((told + held) / weight.sum()).backward()
        optimiser.step()
    if stop is not None:
        module.load_state_dict(kept)
    fitted = module.merge_and_unload() if config.rank else module  # type: ignore[operator]
    return cast(AttentionPool, fitted.requires_grad_(False).eval())


def _similarities(made: Tensor, rows: Tensor) -> Tensor:
    """Of the three pairs, the one that leaves the odd one out first: (n, 3).

    Half the squared distance, negative: of unit vectors the dot product, but for a constant.
    """
    x, y, odd = (made[rows[:, i]] for i in range(3))
    apart = [(p - q).square().sum(dim=1) for p, q in ((x, y), (x, odd), (y, odd))]
    return torch.stack(apart, dim=1) / -2


def _likelihood(made: Tensor, answers: Answers, temperature: float) -> float:
    scores = _similarities(made, torch.from_numpy(answers.rows)) / temperature
    weight = torch.from_numpy(answers.weight).float()
    return float((F.log_softmax(scores, dim=1)[:, 0] * weight).sum() / weight.sum())


def embed(head: AttentionPool, songs: Songs) -> np.ndarray:
    """The songs' embeddings by ``head``: (songs, 32)."""
    with torch.inference_mode():
        return songs.embed(head.eval()).numpy()


def ties(triplets: Sequence[Triplet], tracks: Sequence[Track]) -> list[set[str]]:
    """The songs, artists and albums of each triplet."""
    of = {track.id: keys(track.artist, track.album) | {f"track {track.id}"} for track in tracks}
    return [set().union(*(of[track_of(song)] for song in t.ids)) for t in triplets]


def tied_groups(triplets: Sequence[Triplet], tracks: Sequence[Track]) -> np.ndarray:
    """A number for each triplet; those that share a song, artist or album, also through others,
    have the same: (n,).
    """
    numbers: dict[str, int] = {}
    at, tie = [], []
    for n, tied in enumerate(ties(triplets, tracks)):
        for key in tied:
            at.append(n)
            tie.append(len(triplets) + numbers.setdefault(key, len(numbers)))
    size = len(triplets) + len(numbers)
    graph = coo_matrix((np.ones(len(at)), (at, tie)), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(triplets)]


def folds(groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """A fold for each item (n,), whole groups together, the folds as even as that allows.

    Raises AnswersError for fewer groups than folds.
    """
    sizes = np.bincount(np.unique(groups, return_inverse=True)[1])
    if len(sizes) < k:
        raise AnswersError(
            f"the answers fall into {len(sizes)} groups that stay together, too few for {k} folds; "
            "answers about other songs are needed"
        )
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large ones first, then fill up
    load, fold = np.zeros(k), np.zeros(len(sizes), dtype=np.int64)
    for group in order:
        fold[group] = load.argmin()
        load[fold[group]] += sizes[group]
    return fold[np.unique(groups, return_inverse=True)[1]]


def rounded(model: Feelprint) -> Feelprint:
    """The model with every weight as float16 holds it, as a released one is."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model


def with_head(model: Feelprint, head: AttentionPool) -> Feelprint:
    """A copy of ``model`` that ends in ``head``."""
    made = Feelprint(dataclasses.replace(model.config))
    made.load_state_dict(model.state_dict())
    made.head.load_state_dict(head.state_dict())
    return rounded(made).eval()
