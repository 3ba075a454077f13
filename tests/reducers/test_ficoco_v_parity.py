"""FiCoCo-V against the authors' code, its quirks replayed here, and against plain loops without them."""

import math

import pytest
import torch
from torch import Tensor

from autotc.policy import budget
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.ficoco_v import FiCoCoV, targets
from tests.contracts.reducer import ANATOMIES
from tests.reducers.golden_cases import Case, cases


def view_of(logits: Tensor, x: Tensor) -> TokenView:
    """Tokens x (1, N, D) behind a CLS row, by logits (1 + N, 1 + N)."""
    signals = {"block_logits": logits[None, 1:, 1:], "block_cls_logits": logits[None, 0, 1:]}
    return TokenView(x, signals=signals, prefix=1)


def pushed_in_a_list(score: Tensor, slots: Tensor) -> Tensor:
    """Return the scores (N,) after the authors' push, and note in `slots` (24 x 24) what was pushed.

    Their slots outlive a block, while tokens move up in the list: scores fill the slots that are not closed,
    but the slots of lowest score in a window are taken for places in the list.
    """
    flat = slots.view(-1)
    free = (flat != torch.inf).nonzero()[: len(score), 0]
    flat[free] = score[: len(free)]
    numbers = torch.arange(len(flat)).view_as(slots)
    squares = [(slots[r : r + 2, c : c + 2], numbers[r : r + 2, c : c + 2]) for r, c in CORNERS]
    places = torch.stack([n.flatten()[s.argmin()] for s, n in squares])
    places = places[places < len(score)]
    flat[places] = torch.inf
    out = score.clone()
    out[places] = torch.where(out[places] > 0, out[places] / 2, out[places] * 2)
    return out


CORNERS = [(r, c) for r in range(0, 24, 2) for c in range(0, 24, 2)]


@pytest.mark.parametrize("case", cases("vision", "ficoco_v"))
def test_ficoco_v_parity(case: Case) -> None:
    knobs, x, slots = case.params, case["in_x"], torch.full((24, 24), 1e9)
    r, reducer = knobs["r"], make_reducer("ficoco_v", {"beta": knobs["beta"], "quantile": knobs["quantile"]})
    assert knobs["window"] == reducer.window
    for step in range(knobs["steps"]):
        logits = (case[f"in_q{step}"].float() / 32) @ (case[f"in_k{step}"].float() / 32).T
        gone, left = (case[f"out_{n}_indices{step}"].long() for n in ("merge", "remain"))
        view = view_of(logits, x[:, 1:])
        # the first row counts as CLS, which goes to the end of the list
        score = torch.cat((torch.tensor([torch.inf]), pushed_in_a_list(reducer.score(view)[0], slots)))
        assert torch.equal(score.argsort(stable=True), torch.cat((gone, left)))
        if step == 0:  # from the second block on their windows are another thing
            view.grids = [(1, 24, 24)]
            kept = reducer.assign(view, x.shape[1] - 1 - r).anchors[0]
            assert torch.equal(kept, left[left > 0].sort().values - 1)

        # their targets are of the whole sequence, and address the list that is left
        into, weight = targets(logits[gone], knobs["quantile"])
        assert torch.equal(into, case[f"out_targets{step}"].long())
        place = torch.where(into < len(left), into, into - r).flatten()
        sizes = torch.ones(len(left)).index_add(0, place, weight.flatten())
        added = (weight[..., None] * x[0, gone, None]).flatten(0, 1)
        out = x[0, left].index_add(0, place, added) / sizes[:, None]
        torch.testing.assert_close(out, case[f"out_x{step}"][0], rtol=1e-3, atol=1e-5)
        x = case[f"out_x{step}"]


def lowest(score: dict[int, float], pushed: set[int], width: int, window: int) -> set[int]:
    """Return the token of lowest score in each window among those not pushed yet."""
    best: dict[tuple[int, int], int] = {}
    for token in sorted(set(score) - pushed, key=lambda t: (-score[t], -t)):
        best[token // width // window, token % width // window] = token  # the last one written is the lowest
    return set(best.values())


def test_ficoco_v_is_its_description_over_two_blocks() -> None:
    random = torch.Generator().manual_seed(0)
    beta, quantile, width = 0.35, 0.9, 6
    reducer = make_reducer("ficoco_v", {"beta": beta, "quantile": quantile})
    left, pushed, state = list(range(36)), set(), {}
    for keep in (33, 26):
        n = len(left)
        logits, x = torch.randn(n + 1, n + 1, generator=random), torch.randn(1, n, 5, generator=random)
        view = view_of(logits, x)
        view.source, view.grids, view.state = torch.tensor([left]), [(1, 6, width)], state
        given, cls = logits[1:, 1:].mean(1), logits[0, 1:]
        raw = beta * cls / cls.square().sum().sqrt() - (1 - beta) * given / given.square().sum().sqrt()
        score = dict(zip(left, raw.tolist(), strict=True))
        kept = []
        for before in (pushed, set()):
            now = lowest(score, before, width, 2)
            lower = {t: s if t not in now else s / 2 if s > 0 else s * 2 for t, s in score.items()}
            kept.append(sorted(sorted(left, key=lambda t: lower[t])[n - keep :]))
        stay = kept[0]
        assert (stay != kept[1]) == bool(pushed), "what was pushed before must matter"
        pushed |= lowest(score, pushed, width, 2)
        assignment = reducer.assign(view, keep)
        assert [left[i] for i in assignment.anchors[0]] == stay

        sums = {t: x[0, left.index(t)].clone() for t in stay}
        held = dict.fromkeys(stay, 1.0)
        for token in set(left) - set(stay):
            row = {t: float(logits[1 + left.index(token), 1 + left.index(t)]) for t in stay}
            bound = float(torch.quantile(torch.tensor(list(row.values())), quantile))
            into = [t for t in stay if row[t] > bound]
            assert len(into) > 1
            total = sum(math.exp(row[t]) for t in into)
            for t in into:
                sums[t] += math.exp(row[t]) / total * x[0, left.index(token)]
                held[t] += math.exp(row[t]) / total
        expected = torch.stack([sums[t] / held[t] for t in stay])
        torch.testing.assert_close(assignment.apply(x)[0], expected, rtol=1e-5, atol=1e-5)
        left = stay


def test_ficoco_v_preset_takes_42_tokens_a_block() -> None:
    stages = FiCoCoV.presets[0].stages(ANATOMIES[0])
    assert [stage.layer for stage in stages] == [(block, 24) for block in range(12, 23)]
    assert [budget(576, stage.keep) for stage in stages] == list(range(534, 113, -42))
