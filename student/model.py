"""The student: audio -> log-mel -> window CNN -> tokens -> attention pooling -> embedding (32,)."""

from __future__ import annotations

import copy
import dataclasses
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from student.config import FeelprintConfig, from_mapping
from student.frontend import MASK_EPS, MAX_SAMPLE, LogMel, activity_mask, masked_mean

LOG_MEL_MEAN, LOG_MEL_STD = -2.7, 3.0  # of music, approximately
# names of models up to 0.10, read until 1.1
OLD_CONFIG_KEYS = {"folded": "fused"}
EVERY_WINDOW = {"dense_windows": 0, "window_stride": 1}  # where a saved configuration lacks both
OLD_WEIGHTS = {"head.stretch": "head.metric_transform"}

FilterSpec = tuple[int, ...]  # (count, mels, frames, stride in mels)


class FrequencyPooledConv(nn.Module):
    """2-D filters over a log-mel, then the maximum over frequency (invariant to transposition).

    Log-mel (windows, 1, n_mels, frames) -> (windows, filters, 1, frames), before the ReLU.
    """

    def __init__(self, spec: FilterSpec, config: FeelprintConfig):
        super().__init__()
        count, mels, frames, stride = spec
        self.pad = (frames - 1) // 2, frames // 2
        self.conv = nn.Conv2d(1, count, (mels, frames), stride=(stride, 1))
        self.positions = (config.n_mels - mels) // stride + 1

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (windows, 1, n_mels, frames) -> (windows, filters, 1, frames)."""
        x = self.conv(F.pad(log_mel, self.pad))
        # a pooling operator instead of a reduction: tract runs it in a tenth of the time
        return F.max_pool2d(x, (self.positions, 1))


class TemporalConv(nn.Module):
    """Convolution over time: (windows, in, 1, frames) -> (windows, out, 1, frames).

    While training, each input channel has a learned scale and shift. They are applied after the
    zero padding, so that folding them into the weights (``fused``) leaves the output unchanged.
    """

    def __init__(self, in_channels: int, out_channels: int, frames: int, fused: bool):
        super().__init__()
        self.pad = (frames - 1) // 2, frames // 2
        self.conv = nn.Conv2d(in_channels, out_channels, (1, frames))
        self.fused = fused
        if not fused:
            self.scale = nn.Parameter(torch.ones(in_channels, 1, 1))
            self.shift = nn.Parameter(torch.zeros(in_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(windows, in_channels, 1, frames) -> (windows, out_channels, 1, frames), after a ReLU."""
        x = F.pad(x, self.pad)
        return F.relu(self.conv(x if self.fused else x * self.scale + self.shift))

    def fold(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution with the scales and shifts folded in."""
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        return weight * self.scale, bias + (weight * self.shift).sum(dim=(1, 2, 3))


class WindowCNN(nn.Module):
    """Log-mel of windows (windows, n_mels, frames) -> one token per window, (windows, dim).

    Tall filters respond to timbre, long ones to rhythm. The first temporal convolution takes the
    filters' outputs, each later one the concatenated outputs of all temporal convolutions before
    it. A token is a projection of each channel's mean and maximum over time and of the mean
    log-mel. The layout follows J. Pons and X. Serra, "musicnn", arXiv:1909.06654, with half of its
    frame rate, few more filters than it has active ones, and concatenation instead of summation.

    Silent frames are treated as padding: zero at the input of the filters, and excluded from the
    means. The last window of a track, which is padded with zeros, thus acts as a shorter window.
    """

    def __init__(self, config: FeelprintConfig):
        super().__init__()
        self.config = config
        self.filters = nn.ModuleList(FrequencyPooledConv(spec, config) for spec in config.filters)
        channels = (sum(count for count, *_ in config.filters), *config.layers)
        inputs = (channels[0], *accumulate(config.layers[:-1]))
        self.layers = nn.ModuleList(
            TemporalConv(*shape, config.layer_frames, config.fused)
            for shape in zip(inputs, config.layers, strict=True)
        )
        features = 2 * sum(channels) + config.n_mels
        self.norm = nn.Identity() if config.fused else nn.BatchNorm1d(features)
        self.token = nn.Linear(features, config.dim)

    def feature_maps(self, log_mel: Tensor, activity: Tensor) -> Tensor:
        """All channels before pooling, (windows, channels, 1, frames).

        ``log_mel`` (windows, n_mels, frames), ``activity`` its mask (windows, 1, 1, frames).
        """
        # the mask is broadcast over the mels by a product: tract multiplies equal shapes far faster
        mask = log_mel.new_full((log_mel.shape[1], 1), 1 / LOG_MEL_STD) @ activity
        image = (log_mel - LOG_MEL_MEAN).unsqueeze(1) * mask
        maps = [F.relu(torch.cat([filters(image) for filters in self.filters], dim=1))]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps[1:] or maps, dim=1)))
        return torch.cat(maps, dim=1)

    def pooled_features(self, log_mel: Tensor) -> Tensor:
        """Pooled window features, (windows, 2 * channels + n_mels).

        Mean and maximum of each channel over time, then the mean log-mel; means are over the
        non-silent frames.
        """
        activity = activity_mask(log_mel, self.config.floor)
        maps = self.feature_maps(log_mel, activity)
        means = masked_mean(maps.squeeze(2), activity)
        # channels last: tract runs this in half of the time
        maxima = F.max_pool2d(maps.permute(0, 2, 3, 1), (maps.shape[3], 1)).flatten(1)
        return torch.cat([means, maxima, masked_mean(log_mel, activity)], dim=1)

    def fold(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the token layer with the batch norm's statistics folded in."""
        norm, weight = self.norm, self.token.weight
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        return weight * scale, self.token.bias + weight @ shift

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (windows, n_mels, frames) -> tokens (windows, dim)."""
        return self.token(self.norm(self.pooled_features(log_mel)))


class Pool(nn.Module):
    """Tokens of a track (batch, windows, dim) -> embedding (batch, embedding_dim).

    Training works on the unit embedding, a point of the unit sphere. The embedding is its product
    with ``metric_transform`` and ``rating_transform`` (embedding_dim, embedding_dim), two linear
    metrics that are fitted after training and are the identity before: one to albums
    (`distill.training.teacher_space.fit_metric_transform`), one to people's ratings
    (`distill.training.rating_metric.fit_rating_metric`).
    """

    metric_transform: Tensor
    rating_transform: Tensor

    def __init__(self, embedding_dim: int):
        super().__init__()
        self.register_buffer("metric_transform", torch.eye(embedding_dim))
        self.register_buffer("rating_transform", torch.eye(embedding_dim))

    def unit_embedding(self, tokens: Tensor, window_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the unit embedding (batch, embedding_dim), attention (batch, queries, windows).

        Windows are weighted by ``window_weight`` (batch, windows); where all are silent, they have
        equal weights.
        """
        raise NotImplementedError

    def forward(self, tokens: Tensor, window_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the embedding and the attention."""
        unit_embedding, attention = self.unit_embedding(tokens, window_weight)
        return unit_embedding @ self.transform, attention

    @property
    def transform(self) -> Tensor:
        """Both linear metrics: (embedding_dim, embedding_dim)."""
        return self.metric_transform @ self.rating_transform


class AttentionPool(Pool):
    """Attention pooling with learned queries, and one transformer block over the pooled queries.

    J. Lee et al., "Set Transformer", 2019, section 3.2 (pooling by multi-head attention). The cost
    is linear in the number of windows.
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

    def unit_embedding(self, tokens: Tensor, window_weight: Tensor) -> tuple[Tensor, Tensor]:
        """As `Pool.unit_embedding`."""
        scores = (self.queries * self.scale) @ self.key(tokens).transpose(1, 2)
        scores = scores + torch.log(window_weight.clamp(min=MASK_EPS)).unsqueeze(1)
        attention = torch.softmax(scores, dim=2)  # (batch, queries, windows)
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

    Tracks are compared by the Euclidean distance of their embeddings, whose norm is about 1. Any
    length from one sample up is valid; trailing zeros do not change the embedding; silence has one
    defined embedding. Samples that are NaN, infinite or of magnitude 1e15 or more count as zero, as
    in the ONNX file; the Rust crate refuses such audio. ``Feelprint.from_pretrained(NAME)`` loads a
    folder or a name on the Hub; it raises RuntimeError for a missing or unknown weight.
    """

    # modules that an ablation replaces in a subclass
    front_end_class: type[Any] = LogMel
    cnn_class: type[Any] = WindowCNN
    head_class: type[Any] = AttentionPool

    log_mel: LogMel
    cnn: WindowCNN
    head: AttentionPool

    def __init__(self, config: FeelprintConfig | dict[str, Any] | None = None):
        super().__init__()
        if config is None:
            config = FeelprintConfig()
        if not isinstance(config, FeelprintConfig):
            values = {OLD_CONFIG_KEYS.get(key, key): value for key, value in config.items()}
            config = from_mapping(FeelprintConfig, EVERY_WINDOW | values, "student")
        self.config = config
        self.log_mel = self.front_end_class(config)
        self.cnn = self.cnn_class(config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = self.head_class(config)
        self.register_load_state_dict_pre_hook(_rename_old_weights)

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **options: Any) -> Feelprint:
        """The hub mixin's loader, which is not strict by default: it would ignore a lost weight."""
        return super()._from_pretrained(strict=strict, **options)

    def windows(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (batch, samples) -> the windows that are used, and how many each stands for.

        Returns (batch, windows, window_length), in the order of time, and (batch, windows): 1 for
        each of the first ``dense_windows``, then ``window_stride``. The audio is padded with zeros
        to a multiple of ``window_stride`` windows.
        """
        length, stride = self.config.window_length, self.config.window_stride
        batch, samples = audio.shape
        groups = (samples + stride * length - 1) // (stride * length)
        # one expanded number: the form of a tensor of dynamic shape that tract reads too
        one = audio.new_ones(1, 1)
        zeros = (one * 0.0).expand(batch, groups * stride * length - samples)
        windows = torch.cat([audio, zeros], dim=1).reshape(batch, groups * stride, length)
        if stride == 1:
            return windows, one.expand(batch, groups)
        dense = torch.sym_min(groups, self.config.dense_windows // stride)
        later = torch.arange(dense, groups, device=audio.device) * stride + stride // 2
        index = torch.cat([torch.arange(dense * stride, device=audio.device), later])
        spans = [one.expand(batch, dense * stride), (one * stride).expand(batch, groups - dense)]
        return windows.index_select(1, index), torch.cat(spans, dim=1)

    def tokens(self, log_mel: Tensor) -> Tensor:
        """Log-mel (batch, windows, n_mels, frames) -> tokens (batch, windows, dim)."""
        batch, windows = log_mel.shape[:2]
        return self.cnn(log_mel.flatten(0, 1)).view(batch, windows, -1)

    def log_mel_windows(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, samples) -> log-mel (batch, windows, n_mels, frames), weights (batch, windows).

        A window's weight is its non-silent ratio times the number of windows that it stands for.
        """
        windows, spans = self.windows(audio)
        # one comparison is false for NaN, infinity and samples that are too large
        windows = torch.where(windows.abs() < MAX_SAMPLE, windows, 0.0)
        log_mel, nonsilent_ratio = self.log_mel(windows.flatten(0, 1))
        batch = audio.shape[0]
        log_mel = log_mel.view(batch, -1, *log_mel.shape[1:])
        return log_mel, nonsilent_ratio.view(batch, -1) * spans

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, samples) -> tokens (batch, windows, dim), window weights (batch, windows)."""
        log_mel, window_weight = self.log_mel_windows(audio)
        return self.tokens(log_mel), window_weight

    def pool(self, tokens: Tensor, window_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of windows -> embedding (batch, 32), attention (batch, queries, windows)."""
        return self.head(self.dropout(tokens), window_weight)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (batch, samples) -> embeddings (batch, embedding_dim)."""
        return self.pool(*self.encode(audio))[0]

    def fold_for_inference(self) -> Feelprint:
        """An equivalent model with fewer operations, its weights rounded to float16.

        Adjacent filter specifications with the same mels and stride are merged, the shorter
        filters zero-padded, and all scales and shifts are folded into the weights after them. A
        model that is fused already is returned as it is.
        """
        if self.config.fused:
            return self
        specs: list[FilterSpec] = []
        state = {k: v for k, v in self.state_dict().items() if k.startswith(("log_mel", "head"))}
        pairs = zip(self.config.filters, self.cnn.filters, strict=True)
        for (mels, stride), group in groupby(pairs, lambda pair: (pair[0][1], pair[0][3])):
            merged = list(group)
            longest = max(frames for (_, _, frames, _), _ in merged)
            weights, biases = [], []
            for (_, _, frames, _), filters in merged:
                assert isinstance(filters, FrequencyPooledConv) and filters.conv.bias is not None
                padding = (longest - 1) // 2 - (frames - 1) // 2, longest // 2 - frames // 2
                weights.append(F.pad(filters.conv.weight, padding))
                biases.append(filters.conv.bias)
            state[f"cnn.filters.{len(specs)}.conv.weight"] = torch.cat(weights)
            state[f"cnn.filters.{len(specs)}.conv.bias"] = torch.cat(biases)
            specs.append((sum(spec[0] for spec, _ in merged), mels, longest, stride))
        folded = {"token": self.cnn.fold()}
        for number, layer in enumerate(self.cnn.layers):
            assert isinstance(layer, TemporalConv)
            folded[f"layers.{number}.conv"] = layer.fold()
        for name, (weight, bias) in folded.items():
            state |= {f"cnn.{name}.weight": weight, f"cnn.{name}.bias": bias}
        config = dataclasses.replace(self.config, filters=tuple(specs), fused=True)
        fused = Feelprint(config).eval()
        fused.load_state_dict(state)
        with torch.no_grad():
            for weight in (*fused.parameters(), *fused.head.buffers(recurse=False)):
                weight.copy_(weight.half().float())
        return fused

    def without_ratings(self) -> Feelprint:
        """A copy whose rating transform is the identity."""
        prior = copy.deepcopy(self)
        prior.head.rating_transform.copy_(torch.eye(self.config.embedding_dim))
        return prior

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> Feelprint:  # type: ignore[override]
        """The model in the folder, or of the Hub's name, ``name``; ``options`` as the mixin's.

        Raises RuntimeError for a missing or unknown weight, instead of leaving it random.
        """
        return super().from_pretrained(name, **{"strict": True, **options})

    def save(self, folder: str) -> None:
        """Write ``model.safetensors`` and ``config.json`` into ``folder``."""
        self.save_pretrained(folder, config=dataclasses.asdict(self.config))


def _rename_old_weights(
    module: Feelprint, state: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Bring the weights of models up to 0.10 to today's names, before they are loaded."""
    for old, new in OLD_WEIGHTS.items():
        if prefix + old in state:
            state[prefix + new] = state.pop(prefix + old)
    config = module.config
    if config.window_stride == 1:  # a model up to 0.10, which is not fitted to ratings
        state.setdefault(prefix + "head.rating_transform", torch.eye(config.embedding_dim))
