"""The student: audio -> log-mel -> window CNN -> tokens -> attention pooling -> embedding (32,)."""

from __future__ import annotations

import dataclasses
from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from student.config import FeelprintConfig, from_mapping
from student.frontend import LogMel

USUAL, SPREAD = -2.7, 3.0  # mean and deviation of the log-mel of music, about
NEVER = 1e4  # taken off the attention score of a silent window: exp(-1e4) is 0 in float32


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x`` (windows, channels, 1, frames), each channel scaled and shifted.

    Spelt out to a window's size, so that the export holds them so: tract multiplies arrays of one
    shape in a fraction of the time that it takes to multiply each row by a number of its own.
    """
    return x * scale.expand(x.shape[1:]) + shift.expand(x.shape[1:])


class Filters(nn.Module):
    """Filters of some mels and frames over a log-mel, each heard where on the mels it fits best.

    Log-mel (windows, 1, n_mels, frames) -> (windows, filters, 1, answers): the largest one over
    the mels, so that a chord and the same chord a third higher are one thing.
    """

    def __init__(self, kind: tuple[int, ...], config: FeelprintConfig):
        super().__init__()
        count, mels, frames, step = kind
        self.pad = (frames - 1) // 2, frames // 2
        self.conv = nn.Conv2d(1, count, (mels, frames), stride=(step, config.frame_step))
        self.positions = (config.n_mels - mels) // step + 1
        self.scale = nn.Parameter(torch.ones(count, 1, 1))
        self.shift = nn.Parameter(torch.zeros(count, 1, 1))

    def forward(self, log_mel: Tensor) -> Tensor:
        """The filters' answers, (windows, filters, 1, answers), before the ReLU."""
        x = self.conv(F.pad(log_mel, self.pad))
        # pooled by the operator and not by a reduction: tract does it in a tenth of the time
        return F.max_pool2d(x, (self.positions, 1))


