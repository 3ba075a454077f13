"""The table of a device: how long a model's parts take on it against tokens and batch, found once and kept as JSON."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from autotc._charge import plan_of
from autotc._flops import activation_bytes, kv_bytes
from autotc.adapter import adapter_for, anatomy
from autotc.anatomy import Anatomy
from autotc.device.building import prompt, random_model, tower_inputs
from autotc.device.clock import copy_bytes_per_s, matmul_flops_per_s, timed
from autotc.device.timing import SCHEMA
from autotc.errors import SpecError, UnsupportedError
from autotc.measure import Card, idle_watts, mean_watts
from autotc.workload import Request

TOKENS = (64, 256, 1024, 4096)
BATCHES = (1, 8, 64)
IMAGES = (224, 448, 672, 1344)  # pixels a side
CHOOSE_S = 2.0  # of the runs of one reducer
ROWS = 65_536  # most rows of a point: what a GPU holds of one layer
SMALL = {"tokens": (8, 16), "batches": (1, 2), "images": (32, 64)}


def measure(
    model: Any,
    on: str,
    device: torch.device,
    *,
    tokens: Sequence[int] = TOKENS,
    batches: Sequence[int] = BATCHES,
    images: Sequence[int] = IMAGES,
    repeats: int = 20,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time layers, tower, output head and decoding steps of a model, and its memory.

    Points whose rows would not fit are extended in proportion from the largest batch that was timed, so that the grid
    has no holes; `extended` counts them.

    Returns:
        The entry of this model in a device table, see `timing.Table`.
    """
    numbers, adapter = anatomy(model), adapter_for(model)
    width, dtype = numbers.decoder.width, model.dtype
    extended = 0
    out: dict[str, Any] = {"on": on, "repeats": repeats}
    with torch.inference_mode():
        say("decoder layer")
        layer, rope = adapter.layers[len(adapter.layers) // 2], adapter.text.rotary_emb
        points: list[list[float]] = []
        for n in tokens:
            last: float | None = None
            for b in batches:
                if n * b > ROWS and last is not None:
                    points.append([n, b, last * b / points[-1][1]])
                    last, extended = points[-1][2], extended + 1
                    continue
                hidden = torch.randn(b, n, width, device=device, dtype=dtype)
                place = torch.arange(n, device=device).expand(b, n)
                three = bool(
                    (getattr(adapter.text.config, "rope_parameters", None) or {}).get("mrope_section")
                )
                place = place.expand(3, b, n) if three else place
                cos_sin = rope(hidden, place)
                run = lambda: layer(hidden, position_embeddings=cos_sin, attention_mask=None)  # noqa: B023, E731
                last = timed(run, device, repeats).median
                points.append([n, b, last])
        out["layer_ms"] = points
        say("output head")
        head = model.lm_head
        out["head_ms"] = []
        for b in batches:
            row = torch.randn(b, 1, width, device=device, dtype=dtype)
            out["head_ms"].append([1, b, timed(lambda: head(row), device, repeats).median])  # noqa: B023
        say("tower")
        out["tower_ms"], more = _tower(model, numbers, device, images, batches, repeats)
        extended += more
        say("decoding steps")
        out["decode_ms"], more = _decode(model, numbers, device, tokens, batches, repeats)
        extended += more
        say("a whole prefill, against which choosing is set")
        out["prefill"] = _prefill(model, numbers, device, repeats)
        say("memory")
        out["memory"] = _memory(model, numbers, device, images[len(images) // 2])
    out["extended"] = extended
    return out


def _tower(
    model: Any,
    numbers: Anatomy,
    device: torch.device,
    sides: Sequence[int],
    batches: Sequence[int],
    repeats: int,
) -> tuple[list[list[float]], int]:
    """Time the image features (tower and projector) of some images of a size at once."""
    points: list[list[float]] = []
    extended = 0
    done: set[int] = set()
    for side in sides:
        views = numbers.image.views(side, side)
        count = views.tile[0] * views.tile[1] * views.tiles
        if count in done:  # a fixed resolution has one point
            continue
        done.add(count)
        last: float | None = None
        for b in batches:
            if count * numbers.image.merge**2 * b > 2 * ROWS and last is not None:
                points.append([count, b, last * b / points[-1][1]])
                last, extended = points[-1][2], extended + 1
                continue
            call = prompt(model, numbers, [Request(width=side, height=side, prompt_tokens=8)] * b, device)
            features = partial(model.model.get_image_features, **tower_inputs(call))
            last = timed(features, device, repeats).median
            points.append([count, b, last])
    return points, extended


def _decode(
    model: Any,
    numbers: Anatomy,
    device: torch.device,
    tokens: Sequence[int],
    batches: Sequence[int],
    repeats: int,
) -> tuple[list[list[float]], int]:
    """Time one step of the whole model with a cache of a length."""
    from transformers import DynamicCache

    points: list[list[float]] = []
    d, extended = numbers.decoder, 0
    for n in tokens:
        last: float | None = None
        for b in batches:
            if n * b > ROWS and last is not None:
                points.append([n, b, last * b / points[-1][1]])
                last, extended = points[-1][2], extended + 1
                continue
            cache = DynamicCache()
            for index in range(d.layers):
                shape = (b, d.kv_heads, n, d.head_dim)
                keys, states = (torch.randn(shape, device=device, dtype=model.dtype) for _ in range(2))
                cache.update(keys, states, index)
            embeds = torch.randn(b, 1, d.width, device=device, dtype=model.dtype)
            last = timed(partial(_step, model, embeds, cache), device, repeats).median
            points.append([n, b, last])
    return points, extended


def _step(model: Any, embeds: torch.Tensor, cache: Any) -> None:
    state = model.model.language_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
    model.lm_head(state.last_hidden_state)
    cache.crop(-1)


def _prefill(model: Any, numbers: Anatomy, device: torch.device, repeats: int) -> dict[str, float]:
    """Time the uncompressed prefill of eight requests with one image each."""
    request, batch = (Request(), 8) if device.type == "cuda" else (Request(width=56, height=56), 1)
    call = prompt(model, numbers, [request] * batch, device)
    work = partial(model.generate, **call, max_new_tokens=1, do_sample=False, pad_token_id=0)
    tokens = numbers.visual_tokens(request.width, request.height)
    return {"tokens": tokens, "batch": batch, "ms": timed(work, device, repeats).median}


def _memory(model: Any, numbers: Anatomy, device: torch.device, side: int) -> dict[str, float]:
    """Find what is resident, and how a real prefill's peak compares with the estimate of its activations."""
    weights = float(sum(p.numel() * p.element_size() for p in model.parameters()))
    if device.type != "cuda":
        return {"resident_bytes": weights, "context_bytes": 0.0, "activation_factor": 1.0}
    request, factors = Request(width=side, height=side, new_tokens=1), []
    for batch in (1, 8):
        call = prompt(model, numbers, [request] * batch, device)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        model.generate(**call, max_new_tokens=1, do_sample=False, pad_token_id=0)
        plan = plan_of((), numbers, request, None)
        grown = torch.cuda.max_memory_reserved(device) - before
        cache = batch * sum(kv_bytes(numbers, request, plan.decoder))
        factors.append((grown - cache) / (batch * activation_bytes(numbers, request, plan)))
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    context = max(0.0, float(total - free - torch.cuda.memory_reserved(device)))
    return {
        "resident_bytes": weights + context,
        "context_bytes": context,
        "activation_factor": sum(factors) / len(factors),
    }


def power(model: Any, device: torch.device, card: Card) -> dict[str, float]:
    """Return the board's mean power idle, in prefills and in decoding steps, W; empty where the card keeps no counter.

    Args:
        card: the board, asked through NVML.
    """
    numbers = anatomy(model)
    call = prompt(model, numbers, [Request(new_tokens=1)] * 8, device)

    def generate(tokens: int) -> None:
        model.generate(**call, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)

    def finish() -> None:
        torch.cuda.synchronize(device)

    generate(1)
    finish()
    idle = idle_watts(card)
    with torch.inference_mode():
        prefill = mean_watts(card, lambda: generate(1), finish)
        decode = mean_watts(card, lambda: generate(128), finish)  # the prefill is a small part of it
    if idle is None or prefill is None or decode is None:
        return {}
    return {"idle": idle, "prefill": prefill, "decode": decode}


def choosing(
    device: torch.device,
    tokens: int = 576,
    batch: int = 8,
    repeats: int = 20,
    say: Callable[[str], None] = lambda t: None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Time every reducer's own decision at a 7B model's widths (`autotc.reducer_bench`), and say which ones failed."""
    from autotc import reducer_bench
    from autotc.reducer import Signals, make_reducer, reducers

    one = reducer_bench.random_view(tokens)

    def wide(x: torch.Tensor | None) -> Any:
        return None if x is None else x.expand(batch, *x.shape[1:]).to(device).contiguous()

    view = replace(
        one,
        x=wide(one.x).to(torch.bfloat16 if device.type == "cuda" else torch.float32),
        signals=Signals({name: wide(value) for name, value in one.signals.items()}),
        **{
            name: wide(getattr(one, name))
            for name in ("valid", "image", "source", "size", "ids", "text_valid")
        },
        grids=one.grids * batch,
        group=torch.arange(batch, device=device),
    )
    found: dict[str, float] = {}
    failed: dict[str, str] = {}
    for cls in reducers.all():
        if cls.sites == ("input",):
            continue
        say(cls.name)
        work = partial(
            reducer_bench._assign, make_reducer(cls.name), view, 0 if cls.withdraws else tokens // 9
        )
        try:
            found[cls.name] = timed(work, device, repeats, 2, CHOOSE_S).median
        except RuntimeError as error:  # one that fails on this device is told, the others go on
            failed[cls.name] = str(error).strip().splitlines()[0]
    return found, failed


def started(
    known: dict[str, Any], gpu: str, memory_bytes: float, device: torch.device, driver: str | None
) -> dict[str, Any]:
    """Return a device's table before any model is measured now; the models in `known` stay until they are."""
    real = device.type == "cuda"
    return {
        "schema": SCHEMA,
        "gpu": gpu,
        "memory_bytes": memory_bytes,
        "torch": torch.__version__,
        "driver": driver,
        "copy_bytes_per_s": copy_bytes_per_s(device, 1 << (30 if real else 20)),
        "matmul_flops_per_s": matmul_flops_per_s(device, 8192 if real else 256),
        "models": dict(known.get("models", {})),
    }


def device_of(
    name: str, instead: str = "--device cpu tries the commands out"
) -> tuple[torch.device, str, float]:
    """Return a device by name, what it is called, and its memory in bytes.

    Raises:
        SpecError: not the name of a device.
        UnsupportedError: a GPU that is not there; nothing else stands in for it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SpecError(f"--device {name}: not a device; use cuda, cuda:1, ... or cpu") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UnsupportedError(
                f"--device {name}: torch {torch.__version__} sees no NVIDIA GPU (no driver, one too old for "
                f"this torch, or no device for this process). Nothing was measured; {instead}"
            )
        properties = torch.cuda.get_device_properties(device)
        return device, properties.name, float(properties.total_memory)
    if device.type != "cpu":
        raise UnsupportedError(f"--device {name}: only cuda and cpu are known")
    return device, "cpu (not a GPU)", float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def build(name: str, device: torch.device) -> tuple[Any, str]:
    """Return a model to measure; on a CPU the small proxy of its family, which is enough to try the commands."""
    if device.type == "cpu":
        from autotc.proxies import proxy_folder

        folder = proxy_folder(name) if (name := _family(name)) else None
        if folder is None:
            raise UnsupportedError(
                f"--device cpu: no small model ships for {name}; use qwen2.5-vl or llava-1.5-7b"
            )
        return random_model(str(folder), device, torch.float32)
    return random_model(name, device)


def _family(name: str) -> str:
    from autotc.adapter import resolve_model

    return resolve_model(name).family
