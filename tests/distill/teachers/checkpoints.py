"""Tiny checkpoints in the layout of the published ones, for tests: random weights, true files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2FeatureExtractor,
)

MERT_LAYERS = 3


def write_mert(folder: Path, stable: bool = False, **settings: Any) -> HubertModel:
    """MERT-v1 in small: of the 330M's kind where ``stable``, else of the 95M's. Returns it."""
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=48,
        num_hidden_layers=MERT_LAYERS,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        do_stable_layer_norm=stable,
        feat_extract_norm="layer" if stable else "group",
    )
    model = HubertModel(config).eval()
    model.save_pretrained(folder)
    path = folder / "config.json"
    # what the published config.json has beyond Hubert's
    mert = {
        "_name_or_path": "./",
        "architectures": ["MERTModel"],
        "auto_map": {"AutoModel": "modeling_MERT.MERTModel"},
        "model_type": "mert_model",
        "torch_dtype": "float32",
        "sample_rate": 24_000,
        "attention_relax": -1.0,
        "deepnorm": False,
        "feature_extractor_cqt": False,
        "feature_extractor_cqt_bins": 336,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | mert | settings))
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=24_000, return_attention_mask=True)
    extractor.save_pretrained(folder)
    return model


def as_published(folder: Path) -> None:
    """The weights as the Hub has MERT's: a .bin, with the old names of the weight norm."""
    weights = load_file(folder / "model.safetensors")
    old = {"parametrizations.weight.original0": "weight_g"}
    old |= {"parametrizations.weight.original1": "weight_v"}
    for new, before in old.items():
        weights = {name.replace(new, before): tensor for name, tensor in weights.items()}
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def write_clap(folder: Path, **extractor: Any) -> ClapModel:
    """larger_clap_music in small. Returns it."""
    torch.manual_seed(0)
    text = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 20,
    }
    audio = {
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "window_size": 4,
    }
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=40)).eval()
    model.save_pretrained(folder)
    preprocessing = {"truncation": "rand_trunc", "frequency_min": 50, **extractor}
    ClapFeatureExtractor(**preprocessing).save_pretrained(folder)
    return model