class Layer(nn.Module):
    """A convolution over time: (windows, before, 1, frames) -> (windows, after, 1, frames)."""

    def __init__(self, before: int, after: int, frames: int):
        super().__init__()
        self.pad = (frames - 1) // 2, frames // 2
        self.conv = nn.Conv2d(before, after, (1, frames))
        self.scale = nn.Parameter(torch.ones(after, 1, 1))
        self.shift = nn.Parameter(torch.zeros(after, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's answers, (windows, after, 1, frames)."""
        return _affine(F.relu(self.conv(F.pad(x, self.pad))), self.scale, self.shift)


class WindowCNN(nn.Module):
    """Log-mel of windows (windows, n_mels, frames) -> one token a window, (windows, dim).

    Tall filters hear timbre and long ones rhythm; convolutions over time, each added to the one
    before, hear what these make together; a token is a projection of the mean of all of them over
    the window. The shape is that of J. Pons and X. Serra, "musicnn", arXiv:1909.06654, at half
    the resolution and with as many filters as live in the published network.
    """

    def __init__(self, config: FeelprintConfig):
        super().__init__()
        self.filters = nn.ModuleList(Filters(kind, config) for kind in config.filters)
        sizes = (sum(count for count, *_ in config.filters), *config.layers)
        self.layers = nn.ModuleList(
            Layer(before, after, config.layer_frames) for before, after in pairwise(sizes)
        )
        self.norm = nn.BatchNorm1d(sum(sizes))
        self.token = nn.Linear(sum(sizes), config.dim)

    def heard(self, log_mel: Tensor) -> Tensor:
        """Log-mel (windows, n_mels, frames) -> means over the window of all that is heard."""
        log_mel = ((log_mel - USUAL) / SPREAD).unsqueeze(1)  # (windows, 1, mels, frames)
        x = torch.cat([filters(log_mel) for filters in self.filters], dim=1)
        # all kinds at once: to a runtime every operation costs, however little it does
        scale, shift = (
            torch.cat([getattr(f, n) for f in self.filters]) for n in ("scale", "shift")
        )
        x = _affine(F.relu(x), scale, shift)
        heard = [x]  # each (windows, channels, 1, frames)
        for number, layer in enumerate(self.layers):
            x = layer(x) + x if number else layer(x)
            heard.append(x)
        return torch.cat(heard, dim=1).mean(dim=(2, 3))  # (windows, channels)

    @torch.no_grad()
    def fold_scales(self) -> None:
        """Put the filters' scales into their weights, and the signs into all that hears them."""
        first, norm = self.layers[0], self.norm
        assert isinstance(first, Layer) and norm.running_mean is not None
        at = 0
        for filters in self.filters:
            assert isinstance(filters, Filters) and filters.conv.bias is not None
            scale = filters.scale.flatten()
            sign = torch.where(scale < 0, -1.0, 1.0)
            filters.conv.weight.mul_(scale.abs().view(-1, 1, 1, 1))
            filters.conv.bias.mul_(scale.abs())
            filters.scale.fill_(1.0)
            filters.shift.mul_(sign.view(-1, 1, 1))
            heard = slice(at, at + len(scale))
            first.conv.weight[:, heard].mul_(sign.view(-1, 1, 1))
            norm.running_mean[heard].mul_(sign)
            norm.weight[heard].mul_(sign)
            at = heard.stop

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (windows, n_mels, frames) -> tokens (windows, dim)."""
        return self.token(self.norm(self.heard(log_mel)))


class AttentionPool(nn.Module):
    """Tokens of a song (batch, windows, dim) -> embedding (batch, embedding_dim), unit length.

    Learned queries attend over the windows, in the way of the pooling by multi-head attention
    of J. Lee et al., "Set Transformer", 2019, section 3.2, and one transformer block mixes the
    pooled queries. The cost is linear in the song's length.
    """

    def __init__(self, config: FeelprintConfig):
        super().__init__()
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

    def forward(self, tokens: Tensor, audible: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the embedding and the attention (batch, queries, windows).

        ``audible`` (batch, windows) is 0 for windows to leave out; where all are, all count.
        """
        scores = (self.queries * self.scale) @ self.key(tokens).transpose(1, 2)
        scores = scores - (1 - audible).unsqueeze(1) * NEVER
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
    """Mono audio at 22,050 Hz, (batch, samples) -> embeddings (batch, 32) of unit length.

    Any length from one sample up is taken; zeros at the end change nothing; silence gives one
    defined embedding. ``Feelprint.from_pretrained(NAME)`` loads a folder or a name on the Hub.
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
        # a constant amount of padding, then a cut: what tract can do with a dynamic length
        padded = F.pad(audio, (0, length - 1))[:, : windows * length]
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
        """Audio (batch, samples) -> embeddings (batch, embedding_dim) of unit length."""
        return self.pool(*self.encode(audio))[0]

    def released(self) -> Feelprint:
        """The model as it is released: fewer operations, in weights that float16 holds.

        Neighbouring kinds of filters with the same mels and step become one kind, the shorter
        ones with zeros around them, and the filters' scales go into their weights: the same
        answers. Then every weight is rounded.
        """
        kinds: list[tuple[int, ...]] = []
        state = {k: v for k, v in self.state_dict().items() if not k.startswith("cnn.filters")}
        pairs = zip(self.config.filters, self.cnn.filters, strict=True)
        for (mels, step), alike in groupby(pairs, lambda pair: (pair[0][1], pair[0][3])):
            found = list(alike)
            longest = max(frames for (_, _, frames, _), _ in found)
            states = []
            for (_, _, frames, _), filters in found:
                around = (longest - 1) // 2 - (frames - 1) // 2, longest // 2 - frames // 2
                own = filters.state_dict()
                states.append(own | {"conv.weight": F.pad(own["conv.weight"], around)})
            for name in states[0]:
                joined = torch.cat([one[name] for one in states])
                state[f"cnn.filters.{len(kinds)}.{name}"] = joined
            kinds.append((sum(kind[0] for kind, _ in found), mels, longest, step))
        released = Feelprint(dataclasses.replace(self.config, filters=tuple(kinds))).eval()
        released.load_state_dict(state)
        released.cnn.fold_scales()
        with torch.no_grad():
            for parameter in released.parameters():
                parameter.copy_(parameter.half().float())
        return released

    def save(self, folder: str) -> None:
        """Write ``model.safetensors`` and ``config.json`` into ``folder``."""
        self.save_pretrained(folder, config=dataclasses.asdict(self.config))
