"""What a reducer may look at, what it declares, and how a published recipe is written down."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.errors import SpecError
from autotc.registry import Registry, nearest

SIGNALS: dict[str, str] = {
    # decoder; T text tokens stand after the image, `view.text_valid` marks the real ones
    "last_attention": "(B,H,N) layer k-1, row of the last prompt token; softmax over all keys, after RoPE",
    "next_attention": "(B,H,N) the same row recomputed with layer k's own norm, q and k on the state entering k",
    "text_attention": "(B,H,T,N) layer k-1, rows of the text tokens; softmax over all keys, after RoPE",
    "input_embeds": "(B,N0,D) all visual embeddings of the image as they entered the language model",
    "text_embeds": "(B,T,D) text embeddings as they entered the language model",
    "text_hidden": "(B,T,D) text rows of the hidden state entering layer k",
    "keys": "(B,G,N,hd) keys of layer k-1 after RoPE, G key-value heads",
    "text_keys": "(B,G,T,hd) the same for the text tokens",
    "text_keywords": "(B,T) 1 where a token holds a part of the question's keywords, else 0; needs a processor",
    "normed": "(B,N,D) the state entering layer k under the model's final norm",
    "text_normed": "(B,T,D) the same for the text tokens",
    "text_self_attention": "(B,H,T,T) layer k-1, text tokens to text tokens; softmax over all keys, after RoPE",
    "next_text_attention": "(B,H,T,N) text rows recomputed with layer k's own norm, q and k",
    "next_keys": "(B,G,N,hd) layer k's own keys, after RoPE, of the state entering k",
    "prefix_attention": "(B,H,N) layer k's norm, q and k without RoPE: mean query of all tokens up to the image's "
    "last one; softmax over those tokens",
    "content_attention": "(B,H,N) layer k-1, row of the last prompt token without RoPE; softmax over the image's "
    "tokens only",
    "peak_attention": "(B,N) layer k-1, from the image's own tokens: largest over heads, mean over queries",
    "flow_attention": "(B,H,N) layer k-1: where five steps along the attention of logits/0.1 lead from a uniform "
    "start over the prompt",
    "hidden_before": "(B,N,D) the state entering layer k-1",
    "transition": "(B,N) layer k-1: turn of the state in the attention plus that in the MLP, see kernels.transition",
    # projector, and decoder for the tokens left there: from the last tower block that runs into the features; on
    # Qwen the mean of each 2x2 group, in language-model order
    "cls_attention": "(B,H,N) row of the CLS query; softmax over all keys, the CLS key's own mass left out",
    "received_attention": "(B,H,N) attention a token receives, mean over queries",
    "vision_keys": "(B,N,hd) keys, mean over heads",
    "features": "(B,N,Dv) encoder features before the projector (mean of a group on Qwen)",
    "final_cls_logits": "(B,H,N) row of the CLS query before the softmax, in the tower's very last block (LLaVA leaves "
    "it out of the features)",
    "final_cls_attention": "(B,N) the same row with all heads as one; softmax over all keys, the CLS key's own mass "
    "left out",
    "final_keys": "(B,N,Dv) keys of that block, heads side by side",
    "vision_attention": "(B,N,N) the whole map, mean over heads; softmax over all keys",
    "first_cls_attention": "(B,H,N) as cls_attention, first block",
    "first_received_attention": "(B,H,N) as received_attention, first block",
    "early_cls_attention": "(B,H,N) as cls_attention, the block at a quarter of the depth (index 5 of 24)",
    "early_received_attention": "(B,H,N) as received_attention, the same block",
    "middle_received_attention": "(B,H,N) as received_attention, at 3/8 of the depth with a CLS row (index 8 of 24), "
    "at half of it without (15 of 32)",
    "clip_text": "(B,E) embedding of the prompt's text by the tower's own text encoder, unit length",
    "clip_patches": "(B,N,E) patches in the space of clip_text: the tower's last norm and visual projection",
    # vision: from the block in which the cut is made (after_attention), or the one before the cut (block)
    "block_keys": "(B,N,hd) keys of that block, mean over heads",
    "block_cls_attention": "(B,H,N) row of the CLS query in that block",
    "block_received_attention": "(B,H,N) attention a token receives in that block, mean over queries",
    "block_values": "(B,H,N,hd) values of that block",
    "block_value_attention": "(B,H,N) softmax over all keys of CLS value times values, the CLS key's own mass left out",
    "block_logits": "(B,N,N) the whole map before the softmax, mean over heads",
    "block_cls_logits": "(B,N) its row of the CLS query",
}


def axes(signal: str) -> tuple[str, ...]:
    """Return the axes of a signal as its description names them, e.g. ("B", "H", "N")."""
    return tuple(SIGNALS[signal][1:].split(")")[0].split(","))


LARGE = 6e4  # what an infinity counts as; float16 holds it, and float32 its squares


def finite(values: Tensor) -> Tensor:
    """Return the values with NaN as 0 and infinities as +-6e4, so that a decision is defined on a broken state too."""
    return torch.nan_to_num(values, nan=0.0, posinf=LARGE, neginf=-LARGE)


class Signals(Mapping[str, Tensor]):
    """The signals a reducer declared in `needs`, finite; touching another one raises."""

    def __init__(self, values: Mapping[str, Tensor], declared: tuple[str, ...] | None = None) -> None:
        self._values = dict(values)
        self._declared = declared

    def __getitem__(self, name: str) -> Tensor:
        if self._declared is not None and name not in self._declared:
            raise KeyError(f"signal {name!r} is not declared in needs {self._declared}")
        if name not in self._values:
            raise KeyError(f"signal {name!r} is not available here; available: {sorted(self._values)}")
        return finite(self._values[name])

    def __contains__(self, name: object) -> bool:
        return name in self._values and (self._declared is None or name in self._declared)

    def __iter__(self) -> Iterator[str]:
        return (n for n in self._values if self._declared is None or n in self._declared)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass
class TokenView:
    """What a reducer sees: one row an image (an image of a sample; several images are several rows).

    On models of any resolution a row is a view of an image: the base view, or the map of its crops, whose last
    column are newline embeddings (signals of the tower are zero there). `group` links the rows of one image.

    Args:
        x: (B, N, D) visual tokens; what is not finite is replaced, see `finite`.
        valid: (B, N) bool, real tokens; padding is on the right.
        image: (B, N) int64, which image of its sample a token belongs to.
        grids: (t, h, w) of each row's original token grid.
        source: (B, N) int64, the original index of each token in its image.
        size: (B, N) float, how many originals a token stands for.
        signals: only those declared in `needs`.
        state: the reducer's own dictionary, reset at each prefill.
        text_valid: (B, T) bool, real text tokens behind the image, where a text signal is declared.
        prefix: rows of the block before the patches (1 where a tower has a CLS row); they are not part of x.
        ids: (B,) int64, a number of the example, for reducers that draw at random.
        group: (B,) int64, rows with the same number belong to one image; by default every row its own.
    """

    x: Tensor
    valid: Tensor = None  # type: ignore[assignment]
    image: Tensor = None  # type: ignore[assignment]
    grids: list[tuple[int, int, int]] = None  # type: ignore[assignment]
    source: Tensor = None  # type: ignore[assignment]
    size: Tensor = None  # type: ignore[assignment]
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    text_valid: Tensor | None = None
    prefix: int = 0
    ids: Tensor = None  # type: ignore[assignment]
    group: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        b, n = self.x.shape[:2]
        device = self.x.device
        self.x = finite(self.x)
        if self.valid is None:
            self.valid = torch.ones(b, n, dtype=torch.bool, device=device)
        if self.image is None:
            self.image = torch.zeros(b, n, dtype=torch.long, device=device)
        if self.source is None:
            self.source = torch.arange(n, device=device).expand(b, n)
        if self.size is None:
            self.size = torch.ones(b, n, device=device)
        if self.grids is None:
            side = int(n**0.5)
            self.grids = [(1, side, side) if side * side == n else (1, 1, n)] * b
        if self.ids is None:
            self.ids = torch.zeros(b, dtype=torch.long, device=device)
        if self.group is None:
            self.group = torch.arange(b, device=device)

    @property
    def counts(self) -> Tensor:
        """(B,) int64, the number of real tokens of each row."""
        return self.valid.sum(1)


def text_space(view: TokenView) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return image and text in one space: CLIP's where a text encoder is at hand, else the language model's.

    Returns:
        (B, N, E) tokens, (B, T, E) text rows, (B, T) bool, which of those are real, and the sign with which tokens
        answer the text: CLIP's patches are least like the text that they show.
    """
    if "clip_text" in view.signals and "clip_patches" in view.signals:
        text = view.signals["clip_text"][:, None]
        return view.signals["clip_patches"], text, text.new_ones(text.shape[:2], dtype=torch.bool), -1
    text = view.signals["text_embeds"]
    real = view.text_valid
    return view.x, text, text.new_ones(text.shape[:2], dtype=torch.bool) if real is None else real, 1


