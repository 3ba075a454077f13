"""GSOP's search: which operations of which tokens can be left out, layer by layer, greedily by the score without each.

An operation is (layer, group, module): a group of tokens is no longer seen by others (module 0), no longer attends (1),
or skips the MLP (2). A policy removes whole tokens from a layer on, so this is no strategy of `autotc search`: it is
here to be compared with.

Source: Beyond Token Pruning: Operation Pruning in Vision-Language Models, arXiv 2507.02909.
Differs: the authors' list of what was accepted and the one that they work on are the same list after an operation was
taken back, so that the next one tried can never be taken back and is missing from the record; `faithful` repeats that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Operation = tuple[int, int, int]
Accuracy = Callable[[Collection[Operation]], float]

SEEN, ATTENDS, MLP = 0, 1, 2


@dataclass(frozen=True)
class Search:
    """The search for one model.

    Args:
        layers: of the language model.
        key, rest: the groups of visual tokens; what the key group leaves out, the rest leaves out too.
        modules: in the order in which a start without loss adds them, the first alone last.
        first_layer: by module, from which the key group may leave it out.
        upper_half: whether a start without loss is looked for in the upper half of the layers only.
    """

    layers: int
    key: int = 1
    rest: int = 2
    modules: Sequence[int] = (ATTENDS, MLP, SEEN)
    first_layer: Sequence[int] = (0, 0, 0)
    upper_half: bool = False

    def start(self, accuracy: Accuracy, baseline: float) -> dict[tuple[int, int], int]:
        """Return the shallowest layer from which modules of a group can be left out at no loss, by (group, module)."""
        found: dict[tuple[int, int], int] = {}
        for group in (self.key, self.rest):
            for count in range(len(self.modules), 0, -1):
                modules = self.modules[:count]
                low, high = (self.layers // 2 - 1 if self.upper_half else 0), self.layers
                while low < high:
                    middle = (low + high) // 2
                    pruned = {(k, group, m) for k in range(middle, self.layers) for m in modules}
                    if accuracy(pruned) >= baseline:
                        high = middle
                    else:
                        low = middle + 1
                if high < self.layers:
                    found |= {(group, m): min(high, found.get((group, m), high)) for m in modules}
        return found

    def operations(self, start: dict[tuple[int, int], int]) -> set[Operation]:
        """Return the operations that a start without loss leaves out."""
        return {(k, group, m) for (group, m), first in start.items() for k in range(first, self.layers)}

    def closed(self, operations: Iterable[Operation]) -> set[Operation]:
        """Add what follows: the rest goes with the key group; tokens that nobody sees any more do nothing."""
        found = self._grouped(operations)
        for group in (self.key, self.rest):
            unseen = self.layers
            while unseen and (unseen - 1, group, SEEN) in found:
                unseen -= 1
            found |= {(k, group, m) for k in range(unseen, self.layers) for m in (ATTENDS, MLP)}
        return found

    def greedy(
        self, accuracy: Accuracy, baseline: float, lost: float, steps: int, *, faithful: bool = False
    ) -> list[list[Operation]]:
        """Leave out one operation after another, the least missed first.

        Scores are those beside the start; where an operation costs more than the share of the loss allowed so far, it
        is taken back, the next share is allowed, and all others are scored anew.

        Args:
            accuracy: of the model without some operations.
            baseline: of the whole model.
            lost: accuracy that may be lost in all.
            steps: shares that it is allowed in.
            faithful: as the authors' code, whose first operation after one that was taken back always stays.

        Returns:
            What each step added, ascending: the start without loss, then a list an accepted operation; empty where
            the authors' record lacks it.
        """
        accepted = self.operations(self.start(accuracy, baseline))
        record, share, stays = [sorted(accepted)], 1, False
        queue = self._ranked(accuracy, accepted)
        while queue and share <= steps:
            operation = queue.pop(0)
            if operation in accepted:
                continue
            # in the authors' code this very list is the accepted one after an operation was taken back
            before = self._grouped({*accepted, operation}) if faithful and stays else accepted
            working = self.closed({*accepted, operation})
            stays = False
            if baseline - accuracy(working) > share * lost / steps:
                accepted, share, stays = before, share + 1, True
                queue = self._ranked(accuracy, accepted)
                continue
            record.append(sorted(working - before))
            accepted = working
        return record

    def _grouped(self, operations: Iterable[Operation]) -> set[Operation]:
        found = set(operations)
        return found | {(k, self.rest, m) for k, group, m in found if group == self.key}

    def _ranked(self, accuracy: Accuracy, accepted: Collection[Operation]) -> list[Operation]:
        """Operations by the accuracy without them, best first; of equal ones the last."""
        free = [
            (k, group, m)
            for k in range(self.layers)
            for group in (self.key, self.rest)
            for m in self.modules
            if (k, group, m) not in accepted
            and not (m == SEEN and k == 0)
            and not (group == self.key and k < self.first_layer[m])
        ]
        scores = [accuracy(self.closed({*accepted, operation})) for operation in free]
        order = sorted(range(len(free)), key=lambda i: (-scores[i], -i))
        return [free[i] for i in order]


def flops(pruned: np.ndarray, tokens: Sequence[int], width: int, mlp: int) -> float:
    """Return the FLOPs of a prefill without some operations, two a multiply-add.

    Args:
        pruned: (L, G, 3) bool, by layer, group and module.
        tokens: (G,) of each group.
        width: of the hidden state.
        mlp: width of the MLP.
    """
    left = np.einsum("lgm,g->lm", ~np.asarray(pruned, bool), np.asarray(tokens, float))
    seen, attends, through = left.T
    layers = 4 * (seen + attends) * width**2 + 4 * attends * seen * width + 6 * through * width * mlp
    return float(layers.sum())
