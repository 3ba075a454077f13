"""What every model family has to do. `AdapterContract` is run over the tiny models by tests/adapters.

A new family adds a tiny model to `tests/apply/tiny.py`; all engine tests then run on it too.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from autotc._views import View
from autotc.adapter import ModelAdapter, adapter_for, adapters, anatomy, family_of
from autotc.policy import SITES
from autotc.reducer import SIGNALS
from tests.apply import tiny, tiny_anyres


class AdapterContract:
    """Parametrised by `kind`, a tiny model of `tests.apply.tiny`."""

    def adapter(self, kind: str) -> ModelAdapter:
        return adapter_for(tiny.model(kind))

    def test_class_data(self, kind: str) -> None:
        cls = type(self.adapter(kind))
        assert cls.__module__ == f"autotc.adapters.{cls.name}" and cls.name in adapters.names()
        assert all(family_of(t) is cls for t in cls.model_types)
        assert set(cls.sites) <= set(SITES) and set(cls.positions) <= {"original", "compact"}
        assert set(cls.refusals) == set(SITES) - {"cache"} - set(cls.sites), "a missing site has a reason"
        assert "original" in cls.positions and set(cls.signals_absent) <= set(SIGNALS)
        for alias, entry in cls.aliases.items():
            numbers = anatomy(alias)
            assert (numbers.family, numbers.id) == (cls.name, entry["id"])
            assert entry["config"]["model_type"] in cls.model_types

    def test_anatomy_counts_the_built_model(self, kind: str) -> None:
        adapter = self.adapter(kind)
        numbers = anatomy(adapter.model)
        assert numbers.parameters == sum(p.numel() for p in set(adapter.model.parameters()))
        assert numbers.decoder.layers == len(adapter.layers)
        assert (numbers.vision.blocks, numbers.vision.blocks_used) == (
            len(adapter.blocks),
            adapter.blocks_used,
        )
        attention: Any = adapter.layers[0].self_attn
        assert attention.head_dim == numbers.decoder.head_dim
        assert attention.k_proj.out_features == numbers.decoder.kv_heads * numbers.decoder.head_dim
        assert numbers.vision.prefix == adapter.tower_prefix
        assert numbers.image.merge**2 == adapter.token_members

    def test_attend_and_feed_make_a_block(self, kind: str) -> None:
        adapter, inputs = self.adapter(kind), tiny.batch(kind)
        calls = self.tower_calls(adapter, inputs)
        for block, (hidden, kwargs, output) in zip(adapter.blocks, calls, strict=True):
            with torch.no_grad():
                halves = adapter.feed(block, adapter.attend(block, hidden, **kwargs))
            assert torch.equal(halves, output)

    def test_grids_and_order_are_those_of_the_features(self, kind: str) -> None:
        """A tower row's token, in the adapter's order, gives the projector's feature at that index; where images
        become several tiles a token of a view gives the feature of its tile and patch, or the newline embedding.
        """
        adapter, inputs = self.adapter(kind), tiny.batch(kind, several=True)
        grids: list[Any] = []
        calls = self.image_calls(adapter)
        projected: list[Tensor] = []
        adapter.tower.register_forward_pre_hook(
            lambda m, a, k: grids.extend(adapter.tower_grids(a, k)), with_kwargs=True
        )
        adapter.projector.register_forward_hook(lambda m, a, out: projected.append(out))
        embeds: list[Tensor] = []
        adapter.text.register_forward_pre_hook(
            lambda m, a, k: embeds.append(k["inputs_embeds"]), with_kwargs=True
        )
        with torch.no_grad():
            adapter.core(**inputs)
        counts = [t * h * w for t, h, w in grids]
        where = inputs["input_ids"] == adapter.image_token
        views = adapter.views(calls[0])
        if views is not None:
            self.check_views(kind, adapter, views, embeds[0][where], projected[0], inputs)
            return
        assert sum(counts) == int(where.sum())
        found = projected[0].reshape(-1, projected[0].shape[-1])
        order = adapter.tower_order(grids, found.device)
        order = torch.arange(len(found)) if order is None else order
        assert sorted(order.tolist()) == list(range(len(found)))
        assert torch.equal(embeds[0][where][order], found)

    def check_views(
        self,
        kind: str,
        adapter: ModelAdapter,
        views: list[View],
        embeds: Tensor,
        projected: Tensor,
        inputs: dict[str, Tensor],
    ) -> None:
        images = tiny_anyres.views(tiny.rule(kind), inputs)
        assert [v.grid[1:] for v in views] == [grid for image in images for grid in image.grids]
        assert [v.group for v in views] == [i for i, image in enumerate(images) for _ in image.grids]
        assert len(projected) == sum(image.tiles for image in images)
        scaled = tiny_anyres.scaled(tiny.rule(kind), inputs)
        start = 0
        for view, small in zip(views, scaled, strict=True):
            n = view.grid[0] * view.grid[1] * view.grid[2]
            assert len(view.patch) == len(view.tile) == n
            newline = view.patch < 0
            expected = torch.where(
                newline[:, None], adapter.core.image_newline, projected[view.tile, view.patch]
            )
            seen, start = embeds[start : start + n], start + n
            exact = (
                newline if small else torch.ones_like(newline)
            )  # tests/adapters/test_views.py has the rest
            assert torch.equal(seen[exact], expected[exact])
        assert start == len(embeds) and not all(scaled[1::2])

    @staticmethod
    def image_calls(adapter: ModelAdapter) -> list[dict[str, Any]]:
        """Return the arguments of the calls of `get_image_features`, as they come."""
        own, calls = adapter.core.get_image_features, []

        @functools.wraps(own)
        def noted(*args: Any, **kwargs: Any) -> Any:
            calls.append(dict(inspect.signature(own).bind(*args, **kwargs).arguments))
            return own(*args, **kwargs)

        adapter.core.get_image_features = noted
        return calls

    def test_positions_of_a_prompt_are_those_of_generate(self, kind: str) -> None:
        adapter, inputs = self.adapter(kind), tiny.batch(kind)
        seen: list[Tensor] = []
        adapter.text.register_forward_pre_hook(
            lambda m, a, k: seen.append(k["position_ids"]), with_kwargs=True
        )
        with torch.no_grad():
            adapter.model.generate(**inputs, max_new_tokens=1, do_sample=False)
            own = adapter.prompt_positions(inputs["attention_mask"])
            extra = {} if own is None else {"position_ids": own}
            adapter.core(**inputs, **extra)
        mask = inputs["attention_mask"].bool()
        generated, called = (p[-3:] if p.ndim == 3 else p[None] for p in seen)
        assert torch.equal(generated[:, mask], called[:, mask])

    def tower_calls(self, adapter: ModelAdapter, inputs: dict[str, Tensor]) -> list[Any]:
        """Return what each block was called with, by name, and what it gave."""
        calls: list[Any] = []

        def hook(module: Any, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
            names = list(module.forward.__code__.co_varnames[1:]) if args[1:] else []
            named = dict(zip(names[1:], args[1:], strict=False))
            calls.append((args[0], {**named, **kwargs}, output))

        for block in adapter.blocks:
            block.register_forward_hook(hook, with_kwargs=True)
        with torch.no_grad():
            adapter.core(**inputs)
        return calls