Budget = int | Tensor


def budgets(view: TokenView, budget: Budget) -> Tensor:
    """Return the budget of each row, (B,) int64, at most the row's number of real tokens."""
    wanted = torch.as_tensor(budget, dtype=torch.long, device=view.x.device).expand(len(view.x))
    return torch.minimum(wanted, view.counts)


def param(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    log: bool = False,
    search: bool = True,
    help: str = "",
) -> Any:
    """Declare a parameter of a reducer with its range.

    Args:
        default: the published default.
        low, high: inclusive bounds of a number.
        choices: the allowed values of a categorical parameter.
        log: search on a logarithmic scale.
        search: whether a search may vary it.
        help: one sentence for `autotc show`.
    """
    return field(
        default=default,
        metadata={"low": low, "high": high, "choices": choices, "log": log, "search": search, "help": help},
    )


@dataclass(frozen=True)
class Source:
    """Where a method was published."""

    title: str
    arxiv: str | None = None


@dataclass(frozen=True)
class Shape:
    """The sizes a reducer's own work depends on: n tokens in, k out, d width, heads, head_dim, text tokens, and
    key-value heads where they are fewer than heads (0: as many)."""

    n: int
    k: int
    d: int
    heads: int
    head_dim: int
    text: int
    kv_heads: int = 0

    @property
    def key_width(self) -> int:
        """The width of all keys of a token side by side."""
        return (self.kv_heads or self.heads) * self.head_dim


