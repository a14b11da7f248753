"""Odd-one-out answers, the encoded tracks that they name, and a head fitted to them."""

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
from torch import Tensor
from tqdm import tqdm

from datasets_scripts.audio import AudioError, decode
from datasets_scripts.corpora.corpus import Corpus, Track
from datasets_scripts.corpora.splits import connected_groups
from datasets_scripts.triplets.distance import opposite_squares
from datasets_scripts.triplets.table import Triplet, group_keys, track_of
from student import Feelprint
from student.model import AttentionPool

BASE = Path("rust/models")  # the released model
SURVEY = Path("data/survey")  # where the survey keeps its index of a folder of music
EXCERPT_S = 18.0  # of a track that an answer names by ID@SECONDS
MAX_WINDOWS = 64  # of a whole track, evenly spaced, to fit the head on
LORA_TARGETS = ["key", "value", "mix", "mlp.0", "mlp.2", "out"]  # the head's linear layers
EVALUATE_EVERY = 10  # steps, with early stopping


class AnswersError(RuntimeError):
    """Answers that cannot be used: the message says which, and what is needed."""


def base_model(folder: Path) -> Feelprint:
    """The model in ``folder``, which also holds its ONNX file. Raises AnswersError elsewhere."""
    for name in ("feelprint.onnx", "model.safetensors", "config.json"):
        if not (folder / name).is_file():
            raise AnswersError(f"{folder} is not a model's folder: it has no {name}")
    return Feelprint.from_pretrained(str(folder)).eval()


@dataclass(frozen=True)
class EncodedTracks:
    """The window tokens of the tracks in the answers, by the frozen encoder."""

    names: list[str]  # ID or ID@SECONDS
    tokens: Tensor  # (tracks, windows, dim); zeros after the end of a track
    window_weight: Tensor  # (tracks, windows)

    def embed(self, head: AttentionPool) -> Tensor:
        """The tracks' embeddings, (tracks, embedding_dim)."""
        return head(self.tokens, self.window_weight)[0]


