"""Scores and selections that reducers share: pure functions on padded batches, ties to the lowest index.

Every selection takes `valid` (B, N), the real tokens, and a count for each row, so that a row of a batch is
decided as if it were alone. Sums over tokens run in float32 whatever the input's type.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autotc import kernels
from autotc.assignment import Assignment, merge, select

COUNT = int | Tensor


def ranking(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return (B, N) indices by falling score, ties by rising index, NaN behind, padding last."""
    if scores.is_floating_point():
        scores = scores.masked_fill(scores.isnan(), -torch.inf)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    if valid is None:
        return order
    last = (~valid).gather(1, order).to(torch.int8)
    return order.gather(1, torch.argsort(last, dim=1, stable=True))


def rank_of(order: Tensor) -> Tensor:
    """Return (B, N) the place of each token in `order` (the inverse permutation)."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def top_mask(scores: Tensor, count: COUNT, valid: Tensor | None = None) -> Tensor:
    """Mark the `count` highest scores of each row.

    Args:
        scores: (B, N).
        count: an int or (B,); rows with fewer valid tokens give all of them.
        valid: (B, N) bool, tokens that may be chosen.

    Returns:
        (B, N) bool.
    """
    chosen = rank_of(ranking(scores, valid)) < per_row(count, scores)[:, None]
    return chosen if valid is None else chosen & valid


def per_row(count: COUNT, like: Tensor) -> Tensor:
    """Return (B,) int64 of an int or a (B,) tensor, on the device of `like`."""
    return torch.as_tensor(count, dtype=torch.long, device=like.device).expand(len(like))


def order_mask(order: Tensor, count: COUNT, n: int) -> Tensor:
    """Mark the first `count` entries of `order` (B, K) among n tokens, as (B, n) bool."""
    real = torch.arange(order.shape[1], device=order.device)[None] < per_row(count, order)[:, None]
    mask = torch.zeros(len(order), n, dtype=torch.bool, device=order.device)
    return mask.scatter_reduce_(1, order, real, reduce="amax")


def keep_top(scores: Tensor, count: COUNT, valid: Tensor | None = None) -> Assignment:
    """Keep the `count` highest scores of each row, in the order of the tokens."""
    return select(top_mask(scores, count, valid))


def heads(attention: Tensor, how: str = "mean") -> Tensor:
    """Reduce the head axis of (B, H, ...) by "mean", "sum" or "max", in float32."""
    attention = attention.float()
    if how == "max":
        return attention.amax(1)
    return attention.sum(1) if how == "sum" else attention.mean(1)


def normalised(x: Tensor) -> Tensor:
    """Return the rows of x divided by their length, in float32; a zero row stays zero."""
    return torch.nn.functional.normalize(x.float(), dim=-1, eps=1e-12)


def cosine(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Return the float32 cosines (B, N, M) of the rows of a (B, N, D) and b (B, M, D; a by default)."""
    a = normalised(a)
    return a @ (a if b is None else normalised(b)).transpose(-1, -2)


def nearest(similarity: Tensor, candidates: Tensor) -> Tensor:
    """Return (B, N) the candidate of highest similarity of each token, the lowest index on ties.

    Args:
        similarity: (B, N, M).
        candidates: (B, M) bool.
    """
    masked = similarity.masked_fill(~candidates[:, None, :], -torch.inf)
    return masked.argmax(-1)


