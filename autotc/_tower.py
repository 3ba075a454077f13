"""Site `vision`: the tower's sequence gets shorter inside, and signals of its last block.

Reductions keep the number of features: what comes out of the projector is scattered back to full length,
with zeros where tokens are gone, and the language model's side removes those rows. So the model's own checks,
reshapes and window orders hold. A visual token is one row (CLIP) or a whole group of rows (2x2 patches on
Qwen).
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autotc._grouped import Grouped
from autotc._rows import Batched, Packed, TowerRows
from autotc._same import Same, one_tile_an_image
from autotc._signals import BLOCK, TOWER, at_sources
from autotc._stages import Ledger, Plan, Step, first_observed
from autotc._tap import Watcher, mean_attention, mean_logits, received_sum
from autotc._tiles import in_views
from autotc.adapter import Grid, ModelAdapter
from autotc.anatomy import block_at
from autotc.assignment import Assignment
from autotc.errors import UnsupportedError
from autotc.reducer import Signals, TokenView


class _Replaced(RemovableHandle):
    """A method of one module, replaced until `remove`."""

    def __init__(self, module: nn.Module, name: str, make: Callable[[Any], Any]) -> None:
        super().__init__(OrderedDict())
        self.module, self.name = module, name
        setattr(module, name, make(getattr(module, name)))

    def remove(self) -> None:
        self.module.__dict__.pop(self.name, None)


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
        deep: what the projectors of DeepStack gave, (I, K, D) for the tokens left.
        groups: the image of each row, where images become several tiles and rows are views (`autotc._views`).
        same: which images of the prompts the rows stand for, where pictures that are shown again ran once.
    """

    grids: list[Grid]
    original: list[int] | None
    rows: TowerRows
    ledger: Ledger
    signals: dict[str, Tensor] = field(default_factory=dict)
    block: dict[str, Tensor] = field(default_factory=dict)
    bias: bool = False
    cut: bool = False
    deep: list[Tensor] = field(default_factory=list)
    groups: list[int] | None = None
    same: Same | None = None

    def alive(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return source, validity and size of the tokens left, (I, K) each."""
        return self.rows.source, self.rows.valid, self.rows.size


class Tower:
    """The vision side of a policy, by hooks on one model.

    Args:
        adapter: the model's adapter.
        plan: the policy's steps.
        signals: signals for the sites behind the tower to compute.
    """

    def __init__(self, adapter: ModelAdapter, plan: Plan, signals: set[str]) -> None:
        self.adapter, self.plan = adapter, plan
        self.wanted = signals & set(TOWER)
        if "clip_patches" in signals:
            self.wanted.add("features")
        self.run: TowerRun | None = None
        self.replay: Mapping[int, Assignment | None] | None = None
        self.ids: Tensor | None = None
        self.given: Sequence[int] | None = None  # tokens of each image before an `input` stage
        self.same: Same | None = None  # pictures that are shown again, which run once
        self.resized = bool(plan.of("input"))
        self._replaced: list[nn.Module] = []

    def watchers(self) -> dict[nn.Module, Watcher]:
        """Return the attention modules that are watched, and by what."""
        blocks = self.adapter.blocks
        block: dict[int, set[str]] = {}
        for step in self.plan.of("vision"):
            for at in self._watched(step):
                block.setdefault(at, set()).update(BLOCK[n] for n in step.needs if n in BLOCK)
        behind: dict[int, set[str]] = {}
        for name in self.wanted - {"features"}:
            behind.setdefault(self.depth(TOWER[name][0]), set()).add(name)
        batched = self.adapter.tower_prefix > 0  # uneven images are padded
        masks = [s.stage.layer or 0 for s in self.plan.of("vision") if s.reducer.size_bias or batched]
        out: dict[nn.Module, Watcher] = {}
        for i in range(len(blocks)):
            # where blocks take no mask as an argument the watcher passes it on
            masked = bool(masks) and i >= min(masks) and not self.adapter.block_masks
            if masked or block.get(i) or i in behind:
                watch = partial(self._watch, block.get(i, set()), behind.get(i, set()))
                out[self.adapter.attention(blocks[i])] = watch
        return out

    def looked_at(self) -> list[int]:
        """Return the blocks that the sites behind the tower take signals from."""
        return [self.depth(TOWER[name][0]) for name in self.wanted - {"features"}]

    def depth(self, place: str) -> int:
        """Return the block that a signal of the sites behind the tower comes from."""
        adapter = self.adapter
        return block_at(place, len(adapter.blocks), adapter.blocks_used, adapter.tower_prefix > 0)

    def _watched(self, step: Step) -> range:
        """The blocks whose attention a step sees: that of its cut, before it those that a stateful reducer
        observes.
        """
        seen = self._seen_by(step)
        earliest = next(s for s in self.plan.of("vision") if s.stage.reducer == step.stage.reducer)
        before = (step.stage.layer or 0) - first_observed(earliest) if step.reducer.stateful else 0
        return range(max(0, seen - before), seen + 1)

    @staticmethod
    def _seen_by(step: Step) -> int:
        """The block whose attention a step sees: its own when it cuts inside, else the one before."""
        layer = step.stage.layer or 0
        return layer if step.reducer.where == "after_attention" else layer - 1

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks and return their handles."""
        hooks = [self.adapter.tower.register_forward_pre_hook(self._enter, with_kwargs=True)]
        seen = self._once if one_tile_an_image(self.adapter) else self._with_views
        hooks.append(_Replaced(self.adapter.core, "get_image_features", seen))
        steps = self.plan.of("vision")
        if steps or "features" in self.wanted:
            hooks.append(self.adapter.projector.register_forward_pre_hook(self._before_projector))
        if not steps:
            return hooks
        hooks.append(self.adapter.projector.register_forward_hook(self._after_projector))
        last = self.adapter.blocks[self.adapter.blocks_used - 1]
        hooks.append(last.register_forward_hook(self._leave_blocks))
        if self.adapter.deep_projectors:
            hooks.append(self.adapter.tower.register_forward_hook(self._leave_tower))
        for module in self.adapter.deep_projectors:
            hooks.append(module.register_forward_hook(self._after_deep))
        for i in range(min(map(first_observed, steps)), len(self.adapter.blocks)):
            block = self.adapter.blocks[i]
            step = self.plan.at("vision", i)
            inside = step is not None and step.reducer.where == "after_attention"
            hooks.append(
                block.register_forward_pre_hook(
                    partial(self._enter_block, i, None if inside else step), with_kwargs=True
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

    def _with_views(self, features: Callable[..., Any]) -> Callable[..., Any]:
        """Return the model's own function behind which the rows are views, where images become several tiles."""
        signature = inspect.signature(features)

        @wraps(features)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            out = features(*args, **kwargs)
            views = self.adapter.views(signature.bind(*args, **kwargs).arguments)
            if views is not None and self.run is not None:
                self.run = in_views(self.run, views)
            return out

        return wrapped

    def _once(self, features: Callable[..., Any]) -> Callable[..., Any]:
        """Return the model's own function, which sees each of several equal pictures once."""
        signature = inspect.signature(features)

        @wraps(features)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.same is None:
                return features(*args, **kwargs)
            call = {**dict(zip(signature.parameters, args, strict=False)), **kwargs}
            return self.same.again(features(**{**call, **self.same.once(call)}))

        return wrapped

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
        if prefix and members > 1:
            rows = Grouped(counts, prefix, self.adapter.token_rows(grids[0], device), device)
        elif prefix or self.adapter.block_masks:
            rows = Batched(counts, prefix, device)
        else:
            rows = Packed(counts, members, self.adapter.tower_order(grids, device), device)
        original, same = None if self.given is None else list(self.given), self.same
        if original is not None and same is not None:
            original = [original[i] for i in same.first]
        if self.resized and (original is None or len(original) != len(grids)):
            raise UnsupportedError(
                "compress: the policy resizes images, but these inputs were not made by the wrapped "
                "processor; make them with the processor given to compress, inside the with block"
            )
        return TowerRun(list(grids), original, rows, Ledger(self.replay), same=same)

    def _enter_block(
        self, i: int, step: Step | None, block: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        run = self.run
        if run is None:
            return None
        hidden, kwargs = _named(block, args, kwargs)
        for watching in self.plan.watching("vision", i) if run.ledger.replay is None else ():
            run.ledger.observe(watching, self._view(run, watching, hidden))
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
        original = run.original or [t * h * w for t, h, w in run.grids]
        assignment = run.ledger.decide(step, self._view(run, step, hidden), original)
        if assignment is None:
            return hidden
        run.cut = True
        run.deep = [assignment.apply(level, run.rows.size) for level in run.deep]
        run.bias = run.bias or step.reducer.size_bias
        return run.rows.shorten(hidden, assignment)

    def _view(self, run: TowerRun, step: Step, hidden: Tensor) -> TokenView:
        rows = run.rows
        found = {n: run.block[BLOCK[n]] for n in step.needs if n in BLOCK and BLOCK[n] in run.block}
        signals = {n: at_sources(n, v, rows.source, rows.valid) for n, v in found.items()}
        shown = run.grids if run.same is None else run.same.order
        ids = self.ids if self.ids is not None and len(self.ids) == len(shown) else None
        if ids is not None and run.same is not None:
            ids = ids[run.same.first]
        return TokenView(
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

    def _leave_blocks(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        run = self.run
        return run.rows.leave(output) if run is not None and run.cut else None

    def _after_deep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self.run is not None:
            self.run.deep.append(self.run.rows.gathered(output))

    def _leave_tower(self, module: nn.Module, args: Any, output: Any) -> None:
        """Give the tokens left what became of their DeepStack features in the cuts behind those blocks."""
        run = self.run
        if run is not None and run.cut:
            self.adapter.set_deep(output, [run.rows.scattered(level) for level in run.deep])

    def _before_projector(self, module: nn.Module, args: Any) -> Any:
        run = self.run
        if run is None:
            return None
        entering = run.rows.entering(args[0]) if run.cut else args[0]
        if "features" in self.wanted:
            run.signals["features"] = run.rows.by_source(run.rows.projected(entering))
        return (entering,)

    def _after_projector(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        run = self.run
        return run.rows.scatter(output) if run is not None and run.cut else None

    def _watch(
        self,
        block: set[str],
        behind: set[str],
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor | None:
        """Compute what was asked for from one attention call; Qwen calls once a window.

        Args:
            block: kinds that a stage of this site looks at.
            behind: signals for the sites behind the tower.
        """
        run = self.run
        if run is None:
            return None
        rows = run.rows
        other = rows.chunk_bias(queries, run.bias) if run.cut else None
        used = mask if other is None else other
        real = rows.real(queries.shape[0])
        found: dict[str, Tensor] = {}
        for kind in block | {TOWER[name][1] for name in behind}:
            if kind == "cls":
                found[kind] = _row(queries[:, :, :1], keys, used, scale).softmax(-1, dtype=_wide(keys))
            elif kind == "cls_logits":
                found[kind] = _row(queries[:, :, :1], keys, used, scale)
            elif kind == "value_row":
                found[kind] = _row(values[:, :, :1], values, used, 1.0).softmax(-1, dtype=_wide(values))
            elif kind == "received":
                found[kind] = received_sum(queries, keys, used, scale, real)
            elif kind == "wide_row":
                # one head over the whole width: its logits are the heads' sum, at the width's own scale
                row = _row(queries[:, :, :1], keys, None, scale).sum(1, keepdim=True) / keys.shape[1] ** 0.5
                row = row if used is None else row + used[:, :1, 0].expand(len(row), -1, -1)
                found[kind] = row.softmax(-1, dtype=_wide(keys))[:, 0]
            elif kind == "wide_keys":
                found[kind] = keys.transpose(1, 2).flatten(2)
            elif kind == "keys":
                found[kind] = keys.mean(1)
            elif kind == "values":
                found[kind] = values
            elif kind == "map":
                found[kind] = mean_attention(queries, keys, used, scale)
            elif kind == "logits":
                found[kind] = mean_logits(queries, keys, used, scale)
            elif kind == "logits_row":
                found[kind] = _row(queries[:, :, :1], keys, used, scale).mean(1)
        done = rows.collect(found, queries.shape[2])
        if done is not None:
            run.block = {k: v for k, v in done.items() if k in block} or run.block
            run.signals.update({name: done[TOWER[name][1]] for name in behind})
        return other


def _row(query: Tensor, keys: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return the logits (B, H, S) of one query a head, under an additive mask where there is one."""
    logits = (query @ keys.transpose(-1, -2))[:, :, 0] * scale
    return logits if mask is None else logits + mask[:, :, 0].expand(len(logits), -1, -1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _named(block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Return the hidden state and everything else by name."""
    names = list(inspect.signature(type(block).forward).parameters)[1:]
    call = {**dict(zip(names, args, strict=False)), **kwargs}
    hidden: Tensor = call.pop(names[0])
    return hidden, call
