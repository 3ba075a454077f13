"""What every registered reducer has to do. `ReducerContract` is run over the registry by tests/reducers."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy
from autotc.assignment import Assignment
from autotc.policy import ModelRef, Policy, Stage, load_policy, map_depth
from autotc.reducer import (
    SIGNALS,
    Budget,
    Reducer,
    Shape,
    Signals,
    TokenView,
    axes,
    check_param,
    make_reducer,
    reducers,
    resolve_needs,
)

WIDTHS = {"H": 4, "D": 16, "G": 2, "hd": 8, "Dv": 32, "E": 12}
PROBABILITIES = ("attention",)
SHAPE = re.compile(r"^\(([^)]*)\)")

CLIP = VisionAnatomy(24, 23, 1024, 16, 4096, 2, 1, 0, (), 588, ((1024, 4096), (4096, 4096)))
QWEN = VisionAnatomy(32, 32, 1280, 16, 3420, 3, 0, 64, (7, 15, 23, 31), 1176, ((5120, 5120), (5120, 3584)))
ANATOMIES = (
    Anatomy(
        "llava",
        "llava-like",
        ImageRule(14, fixed=336),
        CLIP,
        DecoderAnatomy(32, 4096, 32, 32, 128, 11008, 32064),
        7_000_000_000,
    ),
    Anatomy(
        "qwen2_5_vl",
        "qwen-like",
        ImageRule(14, merge=2, min_pixels=3136, max_pixels=12845056),
        QWEN,
        DecoderAnatomy(28, 3584, 28, 4, 128, 18944, 152064),
        8_000_000_000,
    ),
)


def dimensions(signal: str) -> list[str]:
    """Return the axes of a signal as its description names them, e.g. ["B", "H", "N"]."""
    found = SHAPE.match(SIGNALS[signal])
    assert found, f"the description of signal {signal!r} starts with its shape"
    return found[1].split(",")


def make_view(
    n: int,
    *,
    seed: int = 0,
    text: int = 5,
    cut: bool = False,
    prefix: int = 0,
    equal: bool = False,
    names: tuple[str, ...] = tuple(SIGNALS),
) -> TokenView:
    """Return one image of n random tokens with the named signals.

    Args:
        n: tokens.
        text: text tokens behind the image.
        cut: whether earlier stages have removed and merged tokens.
        prefix: rows of the block before the tokens.
        equal: all tokens and signals the same, so that everything ties.
    """
    random = torch.Generator().manual_seed(seed)
    original = 2 * n if cut else n
    sizes = {**WIDTHS, "B": 1, "N": n, "N0": original, "T": text}

    def draw(*shape: int) -> Tensor:
        return torch.ones(shape) if equal else torch.randn(shape, generator=random)

    signals = {}
    for name in names:
        value = draw(*(sizes[axis] for axis in dimensions(name)))
        # 0.8: the mass of the tokens that are not the image's
        signals[name] = value.softmax(-1) * 0.8 if name.endswith(PROBABILITIES) else value
    source = torch.randperm(original, generator=random)[:n].sort().values
    rows = math.isqrt(original)
    grid = (1, rows, original // rows) if original % rows == 0 else (1, 1, original)
    return TokenView(
        draw(1, n, sizes["D"]),
        source=source[None],
        grids=[grid],
        size=torch.randint(1, 4, (1, n), generator=random).float() if cut else None,
        signals=signals,
        text_valid=torch.ones(1, text, dtype=torch.bool),
        prefix=prefix,
        ids=torch.tensor([seed]),
    )


def stack(views: list[TokenView], padding: float = 9.0) -> TokenView:
    """Return the views as one batch, padded on the right with a number that must not matter."""
    widest = {axis: max(size(v, axis) for v in views) for axis in ("N", "N0", "T")}

    def pad(value: Tensor, axes: list[str], fill: float) -> Tensor:
        shape = [widest.get(axis, have) for axis, have in zip(axes, value.shape, strict=True)]
        out = torch.full(shape, fill).to(value.dtype)
        out[tuple(slice(have) for have in value.shape)] = value
        return out

    def both(name: str, axes: list[str], fill: float) -> Tensor:
        return torch.cat([pad(getattr(v, name), axes, fill) for v in views])

    return TokenView(
        both("x", ["B", "N", "D"], padding),
        valid=both("valid", ["B", "N"], False),
        image=both("image", ["B", "N"], 0),
        grids=[grid for v in views for grid in v.grids],
        source=both("source", ["B", "N"], 0),
        size=both("size", ["B", "N"], 1),
        signals={
            name: torch.cat([pad(v.signals[name], dimensions(name), padding) for v in views])
            for name in views[0].signals
        },
        text_valid=both("text_valid", ["B", "T"], False),
        prefix=views[0].prefix,
        ids=torch.cat([v.ids for v in views]),
    )


def size(view: TokenView, axis: str) -> int:
    """Return the number of tokens (N), original tokens (N0) or text tokens (T) of a view."""
    if axis == "T":
        return view.text_valid.shape[1]
    return view.x.shape[1] if axis == "N" else max(math.prod(grid) for grid in view.grids)


def run(
    reducer: Reducer, view: TokenView, budget: Budget, available: tuple[str, ...] | None = None
) -> Assignment:
    """Assign with only the declared signals within reach, on a fresh state."""
    available = tuple(view.signals) if available is None else available
    declared, missing = resolve_needs(type(reducer), available)
    assert not missing, f"{reducer.name} needs {missing}"
    signals = Signals({name: view.signals[name] for name in available}, declared)
    view = replace(view, signals=signals, state={})
    if type(reducer).stateful:
        for _ in range(2):
            reducer.observe(view)
    return reducer.assign(view, budget)


def check(assignment: Assignment, view: TokenView, budget: Budget, reducer: Reducer | type[Reducer]) -> None:
    """Assert what holds for every assignment of a view under a budget."""
    counts = view.counts
    asked = torch.minimum(torch.as_tensor(budget).expand(len(counts)), counts)
    asked = torch.zeros_like(asked) if reducer.withdraws else asked
    assert (assignment.kept <= asked).all(), (
        f"{assignment.kept.tolist()} rows for a budget of {asked.tolist()}"
    )
    if not reducer.adaptive:
        assert torch.equal(assignment.kept, asked), f"{assignment.kept.tolist()} rows, not {asked.tolist()}"
    else:
        assert (assignment.kept >= asked.clamp_max(1)).all(), "nothing came out"
    assert assignment.tokens == view.x.shape[1]
    dense = assignment.dense(view.size)
    assert torch.isfinite(dense).all()
    for row, anchors in enumerate(assignment.anchors):
        kept = int(assignment.kept[row])
        assert assignment.valid[row, :kept].all(), "rows that are not valid come last"
        places = anchors[:kept].tolist()
        assert places == sorted(set(places)), "anchors are not ascending and unique"
        assert not places or 0 <= places[0] <= places[-1] < int(counts[row]), "an anchor outside the row"
        assert (anchors[kept:] == 0).all() and (dense[row, kept:] == 0).all()
        assert (dense[row, range(kept), places] != 0).all(), "a row does not contain its own anchor"
        assert (dense[row, :, int(counts[row]) :] == 0).all(), "padding went into a row"


class ReducerContract:
    """Tests for one reducer; a subclass is parametrised with `name`."""

    @pytest.fixture
    def cls(self, name: str) -> type[Reducer]:
        return reducers.get(name)

    @pytest.fixture
    def reducer(self, name: str) -> Reducer:
        return make_reducer(name)

    @pytest.mark.parametrize("cut", [False, True])
    @pytest.mark.parametrize("budget", [1, 2, 7, 18, 35])
    def test_meets_its_budget(self, reducer: Reducer, budget: int, cut: bool) -> None:
        view = make_view(36, cut=cut)
        check(run(reducer, view, budget), view, budget, reducer)

    @pytest.mark.parametrize("prefix", [0, 1])
    @pytest.mark.parametrize("budget", [36, 50])
    def test_keeping_everything_is_the_identity(self, reducer: Reducer, budget: int, prefix: int) -> None:
        if reducer.adaptive or reducer.withdraws:
            pytest.skip("it takes the budget as a cap, or ignores it")
        view = make_view(36, prefix=prefix)
        assignment = run(reducer, view, budget)
        assert assignment.anchors.tolist() == [list(range(36))]
        assert torch.equal(assignment.apply(view.x, view.size), view.x)
        assert torch.equal(assignment.sizes(view.size), view.size)

    def test_nothing_left_at_the_decoder(self, reducer: Reducer) -> None:
        if "decoder" not in reducer.sites:
            pytest.skip("only a decoder stage may keep nothing")
        assert run(reducer, make_view(12), 0).kept.tolist() == [0]

    def test_same_answer_twice(self, name: str) -> None:
        view = make_view(36)
        first, second = (run(make_reducer(name), view, 9) for _ in range(2))
        assert torch.equal(first.anchors, second.anchors)
        assert torch.equal(first.dense(view.size), second.dense(view.size))

    def test_inputs_stay_untouched(self, reducer: Reducer) -> None:
        view = make_view(36, cut=True)
        before = copy.deepcopy(view)
        run(reducer, view, 9)
        for item in ("x", "valid", "image", "source", "size", "text_valid", "ids"):
            assert torch.equal(getattr(view, item), getattr(before, item)), item
        for signal, value in view.signals.items():
            assert torch.equal(value, before.signals[signal]), signal

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_dtype_and_device_are_kept(self, reducer: Reducer, dtype: torch.dtype) -> None:
        view = make_view(36)
        view.x = view.x.to(dtype)
        view.signals = {key: value.to(dtype) for key, value in view.signals.items()}
        assignment = run(reducer, view, 9)
        check(assignment, view, 9, reducer)
        out = assignment.apply(view.x, view.size)
        assert out.dtype is dtype and out.device == view.x.device
        assert torch.isfinite(out).all()

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
    def test_broken_numbers_still_meet_the_budget(self, reducer: Reducer, value: float) -> None:
        """A token that is not finite, in its features and every signal, never breaks or hangs the decision."""
        view = make_view(36)
        broken = {name: _with(signal, axes(name), value) for name, signal in view.signals.items()}
        view = replace(view, x=_with(view.x, ("B", "N", "D"), value), signals=broken)
        for budget in (1, 9, 35):
            check(run(reducer, view, budget), view, budget, reducer)

    def test_float16_at_its_limits(self, reducer: Reducer) -> None:
        """Products of numbers near the largest of float16 overflow there; decisions are made in float32."""
        view = make_view(36)
        signals = {
            name: (signal if name.endswith(PROBABILITIES) else (signal * 3e4).clamp(-6.5e4, 6.5e4)).half()
            for name, signal in view.signals.items()
        }
        view = replace(view, x=(view.x * 3e4).clamp(-6.5e4, 6.5e4).half(), signals=signals)
        for budget in (1, 9, 35):
            assignment = run(reducer, view, budget)
            check(assignment, view, budget, reducer)

    @pytest.mark.parametrize("counts", [(36, 21), (13, 36)])
    def test_batch_of_two_equals_two_of_one(self, reducer: Reducer, counts: tuple[int, int]) -> None:
        views = [make_view(n, seed=i, text=4 + i, cut=True) for i, n in enumerate(counts)]
        asked = torch.tensor([9, 5])
        together = stack(views)
        both = run(reducer, together, asked)
        check(both, together, asked, reducer)
        out = both.apply(together.x, together.size)
        for row, view in enumerate(views):
            alone = run(reducer, view, int(asked[row]))
            kept = int(alone.kept)
            assert both.anchors[row, : int(both.kept[row])].tolist() == alone.anchors[0].tolist()
            # the order of a sum may differ with the padded width
            torch.testing.assert_close(
                out[row, :kept], alone.apply(view.x, view.size)[0], rtol=1e-5, atol=1e-5
            )

    def test_padding_is_never_read(self, reducer: Reducer) -> None:
        views = [make_view(n, seed=i, text=4 + i) for i, n in enumerate((36, 21))]
        low, high = (run(reducer, stack(views, padding), torch.tensor([9, 5])) for padding in (-50.0, 50.0))
        assert torch.equal(low.anchors, high.anchors)
        assert torch.equal(low.dense(), high.dense())

    def test_needs_are_known_and_enough(self, cls: type[Reducer], reducer: Reducer) -> None:
        assert set(cls.needs) <= set(SIGNALS)
        assert set(cls.instead) <= set(cls.needs) and set(cls.instead.values()) <= set(SIGNALS)
        view = make_view(20)
        for lost in ((), *((need,) for need in cls.instead), tuple(cls.instead)):
            available = tuple(signal for signal in SIGNALS if signal not in lost)
            check(run(reducer, view, 6, available), view, 6, cls)

    def test_both_ends_of_every_parameter(self, cls: type[Reducer]) -> None:
        view = make_view(36, cut=True)
        for item in fields(cls):
            for value in _ends(item.metadata, item.default):
                check_param(cls, item.name, value)
                for budget in (1, 9, 35):
                    assignment = run(make_reducer(cls.name, {item.name: value}), view, budget)
                    check(assignment, view, budget, cls)

    @pytest.mark.parametrize("prefix", [0, 1])
    @pytest.mark.parametrize(("n", "budget"), [(1, 1), (2, 1), (3, 2), (37, 1), (37, 19), (40, 3)])
    def test_odd_shapes(self, reducer: Reducer, n: int, budget: int, prefix: int) -> None:
        view = make_view(n, prefix=prefix, text=1)
        check(run(reducer, view, budget), view, budget, reducer)

    def test_ties(self, reducer: Reducer) -> None:
        view = make_view(36, equal=True)
        for budget in (1, 9, 35):
            first, second = (run(reducer, view, budget) for _ in range(2))
            check(first, view, budget, reducer)
            assert torch.equal(first.anchors, second.anchors)

    def test_source_and_description(self, cls: type[Reducer], name: str) -> None:
        assert cls.name == name and cls.title and cls.source.title
        assert cls.fidelity != "own" or cls.source.arxiv is None
        if cls.source.arxiv is not None:
            assert re.fullmatch(r"\d{4}\.\d{4,5}", cls.source.arxiv)
        text = cls.__doc__ or ""
        assert text.splitlines()[0].endswith("."), "the docstring starts with one sentence"
        for part in ("Source:", "Differs:", "Cost:"):
            assert part in text, f"{name}: the docstring has no {part!r}"

    def test_work_grows_with_the_tokens(self, reducer: Reducer) -> None:
        for k in (1, 32):
            work = [
                reducer.flops(Shape(n=n, k=k, d=64, heads=4, head_dim=16, text=8)) for n in range(k, 300, 7)
            ]
            assert all(math.isfinite(w) and w >= 0 for w in work)
            assert work == sorted(work)

    @pytest.mark.parametrize("budget", [5, 32, 63])
    def test_declared_work_covers_its_products(self, reducer: Reducer, budget: int) -> None:
        view = make_view(64)
        with FlopCounterMode(display=False) as counter:
            run(reducer, view, budget)
        shape = Shape(n=64, k=budget, d=16, heads=4, head_dim=8, text=5)
        assert counter.get_total_flops() <= reducer.flops(shape)

    def test_usable_at_its_sites(self, cls: type[Reducer], reducer: Reducer) -> None:
        assert cls.sites and set(cls.sites) <= {"input", "vision", "projector", "decoder"}
        for site in cls.sites:
            layer = 2 if site in ("vision", "decoder") else None
            stage = Stage(site=site, layer=layer, reducer=cls.name, keep=0.0 if cls.withdraws else 0.25)
            view = make_view(36, prefix=1 if site == "vision" else 0)
            asked = stage.tokens(36)
            check(run(reducer, view, asked), view, asked, cls)

    @pytest.mark.parametrize("anatomy", ANATOMIES, ids=lambda a: a.family)
    def test_presets_are_valid_policies(self, cls: type[Reducer], anatomy: Anatomy) -> None:
        names = [preset.name for preset in cls.presets]
        assert len(set(names)) == len(names)
        vision, decoder = anatomy.vision.blocks, anatomy.decoder.layers
        for preset in cls.presets:
            stages = []
            for stage in preset.stages(anatomy):
                used = cls if stage.reducer is None else reducers.get(stage.reducer)
                assert stage.site in used.sites
                depth = vision if stage.site == "vision" else decoder
                layer = None if stage.layer is None else map_depth(*stage.layer, depth)
                make_reducer(used.name, dict(stage.params))
                stages.append(
                    Stage(
                        site=stage.site,
                        layer=layer,
                        reducer=used.name,
                        keep=stage.keep,
                        params=dict(stage.params),
                    )
                )
            assert stages, f"preset {preset.name!r} has no stages"
            model = ModelRef(family=anatomy.family, decoder_layers=decoder, vision_blocks=vision)
            policy = Policy(model=model, positions=preset.positions, stages=tuple(stages))
            assert load_policy(policy.model_dump(mode="json", by_alias=True, exclude_none=True)) == policy


def _with(values: Tensor, names: tuple[str, ...], number: float) -> Tensor:
    """Return the values with two tokens replaced, along the last axis that runs over tokens."""
    if "N" not in names:
        return values
    axis = len(names) - 1 - names[::-1].index("N")
    return values.index_fill(axis, torch.tensor([3, 17]), number)


def _ends(metadata: Any, default: Any) -> list[Any]:
    """Return the extreme values of a parameter."""
    if metadata.get("choices") is not None:
        return list(metadata["choices"])
    if isinstance(default, bool):
        return [False, True]
    return [value for value in (metadata.get("low"), metadata.get("high")) if value is not None]