def farthest(x: Tensor, count: COUNT, valid: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """Choose tokens greedily, each the one whose nearest chosen token is farthest (1 - cosine).

    Args:
        x: (B, N, D).
        count: an int or (B,).
        valid: (B, N) bool.
        start: (B,) the first pick; by default the token whose nearest neighbour is farthest.

    Returns:
        (B, K) int64 in the order of choice, K the largest count; entries past a row's own count mean nothing.
    """
    valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
    count = torch.minimum(per_row(count, x), valid.sum(1))
    return kernels.greedy_select(1 - cosine(x), count, valid, start)


def density_peaks(
    x: Tensor, count: COUNT, valid: Tensor | None = None, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cluster by density peaks: centres are dense and far from anything denser.

    Args:
        x: (B, N, D).
        count: clusters, an int or (B,); it is also the number of neighbours that the density averages over.
        valid: (B, N) bool.
        noise: (B, N) added to the density; without it equal densities rank by lowest index.

    Returns:
        centres (B, K) in falling order of density times distance (entries past a row's count mean nothing),
        and labels (B, N), the place of each token's cluster in `centres`, -1 where not valid.
    """
    b, n, d = x.shape
    valid = torch.ones(b, n, dtype=torch.bool, device=x.device) if valid is None else valid
    count = torch.minimum(per_row(count, x), valid.sum(1))
    k = int(count.max()) if b else 0
    if k == 0:
        return x.new_zeros(b, 0, dtype=torch.long), torch.full((b, n), -1, device=x.device)
    density, gap = kernels.density_peaks(x, count, valid, noise)
    centres = ranking((density * gap).masked_fill(~valid, -torch.inf), valid)[:, :k]
    real = torch.arange(k, device=x.device)[None] < count[:, None]
    points = x.float()
    middle = points.gather(1, centres[..., None].expand(b, k, d))
    to_centre = torch.cdist(points, middle, compute_mode="donot_use_mm_for_euclid_dist") / d**0.5
    labels = to_centre.masked_fill(~real[:, None, :], torch.inf).argmin(-1)
    places = torch.arange(k, device=x.device).expand(b, k)
    labels = _own(labels, centres, places, real)
    return centres, torch.where(valid, labels, -1)


def _own(labels: Tensor, centres: Tensor, places: Tensor, real: Tensor) -> Tensor:
    """Give each centre its own label (equal points would send a centre to an earlier one)."""
    mine = torch.full_like(labels, -1)
    mine.scatter_reduce_(1, centres, torch.where(real, places, -1), reduce="amax")
    return torch.where(mine >= 0, mine, labels)


def bounded_peaks(distance: Tensor, cutoff: float | Tensor, valid: Tensor) -> Tensor:
    """Mark dense tokens such that no two marks lie within the cutoff and every other token does of one.

    It is what visiting tokens by falling density gives, where one that no mark covers becomes a mark (distance
    bounded density peaks). A round marks all tokens that have no denser open one near, and closes what they
    cover, which comes to the same. The density is a sum of exp(-(distance / 2) ** 2); equal ones rank by index.

    Args:
        distance: (B, N, N) float32.
        cutoff: a number or (B,).
        valid: (B, N) bool.

    Returns:
        (B, N) bool.
    """
    limit = torch.as_tensor(cutoff, dtype=distance.dtype, device=distance.device).expand(len(distance))
    density = (-(distance / 2).square()).exp().masked_fill(~valid[:, None], 0).sum(-1)
    place = rank_of(ranking(density, valid))
    near = distance <= limit[:, None, None]
    blocked = near & (place[:, None, :] < place[:, :, None])
    marked, open_ = torch.zeros_like(valid), valid.clone()
    while bool(open_.any()):
        found = open_ & ~(blocked & open_[:, None]).any(-1)
        marked |= found
        open_ &= ~found & ~(near & found[:, None]).any(-1)
    return marked


def spread(x: Tensor, chosen: Tensor, count: COUNT, valid: Tensor, by: str = "nearest") -> Tensor:
    """Add tokens greedily to those chosen, each the least similar to them (cosine).

    Args:
        x: (B, N, D).
        chosen: (B, N) bool; where none is, the first one is the token of lowest index.
        count: an int or (B,), how many there are in the end; rows with more already stay as they are.
        valid: (B, N) bool.
        by: "nearest" looks at the most similar chosen token (max-min), "sum" at all of them.

    Returns:
        (B, N) bool.
    """
    if by not in ("nearest", "sum"):
        raise ValueError(f"spread: by: {by!r} is not 'nearest' or 'sum'")
    alike, chosen = cosine(x), chosen & valid
    count = torch.minimum(per_row(count, x), valid.sum(1))
    worst = torch.finfo(alike.dtype).max
    if by == "sum":
        close = alike.masked_fill(~chosen[:, None], 0).sum(-1)
    else:
        close = alike.masked_fill(~chosen[:, None], -worst).amax(-1)
    for _ in range(int((count - chosen.sum(1)).clamp_min(0).max()) if len(x) else 0):
        # tokens without a number come after all others, but before what is taken or padding
        best = close.nan_to_num(worst).masked_fill(chosen | ~valid, torch.inf).argmin(1)
        row = alike.gather(1, best[:, None, None].expand(-1, 1, alike.shape[2]))[:, 0]
        close = close + row if by == "sum" else torch.maximum(close, row)
        more = chosen.sum(1) < count
        chosen = chosen.scatter(1, best[:, None], chosen.gather(1, best[:, None]) | more[:, None])
    return chosen


def cells(source: Tensor, grids: list[tuple[int, int, int]], size: float) -> Tensor:
    """Return (B, N) int64 which square of the image's grid each token stands in; equal numbers, same square.

    Args:
        source: (B, N) original indices, row by row, frame by frame.
        grids: (t, h, w) of each row.
        size: side of a square in tokens, a fraction too; squares at the far edges may be smaller.

    Returns:
        Numbers below t * h * w; padding gets some number.
    """
    h, w = (torch.tensor([g[i] for g in grids], device=source.device)[:, None] for i in (1, 2))
    frame, place = source // (h * w), source % (h * w)
    row, column = ((i.double() / size).floor().long() for i in (place // w, place % w))
    return (frame * h + row) * w + column


def raters(
    visual: Tensor, text: Tensor, visual_valid: Tensor | None = None, text_valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the text tokens that are about the image, as SparseVLM does: those above the mean share of it.

    Args:
        visual: (B, N, D) embeddings of the image; rows of zeros are padding.
        text: (B, T, D) embeddings of the text.
        visual_valid: (B, N) bool.
        text_valid: (B, T) bool.

    Returns:
        (B, T) bool, at least one (all real text where none is above the mean), and their shares (B, T), where
        every visual token spreads one unit over the text by softmax of the dot products.
    """
    visual, text = visual.float(), text.float()
    if text_valid is None:
        text_valid = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    real = (visual != 0).any(-1)
    real = real if visual_valid is None else real & visual_valid
    logits = (visual @ text.transpose(1, 2)).masked_fill(~text_valid[:, None], -torch.inf)
    spread = logits.softmax(-1).masked_fill(~real[..., None], 0)
    share = spread.sum(1) / real.sum(1).clamp_min(1)[:, None]
    mean = share.masked_fill(~text_valid, 0).sum(1) / text_valid.sum(1).clamp_min(1)
    chosen = (share > mean[:, None]) & text_valid
    return torch.where(chosen.any(1, keepdim=True), chosen, text_valid), share


def mean_rows(rows: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean (B, N) of the chosen rows (B, T) of a matrix (B, T, N); the others are not read."""
    total = rows.float().masked_fill(~chosen[..., None], 0).sum(1)
    return total / chosen.sum(1).clamp_min(1)[:, None]


def recycled(dropped: int, fraction: float = 0.3, divide: int = 10) -> tuple[int, int]:
    """Return how many of the dropped tokens SparseVLM recycles, and into how many clusters."""
    if dropped <= 0 or fraction == 0:
        return 0, 0
    tokens = int(fraction * dropped) + 1
    return tokens, int(tokens / divide) + 1


def recycling_split(n: int, budget: int, fraction: float = 0.3, divide: int = 10) -> int:
    """Return how many of n tokens to keep so that they and the clusters of the others fill the budget.

    Where the budget is too small for a cluster beside a kept token, all of it is kept tokens.
    """
    for kept in range(min(budget, n), 0, -1):
        if kept + recycled(n - kept, fraction, divide)[1] <= budget:
            return kept
    return budget


def recycle(
    x: Tensor,
    keep: Tensor,
    scores: Tensor,
    tokens: COUNT,
    clusters: COUNT,
    valid: Tensor,
    noise: Tensor | None = None,
) -> Assignment:
    """Keep the marked tokens and average the best of the others by density-peak clusters.

    Args:
        x: (B, N, D), what is clustered.
        keep: (B, N) bool.
        scores: (B, N) by which the others are chosen.
        tokens, clusters: how many are recycled, into how many; ints or (B,).
        valid: (B, N) bool.
        noise: see `density_peaks`; in falling order of the recycled tokens' scores.
    """
    tokens = per_row(tokens, x)
    order = ranking(scores, valid & ~keep)[:, : int(tokens.max())]
    real = torch.arange(order.shape[1], device=x.device)[None] < tokens[:, None]
    points = x.gather(1, order[..., None].expand(-1, -1, x.shape[-1])).masked_fill(~real[..., None], 0)
    centres, labels = density_peaks(points, clusters, real, noise)
    target = torch.where(keep, torch.arange(x.shape[1], device=x.device), -1)
    if centres.shape[1]:
        into = order.gather(1, centres.gather(1, labels.clamp_min(0)))
        target.scatter_reduce_(1, order, torch.where(labels >= 0, into, -1), reduce="amax")
    return merge(target, normalise="count")


def original_valid(grids: list[tuple[int, int, int]], like: Tensor) -> Tensor:
    """Mark as (B, N0) bool the rows that can be real in a padded (B, N0, ...) signal over original tokens."""
    counts = torch.tensor([t * h * w for t, h, w in grids], device=like.device)
    return torch.arange(like.shape[1], device=like.device)[None] < counts[:, None]


def fold(
    metric: Tensor,
    size: Tensor,
    count: COUNT,
    valid: Tensor,
    match: Callable[..., Tensor],
    summed: Tensor | None = None,
) -> Tensor:
    """Merge in rounds until `count` tokens are left; each round matches what the one before has merged.

    Args:
        metric: (B, N, D) what tokens are compared by; a merged token has the mean, weighted by size.
        size: (B, N) how many originals a token stands for.
        count: an int or (B,), tokens to leave.
        valid: (B, N) bool, padding on the right.
        match: given metric, valid and how many tokens have to go (B,), says where each token goes; it may
            send fewer away, but at least one.
        summed: (B, N) something of which a merged token has the sum; `match` gets it as a fourth argument.

    Returns:
        (B, N) int64, the token each token ends in, -1 where not valid.
    """
    count, real = per_row(count, metric), valid
    index = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)  # original of each place
    place = index  # where each original token is by now
    size = size.float()
    while bool((valid.sum(1) > count).any()):
        also = () if summed is None else (summed,)
        into = match(metric, valid, (valid.sum(1) - count).clamp_min(0), *also)
        metric, size = kernels.bipartite_merge(metric, size, into)
        left = valid & (into == torch.arange(into.shape[1], device=into.device))
        order = torch.argsort((~left).to(torch.int8), dim=1, stable=True)
        order, ranks = order[:, : int(left.sum(1).max())], rank_of(order)
        # the next round only looks at what is left; padding may stand anywhere
        place = ranks.gather(1, into.gather(1, place)).clamp_max(order.shape[1] - 1)
        if summed is not None:
            summed = torch.zeros_like(summed).scatter_add_(1, into, summed).gather(1, order)
        index, size, valid = (item.gather(1, order) for item in (index, size, left))
        metric = metric.gather(1, order[..., None].expand(-1, -1, metric.shape[2]))
    return torch.where(real, index.gather(1, place), -1)


def top_in_groups(scores: Tensor, groups: Tensor, count: COUNT, valid: Tensor) -> Tensor:
    """Mark the `count` highest scores in each group of tokens.

    Args:
        scores: (B, N).
        groups: (B, N) int64 from 0 on, the group of each token.
        count: an int or (B,), the same for all groups of a row; smaller groups give all of their tokens.
        valid: (B, N) bool, tokens that may be chosen.

    Returns:
        (B, N) bool.
    """
    order = ranking(scores, valid)
    label = groups.masked_fill(~valid, int(groups.max()) + 1 if groups.numel() else 0).gather(1, order)
    by_group = torch.argsort(label, dim=1, stable=True)
    order, label = order.gather(1, by_group), label.gather(1, by_group).contiguous()
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    first = torch.searchsorted(label, label)  # where the group begins
    chosen = place - first < per_row(count, scores)[:, None]
    return torch.zeros_like(valid).scatter_(1, order, chosen) & valid
