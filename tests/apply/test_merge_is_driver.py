"""Merged tokens equal an independent driver that multiplies by `dense()` and calls the layers itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autotc.adapter import family_of
from autotc.apply import Compression, compress, prefill
from tests.apply import tiny, tiny_anyres
from tests.apply.fake_reducers import fakes  # noqa: F401
from tests.apply.reference import (
    image_columns,
    last_residual,
    packed_attention,
    shuffled_attention,
    square_rows,
    tower_order,
)

PLANS: dict[str, list[dict[str, Any]]] = {
    "projector": [{"site": "projector", "reducer": "merging", "keep": 0.5}],
    "decoder": [
        {"site": "decoder", "layer": 1, "reducer": "merging", "keep": 0.7},
        {"site": "decoder", "layer": 4, "reducer": "soft", "keep": 0.4},
    ],
    "both": [
        {"site": "projector", "reducer": "soft", "keep": 0.8},
        {"site": "decoder", "layer": 2, "reducer": "merging", "keep": 0.3},
    ],
    "vision": [
        {"site": "vision", "layer": 1, "reducer": "inside", "keep": 0.8},
        {"site": "vision", "layer": 3, "reducer": "merging", "keep": 0.5},
    ],
    "vision-biased": [
        {"site": "vision", "layer": 1, "reducer": "biased", "keep": 0.8},
        {"site": "vision", "layer": 2, "reducer": "biased", "keep": 0.6},
        {"site": "projector", "reducer": "merging", "keep": 0.4},
    ],
}


class Driver:
    """Runs the decisions of a compression, image by image and prompt by prompt."""

    def __init__(self, model: Any, compression: Compression, inputs: dict[str, Tensor]) -> None:
        self.model, self.compression, self.inputs = model, compression, inputs
        self.grids = compression.decoder.run.prompt.images.grids  # type: ignore[union-attr]
        counts = [t * h * w for t, h, w in self.grids]
        self.where = image_columns(inputs["input_ids"], model.config.image_token_id, counts)
        self.left = [list(range(n)) for n in counts]  # places (original indices) of each image's tokens
        self.sizes = [torch.ones(n) for n in counts]
        self.deep: list[list[Tensor]] = []  # what is added behind the first layers, a level and image

    def matrix(self, stage: int, image: int) -> Tensor | None:
        """Return the (K, N) matrix of a stage for one image, and take over places and sizes."""
        assignment = self.compression.decisions.get(stage)
        if assignment is None:
            return None
        size = torch.zeros(len(self.left), assignment.tokens)
        for i, mine in enumerate(self.sizes):
            size[i, : len(mine)] = mine
        real, n = assignment.valid[image], len(self.left[image])
        dense = assignment.dense(size)[image, real, :n]
        return dense

    def take(self, stage: int) -> None:
        """After all images of a stage: places and sizes of what is left."""
        assignment = self.compression.decisions.get(stage)
        if assignment is None:
            return
        size = torch.zeros(len(self.left), assignment.tokens)
        for i, mine in enumerate(self.sizes):
            size[i, : len(mine)] = mine
        sizes = assignment.sizes(size)
        for i, real in enumerate(assignment.valid):
            self.left[i] = [self.left[i][a] for a in assignment.anchors[i, real].tolist()]
            self.sizes[i] = sizes[i, real]

    def mix_deep(self, matrices: list[Tensor | None], level: int = 0) -> None:
        """What is still to be added is merged with the weights of its tokens."""
        for i in range(level, len(self.deep)):
            self.deep[i] = [m.to(f) @ f for m, f in zip(matrices, self.deep[i], strict=True) if m is not None]

    def stages(self, site: str, layer: int | None = None) -> list[int]:
        found = enumerate(self.compression.policy.stages)
        return [i for i, s in found if s.site == site and (layer is None or s.layer == layer)]

    # the vision tower ---------------------------------------------------------------------------------------

    def features(self) -> list[Tensor]:
        """Return the projected tokens of each image, those left after the tower's stages."""
        own = {"llava": self._clip, "internvl": self._shuffled}
        own |= dict.fromkeys(tiny_anyres.KINDS, self._packed)
        return own.get(self.model.config.model_type, self._qwen)()

    def _packed(self) -> list[Tensor]:
        """The stock model's own packing, each image split into base view and map."""
        names = ("pixel_values", "image_sizes", "batch_num_images")
        found = self.model.model.get_image_features(**{k: v for k, v in self.inputs.items() if k in names})
        base = (tiny_anyres.SIDE // tiny_anyres.PATCH) ** 2
        return [view for image in found.pooler_output for view in (image[:base], image[base:])]

    def _clip(self) -> list[Tensor]:
        tower = self.model.model.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(self.inputs["pixel_values"]))
        images, biased = [h[None] for h in hidden], False
        for i, block in enumerate(tower.encoder.layers[:-1]):
            bias = [torch.cat([torch.zeros(1), s.log()]).to(hidden) if biased else None for s in self.sizes]
            half = [
                h + block.self_attn(block.layer_norm1(h), None if b is None else b[None, None, None])[0]
                for h, b in zip(images, bias, strict=True)
            ]
            inside = self._inside(i)
            for stage in self.stages("vision", i) if not inside else []:
                images = [self._prefixed(stage, n, h) for n, h in enumerate(images)]
                self.take(stage)
                half = [h + block.self_attn(block.layer_norm1(h), None)[0] for h in images]
            for stage in self.stages("vision", i) if inside else []:
                half = [self._prefixed(stage, n, h) for n, h in enumerate(half)]
                self.take(stage)
                biased |= self._biased(stage)
            images = [h + block.mlp(block.layer_norm2(h)) for h in half]
        return [self.model.model.multi_modal_projector(h[0, 1:]) for h in images]

    def _shuffled(self) -> list[Tensor]:
        tower = self.model.model.vision_tower
        hidden = tower.embeddings(self.inputs["pixel_values"])
        order = square_rows(hidden.shape[1] - 1).flatten()
        # the rows of a token next to one another, CLS aside
        images, biased = [(h[:1], h[1:][order].view(len(order) // 4, -1)) for h in hidden], False

        def attend(block: Any, cls: Tensor, tokens: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
            rows = torch.cat([cls, tokens.view(-1, cls.shape[-1])])[None]
            bias = torch.cat([torch.zeros(1), size.log().repeat_interleave(4)])[None].to(rows)
            attended = shuffled_attention(block.attention, block.layernorm_before(rows), bias * biased)
            rows = (rows + block.lambda_1 * attended)[0]
            return rows[:1], rows[1:].view(tokens.shape)

        def feed(block: Any, x: Tensor, width: int) -> Tensor:
            rows = x.view(-1, width)
            return (rows + block.lambda_2 * block.mlp(block.layernorm_after(rows))).view(x.shape)

        for i, block in enumerate(tower.encoder.layer):
            for stage in self.stages("vision", i) if not self._inside(i) else []:
                images = [(cls, self.matrix(stage, n).to(x) @ x) for n, (cls, x) in enumerate(images)]
                self.take(stage)
            images = [attend(block, cls, x, s) for (cls, x), s in zip(images, self.sizes, strict=True)]
            for stage in self.stages("vision", i) if self._inside(i) else []:
                images = [(cls, self.matrix(stage, n).to(x) @ x) for n, (cls, x) in enumerate(images)]
                self.take(stage)
                biased |= self._biased(stage)
            width = images[0][0].shape[1]
            images = [(feed(block, cls, width), feed(block, x, width)) for cls, x in images]
        return [self.model.model.multi_modal_projector(x) for _, x in images]

    def _prefixed(self, stage: int, image: int, hidden: Tensor) -> Tensor:
        dense = self.matrix(stage, image)
        return torch.cat([hidden[:, :1], dense.to(hidden) @ hidden[:, 1:]], 1)

    def _inside(self, layer: int) -> bool:
        return any(
            self.compression.plan.steps[i].reducer.where == "after_attention"
            for i in self.stages("vision", layer)
        )

    def _biased(self, stage: int) -> bool:
        return self.compression.plan.steps[stage].reducer.size_bias

    def _qwen(self) -> list[Tensor]:
        tower, grid = self.model.model.visual, self.inputs["image_grid_thw"]
        calls: list[tuple[Tensor, dict[str, Any]]] = []
        handles = [
            b.register_forward_pre_hook(lambda m, a, k: calls.append((a[0], k)), with_kwargs=True)
            for b in tower.blocks
        ]
        self.compression.remove()
        tower(self.inputs["pixel_values"], grid)
        for handle in handles:
            handle.remove()
        groups = tower_order(self.model, grid).tolist()
        starts = [0, *(grid.prod(1) // 4).cumsum(0).tolist()]
        owner = [max(i for i, s in enumerate(starts[:-1]) if s <= g) for g in groups]
        own = [g - starts[i] for g, i in zip(groups, owner, strict=True)]  # (image, source) of each group
        hidden, rows, biased = calls[0][0], list(range(len(groups))), False
        for i, block in enumerate(tower.blocks):
            kwargs = calls[i][1]
            inside = self._inside(i)
            if not inside:
                hidden, rows = self._cut(i, hidden, rows, owner, own)
            members = torch.tensor([4 * r + j for r in rows for j in range(4)])
            rope = tuple(t[members] for t in kwargs["position_embeddings"])
            chunk = torch.repeat_interleave(
                torch.arange(len(kwargs["cu_seqlens"]) - 1), kwargs["cu_seqlens"].diff().long()
            )[members]
            bias = torch.zeros(len(members), dtype=hidden.dtype)
            if biased:
                sizes = [self._size(owner[r], own[r]) for r in rows]
                bias = torch.tensor(sizes).log().to(hidden).repeat_interleave(4)
            attended = biased_attention(
                block.attn, block.norm1(hidden), rope, chunk[:, None] == chunk[None], bias
            )
            hidden = hidden + attended
            if inside:
                stages = self.stages("vision", i)
                hidden, rows = self._cut(i, hidden, rows, owner, own)
                biased |= any(self._biased(s) for s in stages)
            hidden = hidden + block.mlp(block.norm2(hidden))
            levels = getattr(tower, "deepstack_visual_indexes", ())
            if i in levels:
                out = tower.deepstack_merger_list[levels.index(i)](hidden)
                self.deep.append(self._by_image(out, rows, owner, own))
        return self._by_image(tower.merger(hidden), rows, owner, own)

    def _by_image(self, out: Tensor, rows: list[int], owner: list[int], own: list[int]) -> list[Tensor]:
        table = {(owner[r], own[r]): out[n] for n, r in enumerate(rows)}
        return [torch.stack([table[i, s] for s in mine]) for i, mine in enumerate(self.left)]

    def _size(self, image: int, source: int) -> float:
        return float(self.sizes[image][self.left[image].index(source)])

    def _cut(
        self, block: int, hidden: Tensor, rows: list[int], owner: list[int], own: list[int]
    ) -> tuple[Tensor, list[int]]:
        for stage in self.stages("vision", block):
            groups = hidden.view(len(rows), -1)
            at = {(owner[r], own[r]): n for n, r in enumerate(rows)}
            before = [list(mine) for mine in self.left]
            matrices = [self.matrix(stage, i) for i in range(len(self.left))]
            self.mix_deep(matrices)
            self.take(stage)
            new: dict[int, Tensor] = {}
            for i, mine in enumerate(self.left):
                tokens = torch.stack([groups[at[i, s]] for s in before[i]])
                for source, row in zip(mine, matrices[i].to(tokens) @ tokens, strict=True):
                    new[rows[at[i, source]]] = row
            rows = sorted(new)
            hidden = torch.stack([new[r] for r in rows]).view(4 * len(rows), -1)
        return hidden, rows

    # the language model -------------------------------------------------------------------------------------

    def residuals(self) -> Tensor:
        """Return the last state before the final norm of each prompt, (B, D)."""
        features = self.features()
        projector = self.stages("projector")
        for stage in projector:
            matrices = [self.matrix(stage, i) for i in range(len(self.left))]
            features = [m.to(f) @ f for m, f in zip(matrices, features, strict=True)]
            self.mix_deep(matrices)
            self.take(stage)
        text = self.model.model.language_model
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"].bool()
        prompts = []
        for b in range(len(ids)):
            columns = [c for c in range(ids.shape[1]) if mask[b, c]]
            image_of = {c: (i, s) for i, (p, cs) in enumerate(self.where) if p == b for s, c in enumerate(cs)}
            rows = [
                (c, image_of.get(c))
                for c in columns
                if c not in image_of or image_of[c][1] in self.left[image_of[c][0]]
            ]
            states = [
                text.embed_tokens(ids[b, c])
                if own is None
                else features[own[0]][self.left[own[0]].index(own[1])]
                for c, own in rows
            ]
            prompts.append((rows, torch.stack(states)[None], self._positions(b)))
        for i, layer in enumerate(text.layers):
            for stage in self.stages("decoder", i):
                prompts = self._cut_prompts(stage, i, prompts)
            prompts = [
                (
                    rows,
                    layer(
                        hidden,
                        attention_mask=None,
                        position_embeddings=text.rotary_emb(hidden, self._placed(positions, rows)),
                    ),
                    positions,
                )
                for rows, hidden, positions in prompts
            ]
            if i < len(self.deep):
                prompts = [
                    (rows, hidden + self._added(i, rows, hidden), positions)
                    for rows, hidden, positions in prompts
                ]
        return torch.stack([hidden[0, -1] for _, hidden, _ in prompts])

    def _added(self, level: int, rows: list[Any], hidden: Tensor) -> Tensor:
        added = torch.zeros_like(hidden)
        for n, (_, token) in enumerate(rows):
            if token is not None:
                added[0, n] = self.deep[level][token[0]][self.left[token[0]].index(token[1])]
        return added

    def _positions(self, prompt: int) -> Tensor:
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"]
        if "image_grid_thw" not in self.inputs:
            return (mask[prompt].cumsum(0) - 1).clamp_min(0)[None]
        found, _ = self.model.model.get_rope_index(
            ids,
            image_grid_thw=self.inputs["image_grid_thw"],
            attention_mask=mask,
            mm_token_type_ids=self.inputs["mm_token_type_ids"],
        )
        return found[:, prompt : prompt + 1]

    def _placed(self, positions: Tensor, rows: list[Any]) -> Tensor:
        if self.compression.policy.positions == "compact":
            return torch.arange(len(rows))[None]
        return positions[..., [c for c, _ in rows]]

    def _cut_prompts(self, stage: int, layer: int, prompts: list[Any]) -> list[Any]:
        before = [list(mine) for mine in self.left]
        matrices = [self.matrix(stage, i) for i in range(len(self.left))]
        self.mix_deep(matrices, layer)
        self.take(stage)
        out = []
        for b, (rows, hidden, positions) in enumerate(prompts):
            at = {own: n for n, (_, own) in enumerate(rows) if own is not None}
            changed: dict[tuple[int, int], Tensor] = {}
            for i, (prompt, _) in enumerate(self.where):
                if prompt == b:
                    tokens = torch.stack([hidden[0, at[i, s]] for s in before[i]])
                    for source, row in zip(self.left[i], matrices[i].to(tokens) @ tokens, strict=True):
                        changed[i, source] = row
            kept = [(n, r) for n, r in enumerate(rows) if r[1] is None or r[1] in changed]
            states = [hidden[0, n] if own is None else changed[own] for n, (_, own) in kept]
            out.append(([r for _, r in kept], torch.stack(states)[None], positions))
        return out


def biased_attention(attention: Any, hidden: Tensor, rope: Any, allowed: Tensor, bias: Tensor) -> Tensor:
    """`packed_attention` with a bias of each key."""
    if not bool(bias.any()):
        return packed_attention(attention, hidden, rope, allowed, None)
    r = len(hidden)
    q, k, v = attention.qkv(hidden).view(r, 3, attention.num_heads, -1).permute(1, 2, 0, 3)
    cos, sin = (t.float() for t in rope)

    def turn(x: Tensor) -> Tensor:
        a, b = x.float().chunk(2, -1)
        return (x.float() * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)

    logits = turn(q) @ turn(k).transpose(-1, -2) * attention.scaling + bias
    weights = logits.masked_fill(~allowed, float("-inf")).softmax(-1)
    return attention.proj((weights @ v).transpose(0, 1).reshape(r, -1))


RENUMBERED = [kind for kind in tiny.KINDS if "compact" in family_of(kind).positions]


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("kind", "name", "positions"),
    [
        *((*case, "original") for case in tiny.cases(PLANS)),
        *((kind, "both", "compact") for kind in RENUMBERED),
    ],
)
def test_prefill_in_float64(kind: str, name: str, positions: str) -> None:
    model = tiny.model(kind, torch.float64)
    inputs = tiny.batch(kind, torch.float64, several=True)
    policy = tiny.policy(model, *PLANS[name], positions=positions)
    with compress(model, policy) as compression, last_residual(model) as seen, torch.no_grad():
        prefill(compression, inputs)
        driver = Driver(model, compression, inputs)
        compression.remove()
        theirs = driver.residuals()
        assert (seen[0] - theirs).abs().max() < 1e-10 * theirs.abs().max()
        merged = max(float(s.max()) for s in driver.sizes)
        assert merged > 1, "nothing was merged"
