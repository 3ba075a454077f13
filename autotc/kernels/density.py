"""Density peaks: how dense each token's neighbourhood is, and how far the nearest denser token."""

from __future__ import annotations

import torch
from torch import Tensor

from autotc.kernels.dispatch import operation


@operation
def density_peaks(
    x: Tensor, count: Tensor, valid: Tensor, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the density of each token and its distance to the nearest denser one.

    The density is exp of minus the mean squared distance to the `count` nearest tokens (itself among them);
    distances are Euclidean over the root of the width. Where nothing is denser the distance is the row's widest.

    Args:
        x: (B, N, D).
        count: (B,) int64, 1 to the row's valid tokens.
        valid: (B, N) bool.
        noise: (B, N) added to the density.

    Returns:
        density (B, N) float32, -inf where not valid, and distance (B, N) float32.
    """
    k, d = int(count.max()), x.shape[-1]
    pair = valid[:, :, None] & valid[:, None, :]
    distance = torch.cdist(x.float(), x.float(), compute_mode="donot_use_mm_for_euclid_dist") / d**0.5
    near = distance.masked_fill(~pair, torch.inf).sort(dim=-1).values[..., :k]
    used = torch.arange(k, device=x.device)[None, None] < count[:, None, None]
    mean = near.square().masked_fill(~used, 0).sum(-1) / count.clamp_min(1)[:, None]
    density = (-mean).exp() + (0 if noise is None else noise)
    density = density.masked_fill(~valid, -torch.inf)
    denser = (density[:, None, :] > density[:, :, None]) & pair
    widest = distance.masked_fill(~pair, 0).amax((1, 2))
    gap = torch.where(denser, distance, torch.inf).amin(-1)
    return density, torch.where(denser.any(-1), gap, widest[:, None])
