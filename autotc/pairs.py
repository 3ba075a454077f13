"""A model with weights beside the proxy of its family, and what a stored calibration of the two allows a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autotc import anchors as an
from autotc.adapter import ModelSource, resolve_model
from autotc.anatomy import Anatomy
from autotc.errors import ModelError
from autotc.proxies import proxy_folder
from autotc.search._fidelity import Screen
from autotc.store import Store
from autotc.tasks.scenes import Scenes
from autotc.weights import fingerprint

if TYPE_CHECKING:
    from autotc.search._session import Evaluates


@dataclass(frozen=True)
class Pair:
    """A model with weights and the proxy of its family.

    Args:
        source: the model.
        folder: its weights.
        proxy: folder of the proxy.
        on: how numbers name the proxy.
        anatomy: the proxy's.
    """

    source: ModelSource
    folder: Path
    proxy: Path
    on: str
    anatomy: Anatomy

    @staticmethod
    def find(model: str, download: bool = False) -> Pair:
        """Return what a model name stands for, with its proxy.

        Raises:
            ModelError: unknown, no weights at hand, or no proxy of its family.
        """
        source = resolve_model(model, download)
        if source.folder is None or not source.weights:
            raise ModelError(
                f"--model: no weights of {source.id} on this machine; give the folder that holds them"
            )
        proxy = proxy_folder(source.family)
        if proxy is None:
            raise ModelError(
                f"--model: no proxy ships for the family {source.family}, so there is nothing to calibrate; search "
                "with --evaluate-on full"
            )
        return Pair(source, source.folder, proxy, f"proxy:{proxy.name}", resolve_model(str(proxy)).anatomy)

    def keys(self, data: str) -> tuple[str, str, str]:
        """Return by what a calibration is found again: fingerprints of weights, proxy with its task, and data."""
        return fingerprint(self.folder), f"{fingerprint(self.proxy)}-{Scenes().fingerprint}", data


def screen_for(
    store: Store, pair: Pair, data: str, evaluator: Callable[[int], Evaluates]
) -> tuple[Screen | None, str]:
    """Return what a stored calibration allows a search on the model, and a plain line about it."""
    found = store.calibration(*pair.keys(data))
    if found is None or found.result is None:
        return None, (
            "Every proposal runs on the model. autotc calibrate, with the same --model and --data, measures whether "
            "the proxy may screen them first."
        )
    agreement = an.Agreement.from_dict(found.result)
    told = f"rank correlation with the proxy {agreement.equal_cost.text} at equal cost, n = {agreement.n} anchors"
    if not agreement.screens:
        return None, (
            f"Screening is off: {told}; it takes at least {an.USEFUL} and an interval above {an.DOUBTFUL}. Every "
            "proposal runs on the model."
        )
    return Screen(pair.anatomy, pair.on, pair.source.id, evaluator, agreement.line), (
        f"Proposals are screened on the proxy {pair.proxy.name} ({told}): the model runs those whose upper 95 % bound "
        "reaches the front at their cost."
    )
