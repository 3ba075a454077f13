"""The text half of the CLIP model that a vision tower comes from, for methods that compare patches with the prompt.

A served VLM holds only the vision half. The other half is looked for in the model's folder under
`text_encoder`, in one of two forms: a whole CLIP checkpoint, as saved by transformers, or a
`CLIPTextModelWithProjection` with `visual_projection.safetensors` beside it. A model without it still runs
such methods: they fall back on word embeddings, which is shown as adapted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotc.errors import ModelError

FOLDER = "text_encoder"


class TextEncoder:
    """Embeds texts and patches into one space.

    Args:
        model: a `CLIPTextModelWithProjection`.
        tokenizer: its tokenizer.
        projection: (E, Dv), the visual projection.
    """

    def __init__(self, model: Any, tokenizer: Any, projection: Tensor) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.projection = projection
        self.context: int = model.config.max_position_embeddings

    def to(self, device: str | torch.device) -> TextEncoder:
        """Move the weights."""
        self.model.to(device)
        self.projection = self.projection.to(device)
        return self

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return (B, E) float32 embeddings: the mean over a text's segments of their unit vectors."""
        ends = self.tokenizer("")["input_ids"]
        inner = self.context - len(ends)
        segments, owner = [], []
        for i, text in enumerate(texts):
            words = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for start in range(0, max(1, len(words)), inner):
                segments.append(ends[:1] + words[start : start + inner] + ends[1:])
                owner.append(i)
        batch = self.tokenizer.pad({"input_ids": segments}, padding=True, return_tensors="pt")
        found = self.model(**batch.to(self.projection.device)).text_embeds.float()
        unit = torch.nn.functional.normalize(found, dim=-1)
        rows = torch.tensor(owner, device=unit.device)
        total = torch.zeros(len(texts), unit.shape[1], device=unit.device).index_add_(0, rows, unit)
        return total / rows.bincount(minlength=len(texts))[:, None]

    @torch.no_grad()
    def patches(self, norm: torch.nn.Module, features: Tensor) -> Tensor:
        """Return (I, N, E) of patches; where there is none (padding, newline embeddings) zero.

        Args:
            norm: the tower's last norm.
            features: (I, N, Dv) as they leave a block, zero where there is no patch.
        """
        projected: Tensor = norm(features) @ self.projection.T.to(features.dtype)
        return projected * features.any(-1, keepdim=True)


def load_text_encoder(folder: Path) -> TextEncoder | None:
    """Load the text encoder of a model folder, or None where it has none.

    Raises:
        ModelError: it is there, but cannot be read.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoTokenizer, CLIPModel, CLIPTextModelWithProjection

    place = folder / FOLDER
    if not (place / "config.json").is_file():
        return None
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **local)
        if AutoConfig.from_pretrained(place, **local).model_type == "clip":
            whole: Any = CLIPModel.from_pretrained(place, local_files_only=True)
            model = CLIPTextModelWithProjection(whole.config.text_config)
            model.text_model, model.text_projection = whole.text_model, whole.text_projection
            projection = whole.visual_projection.weight.detach()
        else:
            model = CLIPTextModelWithProjection.from_pretrained(place, local_files_only=True)
            stored = load_file(place / "visual_projection.safetensors")
            projection = stored["visual_projection.weight"].float()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{place}: the text encoder cannot be loaded: {reason}") from error
    return TextEncoder(model.float(), tokenizer, projection)
