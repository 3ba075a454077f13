"""The counts and formulas behind `autotc.cost`: who sees how many tokens, and what that takes.

Pure Python on plain numbers, no torch: a search asks for thousands of costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from autotc.anatomy import Anatomy, Grid, ImageRule, Views
from autotc.errors import PolicyError, UnsupportedError
from autotc.policy import Stage, budget
from autotc.workload import Hardware, Request

PARTS = ("tower", "projector", "prefill", "decode", "lm_head", "reducers")


ANY = "any"  # the reducer of stages whose cost does not depend on who chooses the tokens


@dataclass(frozen=True)
class Cut:
    """One stage on one image: `n` visual tokens go in, `k` come out.

    Args:
        rows: the same for each row that the reducer sees: the image's views, or in the tower its tiles.
    """

    stage: Stage
    n: int
    k: int
    rows: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Schedule:
    """How many visual tokens of one image each part of the model sees.

    Args:
        tokens: the image's original number of visual tokens (what every `keep` is a fraction of).
        grid: (rows, columns) of visual tokens of a tile that enter the tower, after an `input` stage.
        tiles: how many tiles of that size the tower sees.
        attention: tokens of a tile in the attention of each vision block; a token is `merge` x `merge` patches.
        mlp: the same in the MLP of each vision block (fewer in a block that cuts after its attention).
        projector: tokens of a tile through the projector.
        decoder: tokens of the image in each decoder layer.
        cuts: what each stage of the policy does, in order.
    """

    tokens: int
    grid: Grid
    tiles: int
    attention: tuple[int, ...]
    mlp: tuple[int, ...]
    projector: int
    decoder: tuple[int, ...]
    cuts: tuple[Cut, ...]


# (a cut, the image's schedule, text tokens) -> FLOPs of one image
Charge = Callable[[Cut, Schedule, int], float]


def make_schedule(
    stages: Sequence[Stage],
    anatomy: Anatomy,
    image: Grid | Views,
    kept: Sequence[float] | None = None,
    inside: Callable[[Stage], bool] = lambda stage: False,
) -> Schedule:
    """Return what each part sees of one image.

    Args:
        stages: in the order of the policy.
        anatomy: the model.
        image: (rows, columns) of visual tokens of the uncompressed image, or its views where it has several.
        kept: fraction of the original tokens really alive after each stage, where it is less than asked.
        inside: whether a `vision` stage cuts inside its block, after the attention.

    Raises:
        PolicyError: a layer out of range.
        UnsupportedError: an `input` stage on an image of several views, unless they are equal tiles.
    """
    views = image if isinstance(image, Views) else Views((image,), image)
    grid, whole = views.tile, views.tile[0] * views.tile[1]
    tile, counts, alive = whole, views.counts, list(views.counts)
    blocks, layers = anatomy.vision.blocks, anatomy.decoder.layers
    attention, mlp, decoder = [tile] * blocks, [tile] * blocks, [sum(alive)] * layers
    cuts = []
    for i, stage in enumerate(stages):
        part = 1.0 if kept is None else min(kept[i], 1.0)
        wanted = [min(k, budget(n, part)) for n, k in zip(counts, _asked(stage, counts), strict=True)]
        before = alive
        rows: tuple[tuple[int, int], ...] = ()
        if stage.site == "input":
            if any(view != grid for view in views.grids):
                raise UnsupportedError(
                    f"stages[{i}].site: 'input': {anatomy.family} cuts images into tiles of one size; "
                    "smaller images have no fewer tokens there"
                )
            grid = _within(anatomy.image, grid, wanted[0])
            tile = grid[0] * grid[1]
            alive = [tile] * len(alive)
            attention, mlp, decoder = [tile] * blocks, [tile] * blocks, [sum(alive)] * layers
        else:
            j = stage.layer or 0
            if stage.site == "vision":
                if j >= anatomy.vision.blocks_used:
                    raise PolicyError(_beyond(i, "vision", j, anatomy.vision.blocks_used - 1))
                was, tile = tile, min(tile, budget(whole, part), stage.tokens(whole))
                attention[j:] = [tile] * (blocks - j)
                mlp[j:] = attention[j:]
                if inside(stage):
                    attention[j] = was
                rows = ((was, tile),) * views.tiles
                wanted = views.left(tile)
            first = j if stage.site == "decoder" else 0
            if first >= layers:
                raise PolicyError(_beyond(i, "decoder", j, layers - 1))
            alive = [min(n, k) for n, k in zip(alive, wanted, strict=True)]
            decoder[first:] = [sum(alive)] * (layers - first)
        rows = rows or tuple(zip(before, alive, strict=True))
        cuts.append(Cut(stage, sum(before), sum(alive), rows))
    return Schedule(
        tokens=sum(counts),
        grid=grid,
        tiles=views.tiles,
        attention=tuple(attention),
        mlp=tuple(mlp),
        projector=tile,
        decoder=tuple(decoder),
        cuts=tuple(cuts),
    )


def _asked(stage: Stage, counts: Sequence[int]) -> list[int]:
    """Return the budget of each view; a count that nobody has to choose yet is shared by their sizes."""
    if stage.reducer != ANY or stage.max_tokens is None:
        return [stage.tokens(n) for n in counts]
    total, left, out = sum(counts), stage.max_tokens, []
    for n in reversed(counts[1:]):
        out.append(min(n, budget(n, min(1.0, stage.max_tokens / total))))
        left -= out[-1]
    return [min(counts[0], left), *reversed(out)]


@lru_cache(maxsize=4096)
def _within(rule: ImageRule, grid: Grid, tokens: int) -> Grid:
    return rule.within(grid, tokens)


def _beyond(index: int, site: str, layer: int, last: int) -> str:
    return f"stages[{index}].layer: {layer} is beyond this model; allowed at site '{site}': 1..{last}"


def literature_flops(anatomy: Anatomy, decoder: Sequence[float]) -> float:
    """Return the papers' count of one prefill, one operation a multiply-add.

    Per decoder layer with n visual tokens: n d (q + k + v + o widths) + 2 n^2 d + 3 n d m, the formula of
    PyramidDrop and SparseVLM (4 n d^2 + 2 n^2 d + 3 n d m with as many key-value heads as heads).

    Args:
        anatomy: the model.
        decoder: visual tokens of all images in each decoder layer.
    """
    d = anatomy.decoder
    a = d.heads * d.head_dim
    linear = d.width * projections(anatomy) + 3 * d.width * d.mlp
    return float(sum(times * (n * linear + 2 * n * n * a) for n, times in Counter(decoder).items()))


def projections(anatomy: Anatomy) -> int:
    """Return the summed widths of the q, k, v and o projections of a decoder layer."""
    d = anatomy.decoder
    return 2 * d.heads * d.head_dim + 2 * d.kv_heads * d.head_dim


def tower_flops(anatomy: Anatomy, schedule: Schedule) -> float:
    """Return the tower's operations on one image: patch embedding, then every block the stock model executes.

    Per block with r rows of width w: 8 r w^2 for q, k, v, o, 4 w for every (query, key) pair that the
    attention computes, 2 r w m for every MLP matrix. Blocks behind the last one used (LLaVA) run too.
    """
    v = anatomy.vision
    w, unit = v.width, anatomy.image.merge**2
    total = 2.0 * schedule.grid[0] * schedule.grid[1] * unit * v.patch_inputs * w
    kinds = Counter(zip(schedule.attention, schedule.mlp, _windowed(anatomy), strict=True))
    for (seen, through, windowed), times in kinds.items():
        block = (
            8.0 * (seen * unit + v.prefix) * w * w + 4.0 * _pairs(anatomy, schedule.grid, seen, windowed) * w
        )
        total += times * (block + 2.0 * (through * unit + v.prefix) * v.mlp_matrices * w * v.mlp)
    return schedule.tiles * total


@lru_cache(maxsize=64)
def _windowed(anatomy: Anatomy) -> tuple[bool, ...]:
    """Return which vision blocks attend within windows."""
    v = anatomy.vision
    return tuple(bool(v.window_patches) and block not in v.full_blocks for block in range(v.blocks))


def attention_pairs(anatomy: Anatomy, schedule: Schedule, block: int) -> float:
    """Return how many (query, key) pairs of one tile a vision block's attention computes, a head.

    Windows at the border are smaller. After a cut every window is taken to keep the same share of its tokens:
    which ones lose theirs depends on the image.
    """
    return _pairs(anatomy, schedule.grid, schedule.attention[block], _windowed(anatomy)[block])


def _pairs(anatomy: Anatomy, grid: Grid, seen: int, windowed: bool) -> float:
    v, unit = anatomy.vision, anatomy.image.merge**2
    if not windowed:
        return float((seen * unit + v.prefix) ** 2)
    side = max(1, math.isqrt(v.window_patches) // anatomy.image.merge)
    rows, columns = grid
    squares = [(n // side) * side**2 + (n % side) ** 2 for n in (rows, columns)]
    return squares[0] * squares[1] * unit**2 * (seen / (rows * columns)) ** 2


def projected_tokens(anatomy: Anatomy, schedule: Schedule) -> int:
    """Return the visual tokens of one image that go through a projector: the last one, and those of DeepStack."""
    return schedule.tiles * (schedule.projector + sum(schedule.mlp[block] for block in anatomy.vision.deep))


def projector_flops(anatomy: Anatomy, tokens: int) -> float:
    """Return the projector's operations on `tokens` visual tokens."""
    return 2.0 * tokens * sum(a * b for a, b in anatomy.vision.projector)


