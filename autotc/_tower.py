"""Site `vision`: the tower's sequence gets shorter inside, and signals of its last block.

Reductions keep the number of features: what comes out of the projector is scattered back to full length,
with zeros where tokens are gone, and the language model's side removes those rows. So the model's own checks,
reshapes and window orders hold. A visual token is one row (CLIP) or a whole group of rows (2x2 patches on
Qwen).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autotc._rows import Batched, Packed, TowerRows
from autotc._stages import Ledger, Plan, Step
from autotc._tap import Watcher, attention_rows, received_sum
from autotc.adapter import Grid, ModelAdapter
from autotc.assignment import Assignment
from autotc.errors import UnsupportedError
from autotc.reducer import Signals, TokenView

LAST = {
    "cls_attention": "cls",
    "received_attention": "received",
    "vision_keys": "keys",
    "features": "features",
}
BLOCK = {"block_cls_attention": "cls", "block_received_attention": "received", "block_keys": "keys"}


@dataclass
class TowerRun:
    """One call of the tower.

    Args:
        grids: token grid of each image.
        original: tokens of each image before an `input` stage, where there was one.
        rows: which tokens are left, and where.
        ledger: decisions and trace of the vision stages.
        signals: by name, indexed by original token: (I, H, N0) attention or (I, N0, D) others.
        block: signals of the block that was watched last, the same form.
        bias: whether later blocks add the log of the sizes to their logits.
        cut: whether any token is gone.
    """

    grids: list[Grid]
    original: list[int] | None
    rows: TowerRows
    ledger: Ledger
    signals: dict[str, Tensor] = field(default_factory=dict)
    block: dict[str, Tensor] = field(default_factory=dict)
    bias: bool = False
    cut: bool = False

    def alive(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return source, validity and size of the tokens left, (I, K) each."""
        return self.rows.source, self.rows.valid, self.rows.size


