"""The packed training forward equals Hugging Face's, and dropping is hiding."""

from __future__ import annotations

import pytest
import torch

from autotc.proxies import data, model
from autotc.proxies import vocabulary as v
from autotc.proxies.forward import Forward


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return model.build(layers=3, width=40, heads=2, tower_width=32, blocks=2).eval()


def patches(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut images (B, H, W, 3) the way Hugging Face's processor does: (patches, 294) and grids."""
    b, height, width, _ = images.shape
    rows, cols = height // 14, width // 14
    x = (images.float() / 255 - 0.5) / 0.25
    x = x.permute(0, 3, 1, 2).reshape(b, 3, rows, 2, 7, cols, 2, 7)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # cells, patches of a cell, colour, y, x
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)  # two equal frames
    grid = torch.tensor([[1, 2 * rows, 2 * cols]] * b)
    return x.reshape(b * rows * cols * 4, -1), grid


@pytest.mark.parametrize("size", [112, 140, (112, 168)])  # 140: windows cut off at the edge
@torch.no_grad()
def test_packed_forward_equals_hugging_face(tiny, size):
    forward = Forward(tiny)
    batch = data.make_batch(range(2), "test", size)
    pixels, grid = patches(batch.images)
    visual = forward.see(batch.images)
    reference = tiny.model.visual(pixels, grid_thw=grid).pooler_output
    torch.testing.assert_close(visual.flatten(0, 1), reference, atol=2e-6, rtol=1e-4)

    logits = forward.logits(forward.read(visual, batch.rows, batch.tokens, None)[0])
    head = [*v.encode(v.PREFIX), *[v.IMAGE] * visual.shape[1], v.VISION_END]
    for question in range(3):
        ids = torch.cat((torch.tensor([head] * 2), batch.tokens[:, question]), 1)
        out = tiny(
            input_ids=ids,
            pixel_values=pixels,
            image_grid_thw=grid,
            mm_token_type_ids=(ids == v.IMAGE).int(),
        ).logits
        torch.testing.assert_close(logits[:, question], out[:, -data.BLOCK :], atol=5e-6, rtol=1e-4)


@torch.no_grad()
def test_hidden_tokens_have_no_influence_from_their_layer_on(tiny):
    forward = Forward(tiny)
    batch = data.make_batch(range(1), "test", 112)
    visual = forward.see(batch.images)
    keep = torch.ones(2, 1, 64, dtype=torch.bool)
    keep[:, :, 10:40] = False
    changed = visual.clone()
    changed[:, 10:40] += 1
    one, two = (forward.read(x, 8, batch.tokens, keep)[0] for x in (visual, changed))
    torch.testing.assert_close(one, two)
    keep[0] = True  # now only hidden from layer 2 on: before that they are seen
    one, two = (forward.read(x, 8, batch.tokens, keep, 2)[0] for x in (visual, changed))
    assert (one - two).abs().max() > 1e-3


def test_the_tokenizer_and_the_template_give_the_training_prompt():
    tokenizer = v.tokenizer()
    content = [{"type": "image"}, {"type": "text", "text": "what digit is red ?"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text)["input_ids"]
    expected = f"{v.PREFIX} <|image_pad|> <|vision_end|> what digit is red ? {v.SUFFIX}"
    assert ids == v.encode(expected)
    assert tokenizer.decode(v.encode("4 7 1"), skip_special_tokens=True) == "4 7 1"
    assert tokenizer("is it red?")["input_ids"][-1] == v.INDEX["?"]