@dataclass(frozen=True)
class PresetStage:
    """One stage of a published recipe: the site, the depth as (published layer, published depth), the fraction of
    the original tokens that the paper keeps, parameters, and the reducer where it is not the preset's own."""

    site: Literal["input", "vision", "projector", "decoder"]
    keep: float
    layer: tuple[int, int] | None = None
    params: tuple[tuple[str, Any], ...] = ()
    reducer: str | None = None


@dataclass(frozen=True)
class Preset:
    """A published recipe: one rule at one or several places. `autotc.cost.preset_policy` scales its counts by one
    factor to meet a budget; at the published budget it gives the published counts back.

    Args:
        name: e.g. "fastv" or "pyramiddrop".
        stages: given the anatomy, the published stages.
        positions: the paper's position convention; falls back to "original" where a family has no "compact".
        note: what the recipe is, in one sentence.
    """

    name: str
    stages: Callable[[Anatomy], tuple[PresetStage, ...]]
    positions: Literal["original", "compact"] = "original"
    note: str = ""


@dataclass(frozen=True)
class Reducer:
    """Base of all reducers. Fields are parameters (see `param`), class data are capabilities.

    A subclass lives in `autotc/reducers/<name>.py`, implements `assign`, and is registered by existing.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[Source]
    sites: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[str, ...]] = ()
    instead: ClassVar[Mapping[str, str]] = {}  # needed signal -> what to take where a family lacks it
    query_aware: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    stateful: ClassVar[bool] = False  # also observes the layers between its stages
    observes: ClassVar[int] = 0  # and so many layers before its first one
    joint: ClassVar[bool] = False  # may move budget between the rows of a group; the group's sum holds
    withdraws: ClassVar[bool] = False  # keeps nothing: its stages have keep 0
    size_bias: ClassVar[bool] = False
    crossed: ClassVar[bool] = False  # a search varies all parameters at once, not one at a time
    where: ClassVar[Literal["block", "after_attention"]] = "block"
    relevance: ClassVar[Literal["clip", "embedding", "none"]] = "none"
    # to the paper; own: there is none
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction", "own"]] = "faithful"
    presets: ClassVar[tuple[Preset, ...]] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            check_param(type(self), item.name, getattr(self, item.name))

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        """Decide which tokens come out: at most `budget` rows an image, extras included.

        Args:
            view: the tokens and the declared signals.
            budget: an int for all rows or (B,) int64, one a row.
        """
        raise NotImplementedError

    def observe(self, view: TokenView) -> None:
        """See a layer without cutting (stateful reducers keep what they need in `view.state`)."""

    def flops(self, shape: Shape) -> float:
        """Return the reducer's own work on one image, two operations a multiply-add, sorting left out."""
        return 0.0


