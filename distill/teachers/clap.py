"""CLAP as a teacher: the audio tower of transformers' ClapModel.

Y. Wu et al., "Large-scale contrastive language-audio pretraining with feature fusion and
keyword-to-caption augmentation", arXiv:2211.06687; weights laion/larger_clap_music, Apache-2.0.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ClapFeatureExtractor, ClapModel

from distill.config import TeacherConfig
from distill.teachers.base import LEVEL_DB, TeacherError
from distill.teachers.pretrained import Checkpoint, find_checkpoint

MIN_POWER = 1e-10  # mel power at which the feature extractor clips the decibels


class Clap:
    """The projected audio embedding of 10 s windows, of unit length, as CLAP's loss uses it."""

    licence = "Apache-2.0"
    level_db = LEVEL_DB

    def __init__(self, config: TeacherConfig, device: torch.device):
        if config.layers:
            raise TeacherError(f"clap takes no layers, got {list(config.layers)}")
        if not config.path:
            raise TeacherError("clap needs a path: laion/larger_clap_music, or a folder with it")
        checkpoint = find_checkpoint(config.path, config.revision)
        extractor = ClapFeatureExtractor(**checkpoint.settings("preprocessor_config.json"))
        self.model = _load(checkpoint, extractor).eval().to(device)
        self.device = device
        self.sample_rate: int = extractor.sampling_rate
        self.window: int = extractor.nb_max_samples
        self.n_fft: int = extractor.fft_window_size
        self.hop_length: int = extractor.hop_length
        self.filters = torch.from_numpy(extractor.mel_filters_slaney).float().T.to(device)
        self.dim: int = self.model.config.projection_dim
        self.name, self.revision = checkpoint.name, checkpoint.revision

    def key(self) -> dict[str, Any]:
        """Everything that the embeddings depend on; a GPU's bfloat16 counts as float32."""
        return {"name": "clap", "revision": self.revision, "window": self.window}

    def log_mel(self, windows: Tensor) -> Tensor:
        """(batch, window) -> ClapFeatureExtractor's mel decibels (batch, 1, frames, mels)."""
        spectrum = torch.stft(
            windows,
            self.n_fft,
            self.hop_length,
            window=torch.hann_window(self.n_fft, device=windows.device),
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()  # (batch, bins, frames)
        mel = (self.filters @ power).clamp(min=MIN_POWER)
        return 10 * torch.log10(mel).transpose(1, 2).unsqueeze(1)

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples -> (batch, dim) float32 on the CPU; bfloat16 on a GPU."""
        mel = self.log_mel(windows.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            embeddings = self.model.get_audio_features(input_features=mel).pooler_output
        return F.normalize(embeddings.float(), dim=1).cpu()  # bfloat16 rounds the unit length


def _load(checkpoint: Checkpoint, extractor: ClapFeatureExtractor) -> ClapModel:
    """CLAP without its text tower. Raises TeacherError for a fused one, or for missing weights."""
    try:
        loaded: Any = ClapModel.from_pretrained(
            checkpoint.folder, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise TeacherError(f"{checkpoint.folder} cannot be loaded: {error}") from error
    model, report = loaded
    if model.config.audio_config.enable_fusion or extractor.truncation == "fusion":
        raise TeacherError(
            f"{checkpoint.folder} is a fused CLAP, whose input is four spectrograms; take "
            "laion/larger_clap_music"
        )
    wrong = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind]]
    if wrong := [key for key in wrong if "audio" in key]:
        raise TeacherError(
            f"{checkpoint.folder} is not a CLAP checkpoint: {len(wrong)} weights of the audio "
            f"tower are missing or of another shape, such as {', '.join(sorted(wrong)[:5])}"
        )
    del model.text_model, model.text_projection
    return model
