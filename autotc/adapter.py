"""How a model family exposes its numbers and modules; lookup by alias, Hugging Face id, folder or config.

A family is one file in `autotc/adapters/`: model types, aliases, anatomy and paths. It names no method and
holds no mechanism; `autotc.apply` does the cutting with what is declared here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autotc._views import View
from autotc.anatomy import Anatomy, ImageRule
from autotc.errors import ModelError
from autotc.registry import Registry, nearest

Grid = tuple[int, int, int]

# signals of `autotc.reducer.SIGNALS` by what a tower has to have for them
OF_CLS_ROW = (
    "cls_attention",
    "final_cls_logits",
    "final_cls_attention",
    "first_cls_attention",
    "early_cls_attention",
    "block_cls_attention",
    "block_cls_logits",
    "block_value_attention",
)
OF_ONE_SEQUENCE_AN_IMAGE = ("vision_attention", "block_logits", "block_cls_logits")
OF_TEXT_ENCODER = ("clip_text", "clip_patches")
OF_PROCESSOR = ("text_keywords",)  # one that knows its own prompts


class ModelAdapter:
    """Base of all model families: class data describe the family, an instance describes one built model.

    Class data: `name` (the module's name), `model_types` (`config.model_type` values), `aliases` (alias ->
    id and config numbers in Hugging Face form), `sites` and `positions` (what is tested), `refusals` (why the
    family has not got a site), `signals_absent` (signals of `autotc.reducer.SIGNALS` that the family cannot
    give), `token_members` (tower rows that make one visual token), `tower_prefix` (rows before the patches; 0
    where the tower packs all images into one sequence or, with `block_masks`, has no such rows), `block_masks`
    (whether a tower block takes an attention mask as an argument), `tiles_touch` (placeholders of one image's
    tiles, and only they, stand next to one another), `deep_arguments` (DeepStack: arguments of the language
    model for the mask of visual rows and the features of each level).

    Args:
        model: a built `...ForConditionalGeneration`.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    aliases: ClassVar[dict[str, dict[str, Any]]] = {}
    sites: ClassVar[tuple[str, ...]] = ("input", "vision", "projector", "decoder")
    positions: ClassVar[tuple[str, ...]] = ("original",)
    refusals: ClassVar[dict[str, str]] = {}
    signals_absent: ClassVar[tuple[str, ...]] = ()
    token_members: ClassVar[int] = 1
    tower_prefix: ClassVar[int] = 0
    block_masks: ClassVar[bool] = False
    tiles_touch: ClassVar[bool] = False
    deep_arguments: ClassVar[tuple[str, str] | None] = None

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.config: Any = model.config

    # numbers ------------------------------------------------------------------------------------------------

    @classmethod
    def anatomy(cls, config: Mapping[str, Any], id: str) -> Anatomy:
        """Return the numbers of a model from its config, a complete dictionary in Hugging Face form."""
        raise NotImplementedError

    @classmethod
    def image_rule(cls, rule: ImageRule, processor: Mapping[str, Any]) -> ImageRule:
        """Return the image rule with what an image processor's config says about resolution: the bounds of a dynamic
        one.
        """
        if not rule.max_pixels:
            return rule
        size = processor.get("size") or {}
        low = processor.get("min_pixels") or size.get("shortest_edge") or rule.min_pixels
        high = processor.get("max_pixels") or size.get("longest_edge") or rule.max_pixels
        return replace(rule, min_pixels=int(low), max_pixels=int(high))

    def prompt_positions(self, mask: Tensor) -> Tensor | None:
        """Return the rotary positions `generate` gives a prompt with this (B, L) mask; None: the model
        finds them.
        """
        return None

    # modules ------------------------------------------------------------------------------------------------

    @property
    def core(self) -> Any:
        """The model without its language-model head."""
        return self.model.model

    @property
    def text(self) -> Any:
        """The language model: `.layers`, `.norm`, `.rotary_emb`, `.embed_tokens`."""
        return self.core.language_model

    @property
    def layers(self) -> Any:
        """The decoder layers."""
        return self.text.layers

    @property
    def tower(self) -> Any:
        """The vision tower, one call for all images of a prefill."""
        raise NotImplementedError

    @property
    def blocks(self) -> Any:
        """The tower's blocks."""
        raise NotImplementedError

    @property
    def blocks_used(self) -> int:
        """How many blocks run into the features."""
        return len(self.blocks)

    @property
    def tower_norm(self) -> Any:
        """The norm behind the tower's last block, where a text encoder can belong to the tower."""
        raise NotImplementedError

    @property
    def projector(self) -> Any:
        """The module that turns tower rows into language-model tokens."""
        raise NotImplementedError

    @property
    def deep_projectors(self) -> Sequence[Any]:
        """The projectors of `VisionAnatomy.deep`: what the l-th gives is added behind decoder layer l."""
        return ()

    def set_deep(self, output: Any, features: Sequence[Tensor]) -> None:
        """Put the features of each level, all images in one sequence, into the tower's output."""
        raise NotImplementedError

    def attention(self, block: Any) -> Any:
        """The attention module of a tower block (the one that calls the attention function)."""
        raise NotImplementedError

    def attend(self, block: Any, hidden: Tensor, **kwargs: Any) -> Tensor:
        """The first half of a tower block: residual plus attention."""
        raise NotImplementedError

    def feed(self, block: Any, hidden: Tensor) -> Tensor:
        """The second half of a tower block: residual plus MLP."""
        raise NotImplementedError

    @property
    def image_token(self) -> int:
        """The id of the placeholder that stands for one visual token."""
        return int(self.config.image_token_id)

    # geometry -----------------------------------------------------------------------------------------------

    def tower_grids(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Grid]:
        """Return the token grid of each image from the arguments of a call of the tower."""
        raise NotImplementedError

    def views(self, call: Mapping[str, Any]) -> list[View] | None:
        """Return the views of the images, in the order of the prompts, where an image becomes several tiles of the
        tower; None: each of the tower's images is one view.

        Args:
            call: arguments of the core model's `get_image_features`, by name.
        """
        return None

    def tower_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the keyword arguments of a call of the tower on a resized image; None: as they are."""
        return None

    def tower_order(self, grids: Sequence[Grid], device: torch.device) -> Tensor | None:
        """Return for each place of the tower's own order the language-model index, over all images; None:
        the same.

        The unit is a visual token (a group of `token_members` rows), images stay contiguous.
        """
        return None

    def token_rows(self, grid: Grid, device: torch.device) -> Tensor:
        """Return the rows of each token of one image, (N, token_members), counted behind the prefix."""
        members = self.token_members
        return torch.arange(grid[0] * grid[1] * grid[2] * members, device=device).view(-1, members)


adapters: Registry[ModelAdapter] = Registry("autotc.adapters", ModelAdapter, "family")


@dataclass(frozen=True)
class ModelSource:
    """What a model name stands for.

    Args:
        alias: the alias it was, or belongs to.
        id: Hugging Face id, or the folder's path.
        folder: where its files are on this machine; None when they are not at hand.
        anatomy: its numbers.
        family: the name of its adapter.
    """

    alias: str | None
    id: str
    folder: Path | None
    anatomy: Anatomy
    family: str

    @property
    def weights(self) -> bool:
        """Whether weight files are at hand."""
        return self.folder is not None and any(
            file for pattern in ("*.safetensors", "pytorch_model*.bin") for file in self.folder.glob(pattern)
        )


def _aliases() -> Iterator[tuple[str, dict[str, Any], type[ModelAdapter]]]:
    for cls in adapters.all():
        for alias, entry in cls.aliases.items():
            yield alias, entry, cls


def known_aliases() -> tuple[str, ...]:
    """Return every alias, sorted."""
    return tuple(sorted(alias for alias, _, _ in _aliases()))


def family_of(model_type: str) -> type[ModelAdapter]:
    """Return the adapter class of a Hugging Face `model_type`.

    Raises:
        ModelError: no family covers it; the message lists those that are covered.
    """
    for cls in adapters.all():
        if model_type in cls.model_types:
            return cls
    covered = [t for cls in adapters.all() for t in cls.model_types]
    raise ModelError(f"model_type {model_type!r} is not supported. {nearest(model_type, covered)}")


def adapter_for(model: Any) -> ModelAdapter:
    """Return the adapter of a built model."""
    return family_of(model.config.model_type)(model)


def anatomy(config: Any) -> Anatomy:
    """Return the numbers of a model.

    Args:
        config: an alias, a Hugging Face id of an alias or in the local cache, a folder with a
            `config.json`, a Hugging Face config, a dictionary in that form, or a built model.

    Raises:
        ModelError: unknown or unsupported model.
    """
    if isinstance(config, str | os.PathLike):
        return resolve_model(os.fspath(config)).anatomy
    if isinstance(config, nn.Module):
        config = config.config
    name = "config"
    folder: Path | None = None
    if not isinstance(config, Mapping):
        name = getattr(config, "name_or_path", "") or name
        folder = Path(name) if name != "config" and Path(name).is_dir() else None
        config = config.to_dict()
    return _from_dict(config, name, folder)


def _from_dict(data: Mapping[str, Any], id: str, folder: Path | None) -> Anatomy:
    """Complete a config dictionary through its Hugging Face class (old flat files, defaults), then read
    it.
    """
    model_type = data.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(f"{id}: the config has no 'model_type'")
    cls = family_of(model_type)
    from transformers import CONFIG_MAPPING

    complete = CONFIG_MAPPING[model_type].from_dict(dict(data)).to_dict()
    found = cls.anatomy(complete, id)
    processor = folder / "preprocessor_config.json" if folder is not None else None
    if processor is not None and processor.is_file():
        found = replace(found, image=cls.image_rule(found.image, _read_json(processor)))
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return data


def resolve_model(name: str, download: bool = False) -> ModelSource:
    """Find out what a model name stands for; nothing is downloaded unless `download` is set.

    Args:
        name: an alias, a folder with a `config.json`, or a Hugging Face id.
        download: fetch an id that is not in the local Hugging Face cache.

    Raises:
        ModelError: unknown; the message names the nearest aliases.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        data = _read_json(folder / "config.json")
        found = _from_dict(data, str(folder), folder)
        return ModelSource(None, str(folder), folder, found, found.family)
    for alias, entry, cls in _aliases():
        if name.lower() in (alias, entry["id"].lower(), entry["id"].rpartition("/")[2].lower()):
            cached = _cached(entry["id"], download)
            found = cls.anatomy(entry["config"], entry["id"])
            return ModelSource(alias, entry["id"], cached, found, cls.name)
    if "/" in name and not folder.is_absolute() and (cached := _cached(name, download)) is not None:
        found = _from_dict(_read_json(cached / "config.json"), name, cached)
        return ModelSource(None, name, cached, found, found.family)
    hint = f"{nearest(name, known_aliases())} A folder needs a config.json"
    if "/" in name:
        hint += "; a Hugging Face id is looked up in the local cache, add --download to fetch it"
    raise ModelError(f"--model: unknown model {name!r}. {hint}.")


def _cached(id: str, download: bool) -> Path | None:
    """Return the folder of a Hugging Face id on this machine, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        folder = Path(snapshot_download(id, local_files_only=not download, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        if not download:
            return None
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"--model: {id!r} could not be downloaded: {reason}") from error
    return folder if (folder / "config.json").is_file() else None
