"""Configuration of ``llava-tiny``, and writing it as a plain Hugging Face folder.

The folder holds a ``LlavaForConditionalGeneration`` whose tower is the vision half of a small CLIP
model, all blocks and ``post_layernorm`` included. The other half of CLIP lies in ``text_encoder``:

* ``config.json``, ``model.safetensors``: a ``CLIPTextModelWithProjection``;
* ``tokenizer.json``, ``tokenizer_config.json``: the same words as the language model's; adds the
  first and the last token itself, pads on the right, at most ``CONTEXT`` tokens;
* ``visual_projection.safetensors``: ``visual_projection.weight`` (projection, tower width) and
  ``logit_scale`` (), natural logarithm of the factor on cosines.

So the CLIP embedding of an image is ``visual_projection(post_layernorm(last block's CLS row))``, that
of a patch ``visual_projection(post_layernorm(last block's patch row))``, and both are compared by
cosine with ``text_embeds`` of the text model. LLaVA's visual tokens are the patch rows one block
earlier.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from autotc.proxies import vocabulary as v
from autotc.proxies.model import CELL, MEAN, STD

SIDE = 168  # pixels, 12 x 12 patches
CONTEXT = 24  # tokens of the longest text, first and last token included


class ClipText(nn.Module):
    """The half of CLIP that LLaVA does not carry: text model, visual projection, temperature."""

    def __init__(self, text: CLIPTextModelWithProjection, tower_width: int) -> None:
        super().__init__()
        self.model = text
        width = text.text_projection.out_features
        self.visual_projection = nn.Linear(tower_width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))  # factor 1 / 0.07


def build(
    *,
    layers: int = 16,
    width: int = 160,
    heads: int = 5,
    tower_width: int = 192,
    blocks: int = 7,
    text_width: int = 128,
    side: int = SIDE,
) -> tuple[LlavaForConditionalGeneration, ClipText]:
    """Build the untrained models; the defaults are ``llava-tiny``.

    Sixteen decoder layers are half of LLaVA-1.5-7B's 32, so that depths can be translated. Images have
    ``side`` x ``side`` pixels.
    """
    vision = CLIPVisionConfig(
        hidden_size=tower_width,
        intermediate_size=3 * tower_width,
        num_hidden_layers=blocks,
        num_attention_heads=tower_width // 32,
        image_size=side,
        patch_size=CELL,
        projection_dim=text_width,
    )
    text = LlamaConfig(
        vocab_size=len(v.WORDS),
        hidden_size=width,
        intermediate_size=width * 8 // 5,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        # Over some 160 tokens a base of 100 turns all angles, and things are not found by their colour.
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=v.PAD,
        bos_token_id=v.START,
        eos_token_id=v.END,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(  # type: ignore[call-arg]
        vision_config=vision,
        text_config=text,
        image_token_index=v.IMAGE,
        image_seq_length=(side // CELL) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=v.PAD,
        bos_token_id=v.START,
        eos_token_id=v.END,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.tie_weights()
    place = model.model.vision_tower.embeddings.position_embedding.weight
    with torch.no_grad():
        place[1:] = _waves(side // CELL, tower_width)
    clip = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(v.WORDS),
            hidden_size=text_width,
            intermediate_size=2 * text_width,
            num_hidden_layers=3,
            num_attention_heads=text_width // 32,
            projection_dim=text_width,
            max_position_embeddings=CONTEXT,
            # transformers reads an end token of 2 as a mark of old, wrong configurations.
            eos_token_id=v.PAD,
            pad_token_id=v.PAD,
            bos_token_id=v.START,
        )
    )
    return model, ClipText(clip, tower_width)


def _waves(side: int, width: int) -> Tensor:
    """Return sines and cosines of row and column, (side * side, width), to start the places from.

    Neighbours are alike from the beginning, so attention finds them early.
    """
    rate = (side * 2.0) ** (-torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * rate * 2
    one = torch.cat((angle.sin(), angle.cos()), -1)  # (side, width / 2)
    rows = one[:, None].expand(-1, side, -1)
    cols = one[None].expand(side, -1, -1)
    return 0.2 * torch.cat((rows, cols), -1).reshape(side * side, -1)


def image_processor_settings(side: int = SIDE) -> dict[str, Any]:
    """Return preprocessor_config.json: the shorter side becomes ``side`` pixels, the middle is cut out."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
    }


def export(model: LlavaForConditionalGeneration, clip: ClipText, out: Path) -> None:
    """Write weights in fp16, configurations, tokenizers and image processor into ``out``."""
    folder = out / "text_encoder"
    folder.mkdir(parents=True, exist_ok=True)
    half = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.tie_weights()
    half.generation_config = GenerationConfig(
        pad_token_id=v.PAD, bos_token_id=v.START, eos_token_id=v.END, do_sample=False
    )
    half.half().save_pretrained(out)
    v.tokenizer().save_pretrained(out)
    tower: Any = model.config.vision_config
    settings = json.dumps(image_processor_settings(tower.image_size), indent=2, sort_keys=True) + "\n"
    (out / "preprocessor_config.json").write_text(settings)

    text = CLIPTextModelWithProjection(clip.model.config)
    text.load_state_dict(clip.model.state_dict())
    text.half().save_pretrained(folder)
    v.text_tokenizer(CONTEXT).save_pretrained(folder)
    rest = {
        "visual_projection.weight": clip.visual_projection.weight.detach().half().contiguous(),
        "logit_scale": clip.logit_scale.detach().half(),
    }
    save_file(rest, folder / "visual_projection.safetensors")
    for path in (out / "model.safetensors", *folder.glob("*.safetensors")):
        path.chmod(0o644)  # they are written for their owner only


def load_text(folder: Path) -> ClipText:
    """Load what ``export`` wrote into ``text_encoder`` of a model's folder, in fp32."""
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    rest = load_file(folder / "text_encoder" / "visual_projection.safetensors")
    clip = ClipText(text, rest["visual_projection.weight"].shape[1])
    with torch.no_grad():
        clip.visual_projection.weight.copy_(rest["visual_projection.weight"])
        clip.logit_scale.copy_(rest["logit_scale"])
    return clip.eval()
