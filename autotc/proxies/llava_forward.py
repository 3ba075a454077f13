"""The batched forward pass of ``llava-tiny`` in training: CLIP tower, CLIP text model, packed decoder.

Shapes as in ``forward``; the tower's rows are the CLS row and N patches, S = 1 + N.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from autotc.proxies import vocabulary as v
from autotc.proxies.forward import FIRST, MASKED, Forward, linear, rms_norm, rotate
from autotc.proxies.llava import ClipText
from autotc.proxies.model import CELL, MEAN, STD


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm over the last dimension, in fp32."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


def clip_block(x: Tensor, bias: Tensor | None, heads: int, *w: Tensor, dtype: torch.dtype) -> Tensor:
    """One block of CLIP, vision or text, on x (B, S, D); ``bias`` (S, S) is added to the scores."""
    b, s, d = x.shape
    h = layer_norm(x, w[0], w[1]).to(dtype)
    qkv = linear(h, torch.cat(w[2:5]), torch.cat(w[5:8]))
    q, k, value = qkv.view(b, s, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2)).float() * (d // heads) ** -0.5
    if bias is not None:
        scores = scores + bias
    h = (scores.softmax(-1).to(dtype) @ value).transpose(1, 2).reshape(b, s, d)
    x = x + linear(h, w[8], w[9]).float()
    h = linear(layer_norm(x, w[10], w[11]).to(dtype), w[12], w[13])
    return x + linear(h * torch.sigmoid(1.702 * h), w[14], w[15]).float()


def block_weights(block: Any) -> list[Tensor]:
    """Return the weights of a Hugging Face CLIP block in the order of ``clip_block``."""
    a = block.self_attn
    parts = [a.q_proj, a.k_proj, a.v_proj]
    weights = [block.layer_norm1.weight, block.layer_norm1.bias]
    weights += [part.weight for part in parts] + [part.bias for part in parts]
    for module in (a.out_proj, block.layer_norm2, block.mlp.fc1, block.mlp.fc2):
        weights += [module.weight, module.bias]
    return weights


class LlavaForward(Forward):
    """Runs LLaVA's tower and decoder and CLIP's text model on packed batches."""

    tower_name = "vision_tower"
    middle = (4, 8)

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        super().__init__(model, dtype, compiled)
        self.projector = model.model.multi_modal_projector
        self.clip_block = torch.compile(clip_block, dynamic=False) if compiled else clip_block

    def embed_image(self, images: Tensor) -> Tensor:
        """Return what enters the first block, (B, S, D), of images (B, H, W, 3) uint8."""
        b, height, width, _ = images.shape
        rows, cols = height // CELL, width // CELL
        x = (images.float() / 255 - MEAN) / STD
        x = x.view(b, rows, CELL, cols, CELL, 3).permute(0, 1, 3, 5, 2, 4)
        module = self.tower.embeddings
        x = linear(
            x.reshape(b, rows * cols, -1).to(self.dtype), module.patch_embedding.weight.flatten(1)
        ).float()
        x = torch.cat((module.class_embedding.expand(b, 1, -1), x), 1)
        x = x + self._places(rows, cols)
        return layer_norm(x, self.tower.pre_layrnorm.weight, self.tower.pre_layrnorm.bias)

    def states(self, images: Tensor, last: bool = True) -> list[Tensor]:
        """Return the rows (B, S, D) entering each block, and leaving the last one unless it is not run.

        The last entry but one, without ``last`` the last, is what LLaVA reads.
        """
        states = [self.embed_image(images)]
        blocks = self.tower.encoder.layers
        for block in blocks if last else blocks[:-1]:
            states.append(self.block(block, states[-1]))
        return states

    def block(self, block: Any, x: Tensor) -> Tensor:
        """Run one block of the tower on x (B, S, D)."""
        heads = self.tower.config.num_attention_heads
        return self.clip_block(x, None, heads, *block_weights(block), dtype=self.dtype)

    def project(self, features: Tensor) -> Tensor:
        """Return the visual tokens (B, N, D) of the patch rows that enter the last block."""
        one, two = self.projector.linear_1, self.projector.linear_2
        x = F.gelu(linear(features.to(self.dtype), one.weight, one.bias))
        return linear(x, two.weight, two.bias).float()

    def see(self, images: Tensor) -> Tensor:
        """Return the visual tokens (B, N, D), in raster order; the tower gets no gradient."""
        with torch.no_grad():
            features = self.states(images, last=False)[-1]
        return self.project(features[:, 1:])

    def clip_rows(self, clip: ClipText, rows: Tensor) -> Tensor:
        """Return the CLIP embeddings, of length 1, of rows (..., D) that leave the last block."""
        norm = self.tower.post_layernorm
        return F.normalize(
            linear(layer_norm(rows, norm.weight, norm.bias), clip.visual_projection.weight), dim=-1
        )

    def clip_texts(self, clip: ClipText, ids: Tensor) -> Tensor:
        """Return the CLIP embeddings (n, projection), of length 1, of texts (n, T), padded on the right."""
        model = clip.model.text_model
        x = F.embedding(ids, model.embeddings.token_embedding.weight)
        x = x + model.embeddings.position_embedding.weight[: ids.shape[1]]
        causal = torch.full((ids.shape[1],) * 2, MASKED, device=ids.device).triu(1)
        heads = clip.model.config.num_attention_heads
        for block in model.encoder.layers:
            x = self.clip_block(x, causal, heads, *block_weights(block), dtype=self.dtype)
        ends = (ids == v.PAD).int().argmax(-1)  # the first
        x = x[torch.arange(len(ids), device=ids.device), ends]
        x = layer_norm(x, model.final_layer_norm.weight, model.final_layer_norm.bias)
        return F.normalize(linear(x, clip.model.text_projection.weight), dim=-1)

    def point(self, j: int, rows: int, cols: int, asking: Tensor) -> Tensor:
        """Return to what the first head of layer j attends, in the last ``read``.

        Args:
            j: one of ``middle``.
            rows, cols: the grid of visual tokens.
            asking: (B, Q) place in its block of the token whose attention is wanted.

        Returns:
            (B, Q, N) logarithm of the attention to each visual token, the block itself left out.
        """
        x, y = self.entering[j]
        cos, sin, cos_y, sin_y = self.text_tables(rows, cols, y.shape[2])
        layer = self.text.layers[j]
        weight, size = layer.input_layernorm.weight, layer.self_attn.head_dim
        y = y.gather(2, asking[..., None, None].expand(-1, -1, 1, y.shape[-1]))[:, :, 0]
        q = linear(rms_norm(y, weight), layer.self_attn.q_proj.weight[:size])
        k = linear(rms_norm(x, weight), layer.self_attn.k_proj.weight[:size])
        q, k = rotate(q, cos_y[asking], sin_y[asking]), rotate(k, cos, sin)
        scores = (q @ k.transpose(1, 2)) * size**-0.5
        return scores.log_softmax(-1)[..., FIRST : FIRST + rows * cols]

    def _places(self, rows: int, cols: int) -> Tensor:
        """Position embeddings (S, D), interpolated for other sizes as Hugging Face does."""
        table = self.tower.embeddings.position_embedding.weight
        side = int((len(table) - 1) ** 0.5)
        if rows == cols == side:
            return table
        grid = table[1:].view(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, cols), mode="bicubic", align_corners=False)
        return torch.cat((table[:1], grid.permute(0, 2, 3, 1).flatten(0, 2)))

    def _text_tables(self, rows: int, cols: int, length: int) -> tuple[Tensor, ...]:
        """Rotary tables (P, head dim) of the shared part and (T, head dim) of a block."""
        shared = FIRST + rows * cols + 1
        place = torch.arange(shared + length)
        inv = self.text.rotary_emb.inv_freq
        angle = (place.to(inv.device)[:, None] * inv).repeat(1, 2)
        cos, sin = angle.cos(), angle.sin()
        return cos[:shared], sin[:shared], cos[shared:], sin[shared:]