def layer_flops(anatomy: Anatomy, queries: float, keys: float) -> float:
    """Return the operations of one decoder layer: `queries` rows that attend to `keys` rows.

    2 q d (q + k + v + o widths) + 4 q keys a + 6 q d m with a = heads x head_dim. The upper triangle of the
    causal mask is counted, since attention by plain matrix products computes it.
    """
    d = anatomy.decoder
    linear = 2 * d.width * projections(anatomy) + 6 * d.width * d.mlp
    return float(queries * linear + 4 * queries * keys * d.heads * d.head_dim)


def prefill_flops(anatomy: Anatomy, request: Request, decoder: Sequence[int]) -> float:
    """Return the decoder's operations before the first new token of each question.

    The first question is read together with the images; the others are read against their cache.
    """
    text, total = request.prompt_tokens, 0.0
    for n, times in Counter(decoder).items():
        rows = request.images * n + text
        one = layer_flops(anatomy, rows, rows)
        total += times * (one + (request.questions - 1) * layer_flops(anatomy, text, rows))
    return total


def decode_flops(anatomy: Anatomy, request: Request, decoder: Sequence[int]) -> float:
    """Return the decoder's operations while it generates; the prefill gives the first token."""
    steps, total = request.new_tokens - 1, 0.0
    if steps <= 0:
        return 0.0
    d = anatomy.decoder
    fixed = steps * layer_flops(anatomy, 1, 0)
    for n, times in Counter(decoder).items():
        keys = steps * (request.images * n + request.prompt_tokens) + steps * (steps + 1) // 2
        total += times * (fixed + 4.0 * keys * d.heads * d.head_dim)
    return total * request.questions


