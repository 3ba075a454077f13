"""From images and questions to a model's inputs, without torchvision, and loading a model folder.

Hugging Face processors of some families cannot be built without torchvision (they carry a video processor).
The `Processor` here needs the image processor and the tokenizer only; where the full one can be built, the
tensors are equal (tested). It is called like one: `processor(images=..., text=..., return_tensors="pt")`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from autotc.adapter import anatomy
from autotc.errors import DataError, ModelError
from autotc.text_encoder import TextEncoder, load_text_encoder

Pictures = Sequence[Image.Image]


class Processor:
    """Image processor and tokenizer of one model: prompts with the right number of placeholders.

    Args:
        image_processor, tokenizer: as loaded by transformers. The tokenizer pads on the left from here on.
        config: the model's config; it names the placeholder token and what one image becomes.
        template: a chat template, if the tokenizer has none of its own.
        text_encoder: the text half of the tower's CLIP model, where it is at hand.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        config: Any,
        template: str | None = None,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.chat_template = getattr(tokenizer, "chat_template", None) or template
        self.image_token_id: int = _image_token_id(config)
        self.image_token: str = tokenizer.convert_ids_to_tokens(self.image_token_id)
        self.video_token_id: int | None = getattr(config, "video_token_id", None)
        vision = config.vision_config
        self._merge = getattr(vision, "spatial_merge_size", None)
        patch = vision.patch_size
        self._patch: int = patch if isinstance(patch, int) else patch[0]
        self._around, self._defaults = ("", ""), {}
        ratio = getattr(config, "downsample_ratio", None)
        if (
            ratio is not None
        ):  # InternVL: squares of patches are a token, images become tiles between two marks
            self._patch = round(self._patch / ratio)
            self._around, self._defaults = _marks(tokenizer), {"crop_to_patches": True}
        anyres = bool(getattr(config, "image_grid_pinpoints", None))
        self._rule = anatomy(config).image if anyres else None
        # CLIP's class row is in the features only with the "full" strategy
        self._extra = int(getattr(config, "vision_feature_select_strategy", "default") == "full")
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    def __call__(
        self,
        images: Image.Image | Pictures | Sequence[Pictures] | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        padding: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Return the model's inputs for prompts that hold one image placeholder an image.

        Args:
            images: the images of all prompts in order, one list a prompt or flat.
            text: prompts, as `apply_chat_template` writes them.
            return_tensors: only "pt".
            padding: to the longest prompt, on the left.
            kwargs: passed to the image processor; `min_pixels` and `max_pixels` bound the area on Qwen.

        Returns:
            A `BatchFeature` with `input_ids`, `attention_mask` (B, N) and, with images, what the image
            processor gives (`pixel_values`, on Qwen `image_grid_thw`, where images are cut into tiles `image_sizes`)
            and `mm_token_type_ids` (B, N) on Qwen.

        Raises:
            DataError: another number of placeholders than of images.
        """
        from transformers import BatchFeature

        if return_tensors != "pt":
            raise ValueError(f"return_tensors: {return_tensors!r}: only 'pt' is supported")
        prompts = [text] if isinstance(text, str) else list(text or [])
        flat = _flat(images)
        data: dict[str, Any] = {}
        if flat:
            pixels = (kwargs.pop("min_pixels", None), kwargs.pop("max_pixels", None))
            if any(pixels):  # the names Qwen's image processor had for the bounds of `size`
                size = dict(kwargs.get("size") or self.image_processor.size)
                low, high = (
                    p or size[k] for p, k in zip(pixels, ("shortest_edge", "longest_edge"), strict=True)
                )
                kwargs["size"] = {"shortest_edge": low, "longest_edge": high}
            kwargs = {**self._defaults, **kwargs}
            # LLaVA-OneVision cuts only an image that is alone in its prompt into tiles
            alone = self._rule is not None and self._rule.alone
            shown = _by_prompt(images) if alone else flat
            data.update(self.image_processor(images=shown, return_tensors="pt", **kwargs))
        prompts = self._expand(prompts, self.image_tokens(data))
        data.pop("num_patches", None)
        data = {**self.tokenizer(prompts, padding=padding, return_tensors="pt"), **data}
        data.pop("token_type_ids", None)
        if self._merge is not None:
            data["mm_token_type_ids"] = self._modalities(data["input_ids"])
        return BatchFeature(data)

    def image_tokens(self, data: Any) -> list[int]:
        """Return the visual tokens of each image in the image processor's output."""
        if self._rule is not None and "image_sizes" in data:
            counts = data.get("batch_num_images", [1] * len(data["image_sizes"]))
            together = [int(n) for n in counts for _ in range(int(n))]
            sizes = [(int(h), int(w)) for h, w in data["image_sizes"]]
            return [self._rule.views(w, h, n).tokens for (h, w), n in zip(sizes, together, strict=True)]
        if "image_grid_thw" in data:
            return [int(n) for n in data["image_grid_thw"].prod(-1) // (self._merge or 1) ** 2]
        if "pixel_values" in data:
            count, _, height, width = data["pixel_values"].shape
            tokens = (height // self._patch) * (width // self._patch) + self._extra
            return [tokens * int(tiles) for tiles in data.get("num_patches", [1] * count)]
        return []

    def apply_chat_template(
        self, conversation: Any, tokenize: bool = False, add_generation_prompt: bool = False, **kwargs: Any
    ) -> Any:
        """Write a conversation, or a list of them, as prompts; see `transformers`' method of this name.

        With `tokenize=True`, images are taken from the conversation (`{"type": "image", "image": PIL image}`)
        and the model's inputs are returned.
        """
        template = kwargs.pop("chat_template", None) or self.chat_template
        keep = {k: v for k, v in kwargs.items() if k not in ("return_dict", "return_tensors", "padding")}
        many = bool(conversation) and not isinstance(conversation[0], dict)
        conversations = list(conversation) if many else [conversation]
        if template is None:
            prompts = [_plain(c, self.image_token) for c in conversations]
        else:
            prompts = [
                self.tokenizer.apply_chat_template(
                    c,
                    tokenize=False,
                    chat_template=template,
                    add_generation_prompt=add_generation_prompt,
                    **keep,
                )
                for c in conversations
            ]
        if not tokenize:
            return prompts if many else prompts[0]
        parts = [p for c in conversations for m in c if isinstance(m["content"], list) for p in m["content"]]
        return self(images=[p["image"] for p in parts if p["type"] == "image"], text=prompts)

    def prompt(self, question: str, images: int = 1) -> str:
        """Return the prompt of a question about some images, ready for an answer."""
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        written = self.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return str(written)

    def inputs(self, images: Sequence[Pictures], questions: Sequence[str]) -> dict[str, Tensor]:
        """Return the model's inputs for a batch of questions, each about its own images."""
        prompts = [self.prompt(q, len(mine)) for mine, q in zip(images, questions, strict=True)]
        return dict(self(images=list(images), text=prompts))

    def questions(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the questions in the tokens that follow an image in prompts, without the template around them."""
        marker = "?"
        _, _, behind = self.prompt(marker).rpartition(self.image_token)
        before, _, after = behind.partition(marker)
        lead, tail = (
            list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (before, after)
        )
        out = []
        for row in ids:
            left = list(row)
            if lead and left[: len(lead)] == lead:
                left = left[len(lead) :]
            if tail and left[-len(tail) :] == tail:
                left = left[: -len(tail)]
            out.append(self.decode(left, skip_special_tokens=True).strip())
        return out

    def answer_ids(self, answer: str, end: bool = True) -> list[int]:
        """Return an answer's tokens as the model writes them behind the prompt, with the end token if
        wanted.
        """
        ids = list(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        return (
            [*ids, int(self.tokenizer.eos_token_id)]
            if end and self.tokenizer.eos_token_id is not None
            else ids
        )

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """Decode token ids; see the tokenizer's method."""
        return list(self.tokenizer.batch_decode(*args, **kwargs))

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Decode token ids; see the tokenizer's method."""
        return str(self.tokenizer.decode(*args, **kwargs))

    def _expand(self, prompts: list[str], counts: list[int]) -> list[str]:
        wanted = sum(p.count(self.image_token) for p in prompts)
        if wanted != len(counts):
            raise DataError(
                f"text: {wanted} image placeholders {self.image_token!r} for {len(counts)} images"
            )
        left = iter(counts)
        out = []
        for prompt in prompts:
            first, *rest = prompt.split(self.image_token)
            begin, end = self._around
            images = (begin + self.image_token * next(left) + end + part for part in rest)
            out.append(first + "".join(images))
        return out

    def _modalities(self, ids: Tensor) -> Tensor:
        kinds = (ids == self.image_token_id).long()
        if self.video_token_id is not None:
            kinds[ids == self.video_token_id] = 2
        return kinds


def load_processor(folder: str | Path, config: Any = None) -> Processor:
    """Load image processor, tokenizer and chat template of a local model folder.

    Raises:
        ModelError: one of them is missing or cannot be read.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    folder = Path(folder)
    loaded = []
    for what, auto, files in (
        ("model config", AutoConfig, "config.json"),
        ("image processor", AutoImageProcessor, "preprocessor_config.json or processor_config.json"),
        ("tokenizer", AutoTokenizer, "tokenizer.json"),
    ):
        if auto is AutoConfig and config is not None:
            loaded.append(config)
            continue
        try:
            with _quiet():
                loaded.append(auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(
                f"{folder}: the {what} ({files}) cannot be loaded: {reason}. Save it into the folder with "
                "save_pretrained"
            ) from error
    with _quiet():
        encoder = load_text_encoder(folder)
    return Processor(loaded[1], loaded[2], loaded[0], _template(folder), encoder)


def load_model(
    folder: str | Path, *, device: str = "cpu", dtype: str | torch.dtype = "float32"
) -> tuple[Any, Processor]:
    """Load a model folder for inference: local files only, no code from the folder, SDPA attention.

    Returns:
        The model in eval mode and its `Processor`.

    Raises:
        ModelError: no such folder, or something in it is missing or cannot be read.
    """
    from transformers import AutoModelForImageTextToText

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: not a model folder (no config.json); give a folder made by save_pretrained"
        )
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    try:
        with _quiet():
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=kind, local_files_only=True, trust_remote_code=False, attn_implementation="sdpa"
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{folder}: the weights cannot be loaded: {reason}") from error
    processor = load_processor(folder, model.config)
    if processor.text_encoder is not None:
        processor.text_encoder.to(device)
    return model.to(device).eval(), processor


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' progress bars and its note on torchvision; errors are still raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _marks(tokenizer: Any) -> tuple[str, str]:
    """Return the tokens that stand before and behind an image's placeholders."""
    marks = {name: getattr(tokenizer, name, None) for name in ("start_image_token", "end_image_token")}
    missing = [name for name, mark in marks.items() if mark is None]
    if missing:
        raise ModelError(
            f"tokenizer_config.json: the tokenizer names no {' and no '.join(map(repr, missing))}"
        )
    begin, end = map(str, marks.values())
    return begin, end


def _image_token_id(config: Any) -> int:
    for name in ("image_token_id", "image_token_index"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise ModelError(f"config.json: model type {config.model_type!r} names no image token ('image_token_id')")


def _by_prompt(images: Any) -> list[Any]:
    """Return one list a prompt where images are given so, else a flat list."""
    several = isinstance(images, list | tuple) and any(isinstance(mine, list | tuple) for mine in images)
    return [list(mine) for mine in images if mine] if several else _flat(images)


def _flat(images: Any) -> list[Image.Image]:
    if images is None:
        return []
    if isinstance(images, Image.Image):
        return [images]
    return [
        picture for item in images for picture in (_flat(item) if isinstance(item, list | tuple) else [item])
    ]


def _template(folder: Path) -> str | None:
    """Return the chat template of a processor, from the files transformers has used for it over time."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
            if isinstance(found, str):
                return found
    return None


def _plain(conversation: Any, image_token: str) -> str:
    """Write a conversation for a model without a chat template: images, then text, then a line break."""
    out = []
    for message in conversation:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        out += [f"{image_token}\n" if p["type"] == "image" else f"{p['text']}\n" for p in parts]
    return "".join(out)
