"""What a model is asked to do, and on what machine: request shapes and hardware numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from autotc.errors import SpecError
from autotc.registry import nearest


@dataclass(frozen=True)
class Request:
    """One shape of request.

    Args:
        images: images in the prompt.
        width, height: pixels of each image.
        frames: frames of a video (1: still images).
        prompt_tokens: text tokens of the prompt, chat template included.
        new_tokens: tokens generated.
        questions: questions asked of the same image(s) on one prefill.
        weight: share of this shape in the mix; shares are normalised.
    """

    images: int = 1
    width: int = 672
    height: int = 672
    frames: int = 1
    prompt_tokens: int = 64
    new_tokens: int = 16
    questions: int = 1
    weight: float = 1.0


@dataclass(frozen=True)
class Workload:
    """A weighted list of request shapes and the batch they are served in."""

    requests: tuple[Request, ...] = (Request(),)
    batch: int = 1
    name: str = "vqa"

    @property
    def weights(self) -> tuple[float, ...]:
        """Shares of the requests, summing to 1."""
        total = sum(r.weight for r in self.requests)
        return tuple(r.weight / total for r in self.requests)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data; `from_dict` reads it back."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Workload:
        """Read what `as_dict` wrote."""
        requests = tuple(Request(**r) for r in data["requests"])
        return Workload(requests=requests, batch=data["batch"], name=data["name"])

    def describe(self) -> str:
        """Return one line such as 'vqa: 1 image 672x672, 64 prompt + 16 new tokens, batch 1'."""
        shapes = []
        for r, w in zip(self.requests, self.weights, strict=True):
            share = "" if len(self.requests) == 1 else f"{w:.0%} "
            noun = "image" if r.images == 1 else "images"
            shapes.append(
                f"{share}{r.images} {noun} {r.width}x{r.height}, {r.prompt_tokens} prompt + {r.new_tokens} new tokens"
            )
        return f"{self.name}: {'; '.join(shapes)}, batch {self.batch}"


PROFILES: dict[str, Workload] = {
    "vqa": Workload(),
    "chat": Workload((Request(prompt_tokens=128, new_tokens=256, questions=3),), name="chat"),
    "document": Workload(
        (Request(width=1240, height=1754, prompt_tokens=64, new_tokens=128),), name="document"
    ),
    "multi-image": Workload((Request(images=4, prompt_tokens=96, new_tokens=64),), name="multi-image"),
}

_FIELDS = {
    "images": "images",
    "frames": "frames",
    "prompt": "prompt_tokens",
    "new": "new_tokens",
    "questions": "questions",
}


def parse_workload(text: str) -> Workload:
    """Read a profile name or 'images=1,resolution=672x672,prompt=64,new=32,batch=8'.

    Raises:
        SpecError: unknown profile or key, or a value that is not a positive whole number.
    """
    if "=" not in text:
        if text not in PROFILES:
            raise SpecError(f"--workload: unknown profile {text!r}. {nearest(text, PROFILES)}")
        return PROFILES[text]
    request, batch = Request(), 1
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        if key == "resolution":
            width, _, height = value.partition("x")
            request = replace(request, width=_whole(key, width), height=_whole(key, height))
        elif key == "batch":
            batch = _whole(key, value)
        elif key in _FIELDS:
            request = replace(request, **{_FIELDS[key]: _whole(key, value)})
        else:
            known = [*_FIELDS, "resolution", "batch"]
            raise SpecError(f"--workload: unknown key {key!r}. {nearest(key, known)}")
    if request.frames != 1:
        raise SpecError("--workload: frames: videos are not supported yet; leave frames out")
    return Workload((request,), batch, "custom")


def _whole(key: str, value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise SpecError(f"--workload: {key}: {value!r} is not a whole number >= 1")
    return int(value)


@dataclass(frozen=True)
class Hardware:
    """A device: peak operations a second, memory bandwidth in bytes a second, memory in bytes."""

    name: str
    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float


H100 = Hardware("NVIDIA H100 SXM (data sheet)", 989e12, 3.35e12, 80e9)