def lm_head_flops(anatomy: Anatomy, request: Request) -> float:
    """Return the output head's operations: one row a new token (`generate` asks for the last position)."""
    return 2.0 * request.questions * request.new_tokens * anatomy.decoder.width * anatomy.decoder.vocab


def exact_flops(anatomy: Anatomy, request: Request, schedule: Schedule, charge: Charge) -> dict[str, float]:
    """Return the operations of one request by part; `charge` prices the reducers' work."""
    images = request.images
    return {
        "tower": images * tower_flops(anatomy, schedule),
        "projector": images * projector_flops(anatomy, projected_tokens(anatomy, schedule)),
        "prefill": prefill_flops(anatomy, request, schedule.decoder),
        "decode": decode_flops(anatomy, request, schedule.decoder),
        "lm_head": lm_head_flops(anatomy, request),
        "reducers": images * sum(charge(cut, schedule, request.prompt_tokens) for cut in schedule.cuts),
    }


def kv_bytes(anatomy: Anatomy, request: Request, decoder: Sequence[int]) -> tuple[int, ...]:
    """Return the bytes of the key-value cache in each layer once a request's last token is generated."""
    d = anatomy.decoder
    row = 2 * d.kv_heads * d.head_dim * anatomy.bytes_per_parameter
    text = request.prompt_tokens + max(request.new_tokens - 1, 0)
    return tuple(row * (request.images * n + text) for n in decoder)


def activation_bytes(anatomy: Anatomy, request: Request, schedule: Schedule) -> float:
    """Return the largest activations of one request in bytes: the widest moment of tower, decoder or head.

    A block holds its residual and its normed input and either q, k, v and the attention's output or the MLP's
    inner rows; attention weights are never held (fused kernels). Logits are held once more in 32 bits.
    """
    v, d, size = anatomy.vision, anatomy.decoder, anatomy.bytes_per_parameter
    patches = schedule.tiles * (schedule.grid[0] * schedule.grid[1] * anatomy.image.merge**2 + v.prefix)
    inner = max(4 * v.width, (v.mlp_matrices if v.mlp_matrices > 2 else 1) * v.mlp)
    tower = request.images * patches * (2 * v.width + inner) * size
    rows = request.images * schedule.decoder[0] + request.prompt_tokens
    attention = 2 * (d.heads + d.kv_heads) * d.head_dim
    prefill = rows * (2 * d.width + max(attention, 3 * d.mlp)) * size
    return float(max(tower, prefill, d.vocab * (size + 4)))


def latency_s(
    anatomy: Anatomy,
    request: Request,
    schedule: Schedule,
    parts: dict[str, float],
    hardware: Hardware,
    batch: int,
) -> dict[str, float]:
    """Return the predicted seconds of a batch of equal requests by part: the roofline max(compute, memory).

    Memory traffic is the part's weights once a pass, and in the decoder the cache it writes or reads.
    """
    v, d, size = anatomy.vision, anatomy.decoder, anatomy.bytes_per_parameter
    block = 4 * v.width**2 + v.mlp_matrices * v.width * v.mlp
    layers = d.layers * d.width * (projections(anatomy) + 3 * d.mlp)
    steps = max(request.new_tokens - 1, 0)
    cache = batch * sum(kv_bytes(anatomy, request, schedule.decoder))
    traffic = {
        "tower": (v.blocks * block + v.patch_inputs * v.width) * size,
        "projector": (1 + len(v.deep)) * sum(a * b for a, b in v.projector) * size,
        "prefill": request.questions * (layers * size + cache),
        "decode": request.questions * steps * (layers * size + cache),
        "lm_head": request.questions * request.new_tokens * d.width * d.vocab * size,
        "reducers": 0,
    }
    return {
        part: max(batch * parts[part] / hardware.flops_per_s, traffic[part] / hardware.bytes_per_s)
        for part in PARTS
    }
