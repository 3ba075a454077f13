"""EViT against the authors' code."""

from math import ceil

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "evit"))
def test_evit_parity(case: Case) -> None:
    x, heads = case["in_x"], case.params["heads"]
    b, n, d = x.shape
    # the block up to its attention residual
    qkv = torch.nn.functional.linear(x, case["in_qkv_w"], case["in_qkv_b"])
    q, k, v = qkv.view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(-1, -2) * (d // heads) ** -0.5).softmax(-1)
    mixed = (attention @ v).transpose(1, 2).reshape(b, n, d)
    x = x + torch.nn.functional.linear(mixed, case["in_proj_w"], case["in_proj_b"])
    row = attention[:, :, 0, 1:]
    torch.testing.assert_close(row.mean(1), case["out_cls_attn"], rtol=1e-5, atol=1e-6)

    kept = ceil(case.params["keep_rate"] * (n - 1))
    fuse = case.params["fuse"] and kept < n - 1
    view = TokenView(x[:, 1:], prefix=1, signals={"block_cls_attention": row})
    assignment = make_reducer("evit", {"fuse": case.params["fuse"]}).assign(view, kept + fuse)
    out = assignment.apply(view.x)
    for i in range(b):
        chosen = case["out_idx"][i]  # by falling attention
        plain = torch.isin(assignment.anchors[i], chosen)
        assert assignment.anchors[i, plain].tolist() == chosen.sort().values.tolist()
        theirs = case["out_x"][i, 1:]
        order = chosen.argsort()
        torch.testing.assert_close(out[i, plain], theirs[:kept][order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out[i, ~plain], theirs[kept:], rtol=1e-4, atol=1e-5)


def test_evit_preset_gives_the_published_counts() -> None:
    from autotc.policy import budget
    from autotc.reducers.evit import EViT
    from tests.contracts.reducer import ANATOMIES

    counts = [budget(576, stage.keep) for stage in EViT.presets[0].stages(ANATOMIES[0])]
    assert counts == [ceil(0.7 * 576) + 1, ceil(0.7 * 405) + 1, ceil(0.7 * 285) + 1]