def check_param(cls: type[Reducer], name: str, value: Any) -> None:
    """Check one parameter against its declared type and range.

    Raises:
        SpecError: unknown name, wrong type or out of range; the message says what is allowed.
    """
    known = {item.name: item for item in fields(cls)}
    if name not in known:
        raise SpecError(
            f"{cls.name}: unknown parameter {name!r}. {nearest(name, known) if known else 'It has none.'}"
        )
    meta, default = known[name].metadata, known[name].default
    choices = meta.get("choices")
    if choices is not None:
        if value not in choices:
            raise SpecError(f"{cls.name}: {name}: {value!r} is not one of {', '.join(map(repr, choices))}")
        return
    kind = type(default)
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise SpecError(f"{cls.name}: {name}: {value!r} is not of type {kind.__name__}")
    low, high = meta.get("low"), meta.get("high")
    if kind in (int, float) and not (
        value == value and (low is None or value >= low) and (high is None or value <= high)
    ):
        raise SpecError(f"{cls.name}: {name}: {value!r} is outside {low}..{high}")


def resolve_needs(cls: type[Reducer], available: Container[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (signals to compute, needs that stay unmet) where only `available` signals exist."""
    found: list[str] = []
    missing: list[str] = []
    for need in cls.needs:
        other = cls.instead.get(need)
        if need in available or other is None or other not in available:
            (found if need in available else missing).append(need)
        else:
            found.append(other)
    return tuple(dict.fromkeys(found)), tuple(missing)


def fidelity_on(cls: type[Reducer], available: Container[str]) -> str:
    """Return how true a reducer is where only `available` signals exist: adapted where it needs a substitute."""
    replaced = any(need not in available and need in cls.instead for need in cls.needs)
    return "adapted" if replaced and cls.fidelity == "faithful" else cls.fidelity


reducers: Registry[Reducer] = Registry("autotc.reducers", Reducer, "reducer")


def make_reducer(name: str, params: Mapping[str, Any] | None = None) -> Reducer:
    """Build a reducer by name.

    Raises:
        SpecError: unknown reducer or parameter, or a value out of range.
    """
    cls = reducers.get(name)
    for key in params or {}:
        check_param(cls, key, (params or {})[key])
    return cls(**dict(params or {}))
