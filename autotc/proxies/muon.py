"""Muon: momentum whose matrix updates are orthogonalised (Jordan et al., 2024)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of matrices g (n, rows, cols) near 1 by Newton-Schulz in bf16."""
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    x = x.mT if flip else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return (x.mT if flip else x).float()


class Muon(torch.optim.Optimizer):
    """Muon for 2-d parameters; parameters without a gradient are left alone.

    With several processes each one orthogonalises its share and the updates are summed: the
    gradients must already be equal everywhere.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1.5e-3,
        momentum: float = 0.95,
        decay: float = 0.05,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters once."""
        world = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if world > 1 else 0
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            updates = [torch.zeros_like(p) for p in params]
            # Matrices of one shape go through one batched product.
            mine: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
            for i, p in enumerate(params):
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                if i % world == rank:
                    ahead = p.grad.lerp(buffer, group["momentum"])  # Nesterov
                    mine[p.shape].append((i, ahead))
            for same in mine.values():
                done = orthogonalise(torch.stack([ahead for _, ahead in same]))
                for (i, _), update in zip(same, done, strict=True):
                    updates[i] = update
            if world > 1:
                flat = torch.cat([update.flatten() for update in updates])
                dist.all_reduce(flat)
                parts = flat.split([p.numel() for p in params])
                updates = [part.view_as(p) for part, p in zip(parts, params, strict=True)]
            for p, update in zip(params, updates, strict=True):
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)
