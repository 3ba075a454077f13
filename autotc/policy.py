"""The policy document: where visual tokens are reduced, by which reducer, to how many.

Schema only. Whether a reducer exists and a policy fits a model is checked by `autotc.apply.check`.
"""

from __future__ import annotations

import hashlib
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autotc.errors import PolicyError
from autotc.registry import nearest

if TYPE_CHECKING:
    from autotc.anatomy import Anatomy

SCHEMA = "autotc/policy/1"
SITES = ("input", "vision", "projector", "decoder", "cache")
LAYERED = ("vision", "decoder")


def budget(n: int, keep: float, min_tokens: int | None = None, max_tokens: int | None = None) -> int:
    """Return how many of an image's `n` visual tokens stay: the only place that rounds.

    Args:
        n: the image's original number of visual tokens.
        keep: fraction kept, in [0, 1].
        min_tokens, max_tokens: optional bounds in tokens, applied after rounding.
    """
    if keep == 0:
        return 0
    kept = max(1, math.floor(keep * n + 0.5))
    if min_tokens is not None:
        kept = max(kept, min_tokens)
    if max_tokens is not None:
        kept = min(kept, max_tokens)
    return min(kept, n)


def map_depth(layer: int, depth: int, to_depth: int) -> int:
    """Translate a depth between a model of `depth` layers and one of `to_depth`, clamped to 1..to_depth-1.

    From the smaller model to the larger one ceil(p * L / L_p); back the floor, so that the round trip
    small -> large -> small is exact.
    """
    if depth == to_depth:
        return layer
    scaled = -(-layer * to_depth // depth) if to_depth > depth else layer * to_depth // depth
    return min(max(scaled, 1), to_depth - 1)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Number(_Closed):
    """A figure with everything needed to trust it. `stderr` and `n` are empty only for estimates."""

    name: str
    value: float
    unit: str
    kind: Literal["estimated", "measured", "simulated"]
    on: str
    split: str | None = None
    stderr: float | None = None
    n: int | None = None


class Stage(_Closed):
    """One reduction: a site (and layer, where the site has layers), a reducer, and the fraction kept.

    `keep` is a fraction of the image's original visual tokens alive after the stage; 0 only at `decoder`.
    """

    site: Literal["input", "vision", "projector", "decoder", "cache"]
    layer: int | None = Field(default=None, ge=1)
    reducer: str
    keep: float = Field(ge=0.0, le=1.0)
    params: dict[str, bool | int | float | str] = Field(default_factory=dict)
    min_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if (self.layer is not None) != (self.site in LAYERED):
            wants = "needs a 'layer' >= 1" if self.site in LAYERED else "has no layers: leave 'layer' out"
            raise ValueError(f"site '{self.site}' {wants}")
        if self.keep == 0 and self.site != "decoder":
            raise ValueError("keep 0 (withdrawal) is only possible at site 'decoder'")
        if self.site == "cache":
            raise ValueError("site 'cache' is not supported yet; use input, vision, projector or decoder")
        return self

    def tokens(self, n: int) -> int:
        """Return how many of `n` original tokens of an image are alive after this stage."""
        return budget(n, self.keep, self.min_tokens, self.max_tokens)


class ModelRef(_Closed):
    """The model a policy is written for: family, checkpoint and the depths its layers refer to."""

    family: str
    id: str | None = None
    decoder_layers: int = Field(ge=2)
    vision_blocks: int = Field(ge=1)


class Policy(_Closed):
    """A compression policy, as stored, exported and applied. See `autotc list schema` for the JSON Schema."""

    schema_: Literal["autotc/policy/1"] = Field(default="autotc/policy/1", alias="schema")
    model: ModelRef
    positions: Literal["original", "compact"] = "original"
    stages: tuple[Stage, ...] = ()
    status: Literal["unverified", "verified"] = "unverified"
    expected: tuple[Number, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )

    @field_validator("stages")
    @classmethod
    def _ordered(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        for i, (before, after) in enumerate(pairwise(stages)):
            depth = [(SITES.index(s.site), s.layer or 0) for s in (before, after)]
            if depth[1] <= depth[0]:
                raise ValueError(
                    f"stages[{i + 1}] must come after stages[{i}] in the order "
                    "input, vision, projector, decoder, with layers strictly increasing"
                )
            if after.keep > before.keep:
                raise ValueError(
                    f"stages[{i + 1}].keep is {after.keep} after {before.keep}: keep is a fraction of the "
                    "original tokens and never increases"
                )
        return stages

    @property
    def id(self) -> str:
        """sha256 over schema, family, positions and stages, keeps rounded to 6 decimals."""
        body = {
            "schema": self.schema_,
            "family": self.model.family,
            "decoder_layers": self.model.decoder_layers,
            "positions": self.positions,
            "stages": [{**s.model_dump(exclude_none=True), "keep": round(s.keep, 6)} for s in self.stages],
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def json_text(self) -> str:
        """Return the document as pretty JSON, fields without a value left out."""
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def describe(self) -> str:
        """Return a one-line reading such as 'projector divprune 45% · decoder@8 fastv 20%'."""
        if not self.stages:
            return "uncompressed"
        return " · ".join(
            f"{s.site}{'' if s.layer is None else f'@{s.layer}'} {s.reducer}"
            + (" 0" if s.keep == 0 and s.reducer != "withdraw" else "" if s.keep == 0 else f" {s.keep:.1%}")
            for s in self.stages
        )

    def for_model(self, anatomy: Anatomy) -> Policy:
        """Return this policy with its depths translated to another model of the same family.

        Raises:
            PolicyError: another family, or two stages that would fall on the same layer.
        """
        if anatomy.family != self.model.family:
            raise PolicyError(
                f"model.family: the policy is for {self.model.family!r}, the model is {anatomy.family!r}"
            )
        to = {"decoder": anatomy.decoder.layers, "vision": anatomy.vision.blocks}
        now = {"decoder": self.model.decoder_layers, "vision": self.model.vision_blocks}
        stages = tuple(
            s
            if s.layer is None
            else s.model_copy(update={"layer": map_depth(s.layer, now[s.site], to[s.site])})
            for s in self.stages
        )
        places = [(s.site, s.layer) for s in stages]
        if len(set(places)) < len(places):
            raise PolicyError(
                f"stages: two stages fall on the same layer of a model with {to['decoder']} decoder layers"
            )
        model = ModelRef(
            family=anatomy.family, id=anatomy.id, decoder_layers=to["decoder"], vision_blocks=to["vision"]
        )
        return self.model_copy(update={"model": model, "stages": stages})


def load_policy(source: str | Path | dict[str, Any]) -> Policy:
    """Read a policy from a file or a dictionary.

    Raises:
        PolicyError: not readable, not JSON, or not a valid document; the message names the JSON path.
    """
    where = "policy"
    if isinstance(source, dict):
        document: Any = source
    else:
        where = str(source)
        try:
            document = json.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise PolicyError(f"{where}: cannot be read: {error.strerror or error}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise PolicyError(f"{where}: not a JSON document: {error}") from error
    if not isinstance(document, dict):
        raise PolicyError(f"{where}: expected a JSON object with a 'schema' key")
    if document.get("schema") != SCHEMA:
        raise PolicyError(f"{where}: schema: {document.get('schema')!r} is not {SCHEMA!r}")
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        raise PolicyError(f"{where}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"]).lstrip(".")
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key. {nearest(str(item['loc'][-1]), _keys_at(item['loc'][:-1]))}"
        elif "input" in item and isinstance(item["input"], str | int | float):
            message += f" (got {item['input']!r})"
        lines.append(f"{path}: {message}" if path else message)
    return "; ".join(lines)


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    owners: dict[str, type[BaseModel]] = {"model": ModelRef, "stages": Stage, "expected": Number}
    owner = owners.get(str(loc[0]) if loc else "", Policy)
    return [field.alias or name for name, field in owner.model_fields.items()]
