"""The student: audio -> log-mel -> window CNN -> tokens -> attention pooling -> embedding (32,)."""

from __future__ import annotations

import dataclasses
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from student.config import FeelprintConfig, from_mapping
from student.frontend import NEVER, LogMel, audible_frames, audible_mean

USUAL, SPREAD = -2.7, 3.0  # mean and deviation of the log-mel of music, about


class Filters(nn.Module):
    """Filters of some mels and frames over a log-mel, each heard where on the mels it fits best.

    Log-mel (windows, 1, n_mels, frames) -> (windows, filters, 1, frames): the largest answer over
    the mels, so that a chord and the same chord a third higher are one thing.
    """

    def __init__(self, kind: tuple[int, ...], config: FeelprintConfig):
        super().__init__()
        count, mels, frames, step = kind
        self.pad = (frames - 1) // 2, frames // 2
        self.conv = nn.Conv2d(1, count, (mels, frames), stride=(step, 1))
        self.positions = (config.n_mels - mels) // step + 1

    def forward(self, log_mel: Tensor) -> Tensor:
        """The filters' answers, (windows, filters, 1, frames), before the ReLU."""
        x = self.conv(F.pad(log_mel, self.pad))
        # pooled by the operator and not by a reduction: tract does it in a tenth of the time
        return F.max_pool2d(x, (self.positions, 1))