class Tower:
    """The vision side of a policy, by hooks on one model.

    Args:
        adapter: the model's adapter.
        plan: the policy's steps.
        signals: signals of the last block to compute.
    """

    def __init__(self, adapter: ModelAdapter, plan: Plan, signals: set[str]) -> None:
        self.adapter, self.plan = adapter, plan
        self.wanted = signals & set(LAST)
        self.run: TowerRun | None = None
        self.replay: Mapping[int, Assignment | None] | None = None
        self.ids: Tensor | None = None
        self.given: Sequence[int] | None = None  # tokens of each image before an `input` stage
        self.resized = bool(plan.of("input"))
        self._replaced: list[nn.Module] = []

    def watchers(self) -> dict[nn.Module, Watcher]:
        """Return the attention modules that are watched, and by what."""
        blocks = self.adapter.blocks
        wanted: dict[int, set[str]] = {}
        for step in self.plan.of("vision"):
            if set(step.needs) & set(BLOCK):
                wanted.setdefault(self._seen_by(step), set()).update(
                    BLOCK[n] for n in step.needs if n in BLOCK
                )
        last = self.adapter.blocks_used - 1
        biases = [s.stage.layer or 0 for s in self.plan.of("vision") if s.reducer.size_bias]
        out: dict[nn.Module, Watcher] = {}
        for i in range(last + 1):
            # packed towers take no mask as an argument: the watcher passes the bias on
            biased = bool(biases) and i >= min(biases) and self.adapter.tower_prefix == 0
            final = {LAST[n]: n for n in self.wanted if n != "features"} if i == last else {}
            if biased or final or i in wanted:
                watch = partial(self._watch, set(wanted.get(i, ())), set(final))
                out[self.adapter.attention(blocks[i])] = watch
        return out

    @staticmethod
    def _seen_by(step: Step) -> int:
        """The block whose attention a step sees: its own when it cuts inside, else the one before."""
        layer = step.stage.layer or 0
        return layer if step.reducer.where == "after_attention" else layer - 1

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks and return their handles."""
        hooks = [self.adapter.tower.register_forward_pre_hook(self._enter, with_kwargs=True)]
        steps = self.plan.of("vision")
        if steps or "features" in self.wanted:
            hooks.append(self.adapter.projector.register_forward_pre_hook(self._before_projector))
        if not steps:
            return hooks
        hooks.append(self.adapter.projector.register_forward_hook(self._after_projector))
        for i in range(min(s.stage.layer or 0 for s in steps), len(self.adapter.blocks)):
            block = self.adapter.blocks[i]
            step = self.plan.at("vision", i)
            inside = step is not None and step.reducer.where == "after_attention"
            hooks.append(
                block.register_forward_pre_hook(
                    partial(self._enter_block, None if inside else step), with_kwargs=True
                )
            )
            if step is not None and inside:
                block.forward = partial(self._halves, block, step)
                self._replaced.append(block)
        return hooks

    def detach(self) -> None:
        """Take the replaced forwards back."""
        for block in self._replaced:
            del block.forward
        self._replaced = []

    # one call -----------------------------------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        grids = self.adapter.tower_grids(args, kwargs)
        device = next(module.parameters()).device
        self.run = self.start(grids, device)
        changed = self.adapter.tower_arguments(args, kwargs) if self.resized else None
        return None if changed is None else (args, changed)

    def start(self, grids: list[Grid], device: torch.device) -> TowerRun:
        """Return a run in which nothing is cut yet."""
        counts = [t * h * w for t, h, w in grids]
        prefix, members = self.adapter.tower_prefix, self.adapter.token_members
        rows: TowerRows
        if prefix:
            rows = Batched(counts, prefix, device)
        else:
            rows = Packed(counts, members, self.adapter.tower_order(grids, device), device)
        original = None if self.given is None else list(self.given)
        if self.resized and (original is None or len(original) != len(grids)):
            raise UnsupportedError(
                "compress: the policy resizes images, but these inputs were not made by the wrapped "
                "processor; make them with the processor given to compress, inside the with block"
            )
        return TowerRun(list(grids), original, rows, Ledger(self.replay))

    def _enter_block(self, step: Step | None, block: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        run = self.run
        if run is None:
            return None
        hidden, kwargs = _named(block, args, kwargs)
        if step is not None:
            hidden = self._cut(run, step, hidden)
        if not run.cut:
            return None
        bias = run.rows.log_sizes() if run.bias else None
        return (hidden,), run.rows.arguments(kwargs, bias, hidden)

    def _halves(self, block: nn.Module, step: Step, *args: Any, **kwargs: Any) -> Tensor:
        """Run a block that cuts between its attention and its MLP."""
        hidden, kwargs = _named(block, args, kwargs)
        hidden = self.adapter.attend(block, hidden, **kwargs)
        if self.run is not None:
            hidden = self._cut(self.run, step, hidden)
        return self.adapter.feed(block, hidden)

    def _cut(self, run: TowerRun, step: Step, hidden: Tensor) -> Tensor:
        rows = run.rows
        found = {n: run.block[BLOCK[n]] for n in step.needs if n in BLOCK and BLOCK[n] in run.block}
        signals = {n: at_sources(n, v, rows.source, rows.valid) for n, v in found.items()}
        ids = self.ids if self.ids is not None and len(self.ids) == len(run.grids) else None
        view = TokenView(
            x=rows.tokens(hidden),
            valid=rows.valid,
            image=torch.zeros_like(rows.source),
            grids=run.grids,
            source=rows.source,
            size=rows.size,
            signals=Signals(signals, step.needs),
            prefix=self.adapter.tower_prefix,
            ids=ids,  # type: ignore[arg-type]
        )
        original = run.original or [t * h * w for t, h, w in run.grids]
        assignment = run.ledger.decide(step, view, original)
        if assignment is None:
            return hidden
        run.cut = True
        run.bias = run.bias or step.reducer.size_bias
        return rows.shorten(hidden, assignment)

    def _before_projector(self, module: nn.Module, args: Any) -> None:
        run = self.run
        if run is not None and "features" in self.wanted:
            run.signals["features"] = run.rows.by_source(run.rows.projected(args[0]))

    def _after_projector(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        run = self.run
        return run.rows.scatter(output) if run is not None and run.cut else None

    def _watch(
        self,
        block: set[str],
        last: set[str],
        queries: Tensor,
        keys: Tensor,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor | None:
        """Compute what was asked for from one attention call; Qwen calls once a window."""
        run = self.run
        if run is None:
            return None
        rows = run.rows
        other = rows.chunk_bias(queries) if run.bias and run.cut else None
        used = mask if other is None else other
        wanted = block | last
        found: dict[str, Tensor] = {}
        if "cls" in wanted:
            seen = torch.ones(len(queries), 1, keys.shape[2], dtype=torch.bool, device=queries.device)
            if used is not None:
                raise_mask = used[:, 0, :1].expand(len(queries), 1, -1)
                found["cls"] = _biased_row(queries[:, :, :1], keys, raise_mask, scale)
            else:
                found["cls"] = attention_rows(queries[:, :, :1], keys, seen, scale)[:, :, 0]
        if "received" in wanted:
            found["received"] = received_sum(queries, keys, used, scale, rows.real(queries.shape[0]))
        if "keys" in wanted:
            found["keys"] = keys.mean(1)
        done = rows.collect(found, queries.shape[2])
        if done is not None:
            run.block = {k: v for k, v in done.items() if k in block} or run.block
            run.signals.update({name: done[kind] for name, kind in LAST.items() if kind in last})
        return other


def at_sources(name: str, values: Tensor, source: Tensor, valid: Tensor) -> Tensor:
    """Pick the tokens left from a signal indexed by original token."""
    if name.endswith("attention"):
        return values.gather(2, source[:, None].expand(-1, values.shape[1], -1)) * valid[:, None]
    return values.gather(1, source[..., None].expand(*source.shape, values.shape[-1])) * valid[..., None]


def _biased_row(query: Tensor, keys: Tensor, bias: Tensor, scale: float) -> Tensor:
    logits = query @ keys.transpose(-1, -2) * scale + bias[:, None]
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))[:, :, 0]


def _named(block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Return the hidden state and everything else by name."""
    names = list(inspect.signature(type(block).forward).parameters)[1:]
    call = {**dict(zip(names, args, strict=False)), **kwargs}
    hidden: Tensor = call.pop(names[0])
    return hidden, call
