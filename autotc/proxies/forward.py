"""The batched forward pass used in training, over the parameters of the Hugging Face modules.

Hugging Face's own forward runs the tower window by window and takes one question a sequence. Here a
batch of equal-sized images runs through the tower at once, and all questions of an image share its
prefix: [prefix | visual tokens | vision_end] once, then Q question blocks which see that and
themselves only. Every block restarts at the same rotary position, so a packed question is computed
exactly as a single one (tested against Hugging Face's forward).

Shapes: B images, N visual tokens, D width, P = prefix length + N + 1, Q questions, T block length.
Parameters are kept in fp32; matrix products run in ``dtype``; norms, softmax and the residual
stream stay in fp32.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from autotc.proxies import vocabulary as v
from autotc.proxies.model import CELL, MEAN, MERGE, PATCH, STD, WINDOW

FIRST = len(v.PREFIX.split())  # place of the first visual token
MIDDLE = (4, 7)  # decoder layers at whose entrance visual tokens should know their place
MASKED = -1e9  # finite, so that a row with nothing to see stays a number


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` in the type of x."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm over the last dimension, in fp32."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (..., head dim), halves paired, computed in fp32."""
    a, b = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)


def _gated(x: Tensor, w: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Feed-forward part: (norm, gate, up, down[, gate bias, up bias, down bias])."""
    bias = torch.cat((w[4], w[5])) if len(w) > 4 else None
    h = linear(rms_norm(x, w[0]).to(dtype), torch.cat((w[1], w[2])), bias)
    gate, up = h.chunk(2, -1)
    return linear(F.silu(gate) * up, w[3], w[6] if len(w) > 4 else None).float()


def tower_block(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    bias: Tensor | None,
    heads: int,
    *w: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """One block of the tower on x (B, W, S, D): attention within each of W windows of S patches."""
    b, n, s, d = x.shape
    qkv = linear(rms_norm(x, w[0]).to(dtype), w[1], w[2])
    q, k, value = qkv.view(b, n, s, 3, heads, d // heads).permute(3, 0, 1, 4, 2, 5)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    scores = (q @ k.transpose(-1, -2)).float() * (d // heads) ** -0.5
    if bias is not None:
        scores = scores + bias
    h = (scores.softmax(-1).to(dtype) @ value).transpose(2, 3).reshape(b, n, s, d)
    x = x + linear(h, w[3], w[4]).float()
    return x + _gated(x, w[5:], dtype)


def decoder_layer(
    x: Tensor,
    y: Tensor,
    cos: Tensor,
    sin: Tensor,
    cos_y: Tensor,
    sin_y: Tensor,
    bias: Tensor,
    heads: int,
    *w: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """One decoder layer on the shared part x (B, P, D) and the question blocks y (B, Q, T, D).

    The rotary tables are (P, head dim) and (T, head dim), or have (B, 1) before that. ``bias``
    (B, 1, 1, P) hides dropped columns of x from everyone.
    """
    b, p, d = x.shape
    _, n, t, _ = y.shape
    size = d // heads
    groups = w[3].shape[0] // size  # key and value heads
    both = torch.cat((x, y.reshape(b, n * t, d)), 1)
    h = linear(rms_norm(both, w[0]).to(dtype), torch.cat(w[1:4]), torch.cat(w[4:7]))
    q, k, value = h.split((d, groups * size, groups * size), -1)
    q = q.reshape(b, p + n * t, heads, size).transpose(1, 2)
    k = k.reshape(b, p + n * t, groups, size).transpose(1, 2)
    value = value.reshape(b, p + n * t, groups, size).transpose(1, 2)
    cos_all = torch.cat([cos] + [cos_y] * n, -2)
    sin_all = torch.cat([sin] + [sin_y] * n, -2)
    q, k = rotate(q, cos_all, sin_all), rotate(k, cos_all, sin_all)
    k = k.repeat_interleave(heads // groups, 1)
    value = value.repeat_interleave(heads // groups, 1)
    scale = size**-0.5

    # The shared part is causal in itself.
    causal = torch.full((p, p), MASKED, device=x.device).triu(1)
    scores = (q[:, :, :p] @ k[:, :, :p].transpose(-1, -2)).float() * scale + causal + bias
    out_x = scores.softmax(-1).to(dtype) @ value[:, :, :p]

    # A question sees the shared part and, causally, its own block: two products, one softmax.
    q_y, k_y = q[:, :, p:], k[:, :, p:].reshape(b, heads, n, t, size)
    far = ((q_y @ k[:, :, :p].transpose(-1, -2)).float() * scale + bias).view(b, heads, n, t, p)
    near = (q_y.reshape(b, heads, n, t, size) @ k_y.transpose(-1, -2)).float() * scale
    near = near + torch.full((t, t), MASKED, device=x.device).triu(1)
    weights = torch.cat((far, near), -1).softmax(-1).to(dtype)
    out_y = weights[..., :p].reshape(b, heads, n * t, p) @ value[:, :, :p]
    own = weights[..., p:] @ value[:, :, p:].reshape(b, heads, n, t, size)
    out_y = out_y + own.reshape(b, heads, n * t, size)

    out = torch.cat((out_x, out_y), 2).transpose(1, 2).reshape(b, p + n * t, d)
    both = both + linear(out, w[7]).float()
    both = both + _gated(both, w[8:], dtype)
    return both[:, :p], both[:, p:].reshape(b, n, t, d)


class Forward:
    """Runs a model's tower and decoder on packed batches.

    Args:
        model: the Hugging Face model whose parameters are used.
        dtype: type of the matrix products.
        compiled: compile the two layer functions (once for each image size).
    """

    tower_name = "visual"
    middle = MIDDLE

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype = torch.float32, compiled: bool = False
    ) -> None:
        self.tower, self.text = getattr(model.model, self.tower_name), model.model.language_model
        self.dtype = dtype
        self.entering: dict[int, tuple[Tensor, Tensor]] = {}  # shared part and blocks, of the last ``read``
        self.tower_tables, self.text_tables = cache(self._tower_tables), cache(self._text_tables)
        self.tower_block, self.decoder_layer = tower_block, decoder_layer
        if compiled:
            torch._dynamo.config.recompile_limit = 64
            self.tower_block = torch.compile(tower_block, dynamic=False)
            self.decoder_layer = torch.compile(decoder_layer, dynamic=False)

    def see(self, images: Tensor) -> Tensor:
        """Return the visual tokens (B, N, D), in raster order, of images (B, H, W, 3) uint8."""
        b, height, width, _ = images.shape
        rows, cols = height // CELL, width // CELL
        wide, tall = -cols % WINDOW, -rows % WINDOW  # cells missing to whole windows
        images = F.pad(images, (0, 0, 0, wide * CELL, 0, tall * CELL))
        nr, nc = (rows + tall) // WINDOW, (cols + wide) // WINDOW
        x = (images.float() / 255 - MEAN) / STD
        x = x.view(b, nr, WINDOW, MERGE, PATCH, nc, WINDOW, MERGE, PATCH, 3)
        # -> image, window row, window col, cell row, cell col, patch row, patch col, colour, y, x
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 9, 4, 8)
        x = x.reshape(b, nr * nc, (WINDOW * MERGE) ** 2, 3 * PATCH * PATCH)
        kernel = self.tower.patch_embed.proj.weight.sum(2).flatten(1)  # both frames are the same
        x = linear(x.to(self.dtype), kernel).float()

        cos, sin, bias = self.tower_tables(rows, cols)
        shape = x.shape
        for j, block in enumerate(self.tower.blocks):
            full = j in self.tower.fullatt_block_indexes
            if full:
                x = x.view(b, 1, -1, shape[-1])
            view = (1, 1, x.shape[2]) if full else (shape[1], 1, shape[2])
            mask = None if bias is None else bias.view(view[0], 1, 1, view[2])
            a, m = block.attn, block.mlp
            weights = [block.norm1.weight, a.qkv.weight, a.qkv.bias, a.proj.weight, a.proj.bias]
            weights += [block.norm2.weight, m.gate_proj.weight, m.up_proj.weight]
            weights += [m.down_proj.weight, m.gate_proj.bias, m.up_proj.bias, m.down_proj.bias]
            x = self.tower_block(
                x,
                cos.view(*view, -1),
                sin.view(*view, -1),
                mask,
                a.num_heads,
                *weights,
                dtype=self.dtype,
            )
            x = x.view(shape)
        merger = self.tower.merger
        x = rms_norm(x, merger.ln_q.weight).view(b, -1, MERGE * MERGE * shape[-1]).to(self.dtype)
        x = F.gelu(linear(x, merger.mlp[0].weight, merger.mlp[0].bias))
        x = linear(x, merger.mlp[2].weight, merger.mlp[2].bias).float()
        x = x.view(b, nr, nc, WINDOW, WINDOW, -1).transpose(2, 3)
        x = x.reshape(b, rows + tall, cols + wide, -1)[:, :rows, :cols]
        return x.reshape(b, rows * cols, -1)

    def read(
        self, visual: Tensor, rows: int, tokens: Tensor, keep: Tensor | None, late: int = 0
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the decoder on the visual tokens and all questions.

        Args:
            visual: (B, N, D) in raster order of a grid with ``rows`` rows.
            tokens: (B, Q, T) ids of question, suffix and answer, padded on the right.
            keep: (2, B, N) bool, which visual tokens can be seen before layer ``late`` and from
                there on; None means all of them everywhere.

        Returns:
            The last hidden states (B, Q, T, D) of the question blocks, and the visual tokens
            (B, N, D) as they enter each layer of ``middle``.
        """
        b, n, _ = visual.shape
        x, y = self.embed(visual, tokens)
        tables = self.text_tables(rows, n // rows, tokens.shape[-1])
        if keep is None:
            keep = torch.ones(2, b, n, dtype=torch.bool, device=visual.device)
        hidden = ~F.pad(keep, (FIRST, 1), value=True)
        bias = torch.where(hidden, MASKED, 0.0)[:, :, None, None]
        middle = []
        self.entering = {}
        for j in range(len(self.text.layers)):
            if j in self.middle:
                middle.append(x[:, FIRST : FIRST + n])
                self.entering[j] = x, y
            x, y = self.layer(j, x, y, tables, bias[int(j >= late)])
        return rms_norm(y, self.text.norm.weight), middle

    def embed(self, visual: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters the decoder: the shared part (B, P, D) and blocks (B, Q, T, D)."""
        table = self.text.embed_tokens.weight
        prefix = torch.tensor([*v.encode(v.PREFIX), v.VISION_END], device=visual.device)
        fixed = F.embedding(prefix, table).expand(len(visual), -1, -1)
        x = torch.cat((fixed[:, :-1], visual, fixed[:, -1:]), 1).float()
        return x, F.embedding(tokens, table).float()

    def layer(
        self, j: int, x: Tensor, y: Tensor, tables: tuple[Tensor, ...], bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run decoder layer j; see ``decoder_layer``."""
        layer = self.text.layers[j]
        a, m = layer.self_attn, layer.mlp
        weights = [layer.input_layernorm.weight, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]
        if a.q_proj.bias is None:
            weights += [a.q_proj.weight.new_zeros(len(w)) for w in weights[1:]] + [a.o_proj.weight]
        else:
            weights += [a.q_proj.bias, a.k_proj.bias, a.v_proj.bias, a.o_proj.weight]
        weights += [layer.post_attention_layernorm.weight]
        weights += [m.gate_proj.weight, m.up_proj.weight, m.down_proj.weight]
        cos, sin, cos_y, sin_y = tables
        heads = self.text.config.num_attention_heads
        return self.decoder_layer(x, y, cos, sin, cos_y, sin_y, bias, heads, *weights, dtype=self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., vocabulary) of hidden states (..., D)."""
        return linear(hidden.to(self.dtype), self.text.embed_tokens.weight).float()

    def _tower_tables(self, rows: int, cols: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rotary tables (W * S, head dim) in window order and the mask (W * S,) of padding."""
        nr, nc = -(-rows // WINDOW), -(-cols // WINDOW)
        side = WINDOW * MERGE
        y = torch.arange(nr * side).view(nr, 1, WINDOW, 1, MERGE, 1)
        x = torch.arange(nc * side).view(1, nc, 1, WINDOW, 1, MERGE)
        y, x = (part.flatten() for part in torch.broadcast_tensors(y, x))
        inv = self.tower.rotary_pos_emb.inv_freq
        place = torch.stack((y, x), -1).to(inv.device)
        freqs = (place[..., None] * inv).flatten(1).repeat(1, 2)
        outside = (y >= rows * MERGE) | (x >= cols * MERGE)
        mask = torch.where(outside, MASKED, 0.0).to(inv.device) if outside.any() else None
        return freqs.cos(), freqs.sin(), mask

    def _text_tables(self, rows: int, cols: int, length: int) -> tuple[Tensor, ...]:
        """Rotary tables (P, head dim) of the shared part and (T, head dim) of a block, M-RoPE."""
        text = torch.arange(FIRST).expand(3, -1)
        cell = torch.arange(rows * cols)
        image = FIRST + torch.stack((cell * 0, cell // cols, cell % cols))
        end = FIRST + max(rows, cols)
        shared = torch.cat((text, image, torch.full((3, 1), end)), 1)
        block = (end + 1 + torch.arange(length)).expand(3, -1)
        rope = self.text.rotary_emb
        tables: list[Tensor] = []
        for place in (shared, block):
            angle = place.to(rope.inv_freq.device)[..., None] * rope.inv_freq
            parts = angle.split(rope.mrope_section, -1)
            angle = torch.cat([part[i % 3] for i, part in enumerate(parts)], -1).repeat(1, 2)
            tables += [angle.cos(), angle.sin()]
        return tuple(tables)