class Layer(nn.Module):
    """A convolution over time: (windows, before, 1, frames) -> (windows, after, 1, frames).

    While it learns, each channel that it hears has a scale and a shift, to be centred and of one
    size. They come behind the padding, so that in a model that is released (``folded``) they are
    in the weights, with the same answers.
    """

    def __init__(self, before: int, after: int, frames: int, folded: bool):
        super().__init__()
        self.pad = (frames - 1) // 2, frames // 2
        self.conv = nn.Conv2d(before, after, (1, frames))
        self.folded = folded
        if not folded:
            self.scale = nn.Parameter(torch.ones(before, 1, 1))
            self.shift = nn.Parameter(torch.zeros(before, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's answers, (windows, after, 1, frames)."""
        x = F.pad(x, self.pad)
        return F.relu(self.conv(x if self.folded else x * self.scale + self.shift))

    def fold(self) -> tuple[Tensor, Tensor]:
        """The convolution's weight and bias with the scales and shifts in them."""
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        return weight * self.scale, bias + (weight * self.shift).sum(dim=(1, 2, 3))


class WindowCNN(nn.Module):
    """Log-mel of windows (windows, n_mels, frames) -> one token a window, (windows, dim).

    Tall filters hear timbre and long ones rhythm. The first convolution over time hears what these
    make together, and each that follows hears all convolutions before it, side by side; a token is
    a projection of each channel's mean and maximum over the window, and of the mean log-mel. The
    shape is that of J. Pons and X. Serra, "musicnn", arXiv:1909.06654, where the convolutions are
    added up, at half of its frames and with as many filters as live in the published network.

    A silent frame is what lies outside of a window: zero to the filters, and in no mean. The last
    window of a song, which ends in zeros, is but a shorter window.
    """

    def __init__(self, config: FeelprintConfig):
        super().__init__()
        self.config = config
        self.filters = nn.ModuleList(Filters(kind, config) for kind in config.filters)
        sizes = (sum(count for count, *_ in config.filters), *config.layers)
        before = (sizes[0], *accumulate(config.layers[:-1]))
        self.layers = nn.ModuleList(
            Layer(*shape, config.layer_frames, config.folded)
            for shape in zip(before, config.layers, strict=True)
        )
        heard = 2 * sum(sizes) + config.n_mels
        self.norm = nn.Identity() if config.folded else nn.BatchNorm1d(heard)
        self.token = nn.Linear(heard, config.dim)

    def answers(self, log_mel: Tensor, audible: Tensor) -> Tensor:
        """Log-mel (windows, n_mels, frames) and its audible frames (windows, 1, 1, frames) -> all
        answers (windows, channels, 1, frames).
        """
        # spread over the mels by a product: tract multiplies arrays of one shape far faster
        spread = log_mel.new_ones(log_mel.shape[1], 1) @ audible
        image = ((log_mel - USUAL) / SPREAD).unsqueeze(1) * spread  # (windows, 1, mels, frames)
        heard = [F.relu(torch.cat([filters(image) for filters in self.filters], dim=1))]
        for layer in self.layers:
            heard.append(layer(torch.cat(heard[1:] or heard, dim=1)))
        return torch.cat(heard, dim=1)

    def heard(self, log_mel: Tensor) -> Tensor:
        """What there is to tell of windows, (windows, 2 channels + n_mels): the channels' means,
        their maxima, and the log-mel's means.
        """
        audible = audible_frames(log_mel, self.config.floor)
        answers = self.answers(log_mel, audible)
        means = audible_mean(answers.squeeze(2), audible)
        # with the channels last: tract does it in half of the time
        maxima = F.max_pool2d(answers.permute(0, 2, 3, 1), (answers.shape[3], 1)).flatten(1)
        return torch.cat([means, maxima, audible_mean(log_mel, audible)], dim=1)

    def fold(self) -> tuple[Tensor, Tensor]:
        """The token's weight and bias with the batch norm's trained statistics in them."""
        norm, weight = self.norm, self.token.weight
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        return weight * scale, self.token.bias + weight @ shift

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (windows, n_mels, frames) -> tokens (windows, dim)."""
        return self.token(self.norm(self.heard(log_mel)))


class Pool(nn.Module):
    """Tokens of a song (batch, windows, dim) -> embedding (batch, embedding_dim).

    A song has a direction, a point of the unit sphere, which is what training is about; ``stretch``
    (embedding_dim, embedding_dim) then makes of it the embedding: axes along which soundtracks lie
    apart count for more (`distill.space.fit_stretch`). Until it is fitted it changes nothing.
    """

    stretch: Tensor

    def __init__(self, embedding_dim: int):
        super().__init__()
        self.register_buffer("stretch", torch.eye(embedding_dim))

    def direction(self, tokens: Tensor, audible: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the direction, of unit length, and the attention (batch, queries, windows).

        A window counts by ``audible`` (batch, windows), the share of it that is not silent; where
        all are silent, all count.
        """
        raise NotImplementedError

    def forward(self, tokens: Tensor, audible: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the embedding and the attention."""
        direction, attention = self.direction(tokens, audible)
        return direction @ self.stretch, attention


class AttentionPool(Pool):
    """The pooling of the released model.

    Learned queries attend over the windows, in the way of the pooling by multi-head attention
    of J. Lee et al., "Set Transformer", 2019, section 3.2, and one transformer block mixes the
    pooled queries. The cost is linear in the song's length.
    """

    def __init__(self, config: FeelprintConfig):
        super().__init__(config.embedding_dim)
        dim, queries = config.dim, config.queries
        self.scale = dim**-0.5
        self.queries = nn.Parameter(torch.randn(queries, dim) * 0.02)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.mix_norm = nn.LayerNorm(dim)
        self.mix = nn.Linear(dim, 3 * dim, bias=False)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.out = nn.Linear(queries * dim, config.embedding_dim)

    def direction(self, tokens: Tensor, audible: Tensor) -> tuple[Tensor, Tensor]:
        """As `Pool.direction`."""
        scores = (self.queries * self.scale) @ self.key(tokens).transpose(1, 2)
        scores = scores + torch.log(audible.clamp(min=NEVER)).unsqueeze(1)
        attention = torch.softmax(scores, dim=2)
        x = attention @ self.value(tokens)  # (batch, queries, dim)
        q, k, v = self.mix(self.mix_norm(x)).chunk(3, dim=2)
        x = x + torch.softmax(q @ k.transpose(1, 2) * self.scale, dim=2) @ v
        x = x + self.mlp(self.mlp_norm(x))
        return F.normalize(self.out(x.flatten(1)), dim=1), attention


class Feelprint(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="feelprint",
    tags=["audio", "music", "music-similarity"],
    license="mit",
):
    """Mono audio at 22,050 Hz, (batch, samples) -> embeddings (batch, 32).

    Songs are compared by the Euclidean distance; an embedding's length is about 1. Any audio from
    one sample up is taken; zeros at the end change nothing; silence gives one defined embedding.
    ``Feelprint.from_pretrained(NAME)`` loads a folder or a name on the Hub.
    """

    def __init__(self, config: FeelprintConfig | dict[str, Any] | None = None):
        super().__init__()
        if not isinstance(config, FeelprintConfig):
            config = from_mapping(FeelprintConfig, config or {}, "student")
        self.config = config
        self.log_mel = LogMel(config)
        self.cnn = WindowCNN(config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = AttentionPool(config)

    def windows(self, audio: Tensor) -> Tensor:
        """(batch, samples) -> (batch, windows, window_length), the last one padded with zeros."""
        length = self.config.window_length
        batch, samples = audio.shape
        windows = (samples + length - 1) // length
        # one zero, repeated: of the ways to pad by a dynamic length, the one that tract reads too
        zeros = audio.new_zeros(1, 1).expand(batch, windows * length - samples)
        padded = torch.cat([audio, zeros], dim=1)
        return padded.reshape(batch, windows, length)

    def tokens(self, log_mel: Tensor) -> Tensor:
        """Log-mel (batch, windows, n_mels, frames) -> tokens (batch, windows, dim)."""
        batch, windows = log_mel.shape[:2]
        return self.cnn(log_mel.flatten(0, 1)).view(batch, windows, -1)

    def hear(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, samples) -> log-mel (batch, windows, n_mels, frames) and audible."""
        windows = self.windows(audio)
        log_mel, audible = self.log_mel(windows.flatten(0, 1))
        batch_windows = windows.shape[:2]
        return log_mel.view(*batch_windows, *log_mel.shape[1:]), audible.view(batch_windows)

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, samples) -> tokens (batch, windows, dim) and audible (batch, windows)."""
        log_mel, audible = self.hear(audio)
        return self.tokens(log_mel), audible

    def pool(self, tokens: Tensor, audible: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and audible -> embedding (batch, 32) and attention (batch, queries, windows)."""
        return self.head(self.dropout(tokens), audible)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (batch, samples) -> embeddings (batch, embedding_dim)."""
        return self.pool(*self.encode(audio))[0]

    def released(self) -> Feelprint:
        """The model as it is released: fewer operations, in weights that float16 holds.

        Neighbouring kinds of filters with the same mels and step become one kind, the shorter
        ones with zeros around them, and whatever scales and shifts goes into the weights behind
        it: the same answers. Then every weight is rounded. One that is released stays as it is.
        """
        if self.config.folded:
            return self
        kinds: list[tuple[int, ...]] = []
        state = {k: v for k, v in self.state_dict().items() if k.startswith(("log_mel", "head"))}
        pairs = zip(self.config.filters, self.cnn.filters, strict=True)
        for (mels, step), alike in groupby(pairs, lambda pair: (pair[0][1], pair[0][3])):
            found = list(alike)
            longest = max(frames for (_, _, frames, _), _ in found)
            weights, biases = [], []
            for (_, _, frames, _), filters in found:
                assert isinstance(filters, Filters) and filters.conv.bias is not None
                around = (longest - 1) // 2 - (frames - 1) // 2, longest // 2 - frames // 2
                weights.append(F.pad(filters.conv.weight, around))
                biases.append(filters.conv.bias)
            state[f"cnn.filters.{len(kinds)}.conv.weight"] = torch.cat(weights)
            state[f"cnn.filters.{len(kinds)}.conv.bias"] = torch.cat(biases)
            kinds.append((sum(kind[0] for kind, _ in found), mels, longest, step))
        folded = {"token": self.cnn.fold()}
        for number, layer in enumerate(self.cnn.layers):
            assert isinstance(layer, Layer)
            folded[f"layers.{number}.conv"] = layer.fold()
        for name, (weight, bias) in folded.items():
            state |= {f"cnn.{name}.weight": weight, f"cnn.{name}.bias": bias}
        config = dataclasses.replace(self.config, filters=tuple(kinds), folded=True)
        released = Feelprint(config).eval()
        released.load_state_dict(state)
        with torch.no_grad():
            for weight in (*released.parameters(), released.head.stretch):
                weight.copy_(weight.half().float())
        return released

    def save(self, folder: str) -> None:
        """Write ``model.safetensors`` and ``config.json`` into ``folder``."""
        self.save_pretrained(folder, config=dataclasses.asdict(self.config))
