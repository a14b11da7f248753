"""The student: audio -> log-mel -> window CNN -> tokens -> attention pooling -> embedding (32,)."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from student.config import FeelprintConfig, from_mapping
from student.frontend import LogMel

NEVER = 1e4  # taken off the attention score of a silent window: exp(-1e4) is 0 in float32


class WindowCNN(nn.Module):
    """Log-mel of windows (windows, n_mels, frames) -> one token a window, (windows, dim)."""

    def __init__(self, config: FeelprintConfig):
        super().__init__()
        patch = (config.patch, config.patch)
        blocks = [self._block(config, 1, config.channels[0], patch, config.patch)]
        blocks += [
            self._block(config, before, after, (3, 3), stride=2, padding=1)
            for before, after in pairwise(config.channels)
        ]
        # what is left of the frequency axis is told apart by place; time is pooled away
        left = (config.n_mels // config.stride, 1)
        blocks.append(self._block(config, config.channels[-1], config.dim, left))
        self.blocks = nn.ModuleList(blocks)

    @staticmethod
    def _block(
        config: FeelprintConfig,
        before: int,
        after: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: int = 0,
    ) -> nn.Sequential:
        normed = config.batch_norm
        conv = nn.Conv2d(before, after, kernel, stride, padding, bias=not normed)
        return nn.Sequential(conv, nn.BatchNorm2d(after) if normed else nn.Identity(), nn.ReLU())

    def convolutions(self) -> list[nn.Sequential]:
        """The blocks in order, each a convolution, its batch norm (or none) and a ReLU."""
        return list(self.blocks)  # type: ignore[arg-type]

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (windows, n_mels, frames) -> tokens (windows, dim)."""
        x = log_mel.unsqueeze(1)  # (windows, 1, mels, frames)
        for block in self.blocks:
            x = block(x)
        return x.squeeze(2).mean(dim=2)  # (windows, dim, frames) -> (windows, dim)


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

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, samples) -> tokens (batch, windows, dim) and audible (batch, windows)."""
        windows = self.windows(audio)
        log_mel, audible = self.log_mel(windows.flatten(0, 1))
        tokens = self.cnn(log_mel).view(*windows.shape[:2], self.config.dim)
        return tokens, audible.view(windows.shape[:2])

    def pool(self, tokens: Tensor, audible: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and audible -> embedding (batch, 32) and attention (batch, queries, windows)."""
        return self.head(self.dropout(tokens), audible)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (batch, samples) -> embeddings (batch, embedding_dim) of unit length."""
        return self.pool(*self.encode(audio))[0]

    def folded(self) -> Feelprint:
        """The model as it is released: without batch norms, in weights that float16 holds.

        Each batch norm becomes part of the convolution before it, then every weight is rounded.
        """
        released = Feelprint(dataclasses.replace(self.config, batch_norm=False)).eval()
        for mine, its in zip(self.cnn.convolutions(), released.cnn.convolutions(), strict=True):
            conv, norm, _ = copy.deepcopy(mine).eval()
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            fused = fuse_conv_bn_eval(conv, norm)
            its[0].load_state_dict(fused.state_dict())
        released.head.load_state_dict(self.head.state_dict())
        with torch.no_grad():
            for parameter in released.parameters():
                parameter.copy_(parameter.half().float())
        return released

    def save(self, folder: str) -> None:
        """Write ``model.safetensors`` and ``config.json`` into ``folder``."""
        self.save_pretrained(folder, config=dataclasses.asdict(self.config))