@dataclass(frozen=True)
class Answers:
    """Rows of three track numbers, the odd one last: (n, 3); the weight of each: (n,)."""

    rows: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self.rows)

    def subset(self, index: np.ndarray) -> Answers:
        """The answers at these numbers, or where this mask (n,) is true."""
        return Answers(self.rows[index], self.weight[index])

    def question_ids(self) -> np.ndarray:
        """A number for each answer, equal for answers about the same three tracks: (n,)."""
        return np.unique(np.sort(self.rows, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def to_answers(triplets: Sequence[Triplet], names: Sequence[str]) -> Answers:
    """Triplets as numbers of ``names``; those without an odd one are dropped.

    Raises AnswersError for a track that is not among ``names``, or no answer at all.
    """
    number = {name: n for n, name in enumerate(names)}
    rows, weight = [], []
    for triplet in triplets:
        if triplet.odd is None:
            continue
        missing = [id for id in triplet.ids if id not in number]
        if missing:
            raise AnswersError(f"the track {missing[0]} of an answer is not known")
        pair = [id for id in triplet.ids if id != triplet.odd]
        rows.append([number[id] for id in (*pair, triplet.odd)])
        weight.append(triplet.weight)
    if not rows:
        raise AnswersError("no answer says which track is the odd one out")
    return Answers(np.array(rows), np.array(weight, dtype=np.float64))


@torch.no_grad()  # not inference mode: a fit needs gradients of functions of these tokens
def encode_tracks(
    model: Feelprint,
    corpora: Sequence[Corpus],
    names: Sequence[str],
    max_windows: int = MAX_WINDOWS,
) -> EncodedTracks:
    """Encode the tracks (``ID`` or ``ID@SECONDS``), at most ``max_windows`` windows of each.

    Raises AnswersError for a track that no corpus holds, or that cannot be decoded.
    """
    corpus_of: dict[str, Corpus] = {t.id: corpus for corpus in corpora for t in corpus.tracks}
    rate = model.config.sample_rate
    encoded: list[tuple[Tensor, Tensor]] = []
    for name in tqdm(names, desc="tracks", unit="track"):
        track = track_of(name)
        if track not in corpus_of:
            where = ", ".join(str(corpus.folder) for corpus in corpora)
            raise AnswersError(f"the answers name the track {track}, which is not in {where}")
        try:
            audio = decode(corpus_of[track].audio_bytes(track), rate)
        except AudioError as error:
            raise AnswersError(f"the track {track} cannot be decoded: {error}") from None
        if "@" in name:
            start = round(float(name.split("@")[1]) * rate)
            audio = audio[start : start + round(EXCERPT_S * rate)]
        windows, spans = (one[0] for one in model.windows(torch.from_numpy(audio)[None]))
        count = min(max_windows, len(windows))
        chosen = np.linspace(0, len(windows) - 1, count).round().astype(int)
        log_mel, nonsilent_ratio = model.log_mel(windows[chosen])
        encoded.append((model.cnn(log_mel), nonsilent_ratio * spans[chosen]))
    tokens = torch.nn.utils.rnn.pad_sequence([t for t, _ in encoded], batch_first=True)
    window_weight = torch.nn.utils.rnn.pad_sequence([r for _, r in encoded], batch_first=True)
    return EncodedTracks(list(names), tokens, window_weight)


def triplet_correct(embeddings: np.ndarray, answers: Answers) -> np.ndarray:
    """Whether the pair without the odd one is the nearest of the three: (n,) of 0 and 1."""
    y_odd, x_odd, pair = opposite_squares(embeddings.astype(np.float64), answers.rows)
    return (pair < np.minimum(x_odd, y_odd)).astype(float)


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit.

    The loss is the weighted cross entropy of the odd one out plus `prior` times the mean squared
    distance to the base's embeddings, divided by the sum of the answers' weights: the prior weighs
    less the more answers there are. `rank` 0 fits the whole head instead of a LoRA of that rank.
    The steps are few because a longer fit overfits.
    """

    steps: int = 40
    learning_rate: float = 3e-3
    rank: int = 4
    prior: float = 20.0
    temperature: float = 0.1


@torch.inference_mode(False)
def fit(
    head: AttentionPool,
    tracks: EncodedTracks,
    answers: Answers,
    config: FitConfig,
    val: Answers | None = None,
    seed: int = 0,
) -> AttentionPool:
    """A fitted copy of ``head``; with ``val``, from the step with the best likelihood of these.

    LoRA: E. Hu et al., "LoRA: low-rank adaptation of large language models", 2021. It is merged
    into the weights, so the result has the shape of ``head``.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        base = tracks.embed(head)
    module: torch.nn.Module = copy.deepcopy(head).requires_grad_(True)
    if config.rank:
        lora = LoraConfig(
            r=config.rank, lora_alpha=2 * config.rank, lora_dropout=0.0, target_modules=LORA_TARGETS
        )
        module = get_peft_model(module, lora)
    trainable = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=0.0)
    rows = torch.from_numpy(answers.rows)
    weight = torch.from_numpy(answers.weight).float()
    target = torch.zeros(len(rows), dtype=torch.long)
    best, best_state = -np.inf, copy.deepcopy(module.state_dict())
    for step in range(config.steps + 1):
        embeddings = module(tracks.tokens, tracks.window_weight)[0]  # (tracks, embedding_dim)
        if val is not None and step % EVALUATE_EVERY == 0:
            val_log_likelihood = _log_likelihood(embeddings.detach(), val, config.temperature)
            if val_log_likelihood > best:
                best, best_state = val_log_likelihood, copy.deepcopy(module.state_dict())
        if step == config.steps:
            break
        scores = _pair_similarities(embeddings, rows) / config.temperature
        nll = (F.cross_entropy(scores, target, reduction="none") * weight).sum()
        prior_penalty = config.prior * (embeddings - base).square().sum(dim=1).mean()
        optimiser.zero_grad()
        ((nll + prior_penalty) / weight.sum()).backward()
        optimiser.step()
    if val is not None:
        module.load_state_dict(best_state)
    fitted = module.merge_and_unload() if config.rank else module  # type: ignore[operator]
    return cast(AttentionPool, fitted.requires_grad_(False).eval())


def _pair_similarities(embeddings: Tensor, rows: Tensor) -> Tensor:
    """Similarities of the three pairs of each answer, the pair without the odd one first: (n, 3).

    Minus half the squared distance: for unit vectors the dot product, up to a constant.
    """
    y_odd, x_odd, pair = opposite_squares(embeddings, rows)
    return torch.stack([pair, x_odd, y_odd], dim=1) / -2


def _log_likelihood(embeddings: Tensor, answers: Answers, temperature: float) -> float:
    """The weighted mean log likelihood of the answers."""
    scores = _pair_similarities(embeddings, torch.from_numpy(answers.rows)) / temperature
    weight = torch.from_numpy(answers.weight).float()
    return float((F.log_softmax(scores, dim=1)[:, 0] * weight).sum() / weight.sum())


def embed(head: AttentionPool, tracks: EncodedTracks) -> np.ndarray:
    """The tracks' embeddings by ``head``: (tracks, embedding_dim)."""
    with torch.inference_mode():
        return tracks.embed(head.eval()).numpy()


def triplet_groups(triplets: Sequence[Triplet], tracks: Sequence[Track]) -> np.ndarray:
    """The group of each triplet: those that share a track, artist or album, directly or through
    others, are in the same: (n,).
    """
    return np.array(connected_groups(group_keys(triplets, tracks)))


def folds(groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """A fold for each item (n,), whole groups together, the folds as even as that allows.

    scikit-learn's GroupKFold is either even or seeded, and both are needed here. Raises
    AnswersError for fewer groups than folds.
    """
    number = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(number)
    if len(sizes) < k:
        raise AnswersError(
            f"the answers fall into {len(sizes)} groups that stay together, too few for {k} folds; "
            "answers about other tracks are needed"
        )
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large ones first, then fill up
    load, fold = np.zeros(k), np.zeros(len(sizes), dtype=np.int64)
    for group in order:
        fold[group] = load.argmin()
        load[fold[group]] += sizes[group]
    return fold[number]


def with_head(model: Feelprint, head: AttentionPool) -> Feelprint:
    """A copy of ``model`` that ends in ``head``, its weights rounded to float16 as in a release."""
    personal = Feelprint(dataclasses.replace(model.config))
    personal.load_state_dict(model.state_dict())
    personal.head.load_state_dict(head.state_dict())
    with torch.no_grad():
        for parameter in personal.parameters():
            parameter.copy_(parameter.half().float())
    return personal.eval()
