"""MERT as a teacher: transformers' own HubertModel with the MERT-v1 weights, no remote code.

Y. Li et al., "MERT: Acoustic music understanding model with large-scale self-supervised
training", arXiv:2306.00107. The weights are CC-BY-NC-4.0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import HubertConfig, HubertModel

from distill.config import TeacherConfig
from distill.teachers.base import LEVEL_DB, TeacherError
from distill.teachers.pretrained import Checkpoint, find_checkpoint

WINDOW_S = 5  # seconds, the length that MERT was trained on
# keys of MERT's config.json that name its code or its files instead of its architecture
NOT_ARCHITECTURE = {
    *("_name_or_path", "architectures", "auto_map", "dtype", "model_type", "torch_dtype"),
    "transformers_version",
}


class Mert:
    """MERT-v1-95M or -330M: hidden states of the chosen layers, averaged over layers and over time.

    Layer 0 is the input of the first transformer layer, layer n the output of the n-th; layers
    above the highest chosen one are not run.
    """

    licence = "CC-BY-NC-4.0"
    level_db = LEVEL_DB

    def __init__(self, config: TeacherConfig, device: torch.device):
        if not config.path:
            raise TeacherError(
                "mert needs a path: m-a-p/MERT-v1-95M, m-a-p/MERT-v1-330M, or a folder with one"
            )
        checkpoint = find_checkpoint(config.path, config.revision)
        preprocessing = checkpoint.settings("preprocessor_config.json")
        self.sample_rate = int(preprocessing.get("sampling_rate", 0))
        if self.sample_rate != 24_000:
            raise TeacherError(
                f"{checkpoint.folder} has a sampling rate of {self.sample_rate} Hz; expected "
                "MERT-v1, which has 24000"
            )
        self.normalised = bool(preprocessing.get("do_normalize", True))
        self.window = WINDOW_S * self.sample_rate
        model = _load(checkpoint)
        last = model.config.num_hidden_layers
        self.layers = tuple(config.layers) or (last,)
        if not all(0 <= layer <= last for layer in self.layers):
            raise TeacherError(f"{checkpoint.name} has layers 0 to {last}, got {list(self.layers)}")
        # the layers above are not needed; only the full stack applies the final layer norm
        self.full_stack = max(self.layers) == last
        model.encoder.layers = model.encoder.layers[: max(1, *self.layers)]
        self.model = model.eval().to(device)
        self.device = device
        self.dim = model.config.hidden_size
        self.revision = checkpoint.revision
        chosen = "-".join(str(layer) for layer in config.layers)
        self.name = f"{checkpoint.name}-layer-{chosen}" if chosen else checkpoint.name

    def key(self) -> dict[str, Any]:
        """Everything that the embeddings depend on; a GPU's bfloat16 counts as float32."""
        return {
            "name": "mert",
            "revision": self.revision,
            "layers": list(self.layers),
            "window": self.window,
        }

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window) samples -> (batch, dim) float32 on the CPU; bfloat16 on a GPU."""
        x = windows.to(self.device)
        if self.normalised:  # as Wav2Vec2FeatureExtractor does
            x = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, False, keepdim=True) + 1e-7)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            output = self.model(x, output_hidden_states=True)
        states = list(output.hidden_states)
        if self.full_stack:
            # the 330M's hidden_states[-1] lacks the final layer norm
            states[-1] = output.last_hidden_state
        chosen = torch.stack([states[layer].float() for layer in self.layers])
        return chosen.mean(dim=(0, 2)).cpu()  # (layers, batch, frames, dim) -> (batch, dim)


def _load(checkpoint: Checkpoint) -> HubertModel:
    """The network. Raises TeacherError for another layout, or missing or unknown weights."""
    settings = checkpoint.settings("config.json")
    if settings.get("model_type") not in ("mert_model", "hubert"):
        raise TeacherError(
            f"{checkpoint.folder} holds a {settings.get('model_type')!r}, expected a mert_model"
        )
    for key in ("deepnorm", "feature_extractor_cqt"):
        if settings.get(key):
            raise TeacherError(
                f"{checkpoint.folder} has {key}, which HubertModel would load and compute wrongly; "
                "take m-a-p/MERT-v1-95M or m-a-p/MERT-v1-330M"
            )
    config = HubertConfig(**{k: v for k, v in settings.items() if k not in NOT_ARCHITECTURE})
    try:
        loaded: Any = HubertModel.from_pretrained(
            checkpoint.folder, config=config, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise TeacherError(f"{checkpoint.folder} cannot be loaded: {error}") from error
    model, report = loaded
    if wrong := [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]:
        shown = ", ".join(sorted(str(key) for key in wrong)[:5])
        raise TeacherError(
            f"{checkpoint.folder} is not a MERT-v1 checkpoint: {len(wrong)} weights are missing, "
            f"unknown or of another shape, such as {shown}"
        )
    return model
