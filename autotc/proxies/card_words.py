"""What the model cards say of each proxy besides figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """The sentences of one card.

    ``tower`` is filled in from the vision configuration; ``parts`` are further rows of the first table.
    """

    name: str
    tower: str
    parts: tuple[tuple[str, str], ...]
    note: str
    rules: str
    sizes: str
    training: str
    images: str = "of eight questions each"


QWEN = Words(
    name="qwen2_5_vl-tiny",
    tower=(
        "{depth} blocks, width {hidden_size}, {num_heads} heads, full attention in blocks "
        "{fullatt_block_indexes}, else windows of 4 x 4 tokens"
    ),
    parts=(
        ("image", "7-pixel patches, 2 x 2 merged: one visual token for 14 x 14 pixels; 168 x 168 gives 144"),
    ),
    note="""The forward needs `mm_token_type_ids` (1 on image tokens); without them transformers silently uses
one-dimensional positions and accuracy falls.
""",
    rules="`vit_attention`: received in the tower's last full block.",
    sizes="Trained on 112, 140, 168 and 224 pixels and on 112 x 168; smaller sizes were never seen.",
    training="""First the
tower alone (naming what each token shows), then everything at 112 pixels, then all sizes; the
learning rate falls to 0. One image in ten lost visual tokens before the decoder (three in ten of
these all of them), and about one in fourteen lost all of them from a layer between 8 and 11 on, so
that few or no tokens is nothing unheard of. Accuracy below is on validation scenes other than those
above.""",
)

LLAVA = Words(
    name="llava-tiny",
    tower=(
        "CLIP: {num_hidden_layers} blocks, width {hidden_size}, {num_attention_heads} heads; the visual tokens "
        "are the patch rows that enter the last block"
    ),
    parts=(
        ("image", "14-pixel patches: one visual token each; 168 x 168 pixels give 144"),
        ("text encoder", "CLIP's, in `text_encoder`: 3 layers, width 128, texts of at most 24 tokens"),
    ),
    note="""The layout of `text_encoder` is written down in `autotc/proxies/llava.py`.
""",
    rules="""`cls_attention`: the CLS row's in the block before the last, `cls_last_block`: in the last one.
`clip_text`: CLIP's patches and the question, sign turned.""",
    sizes="""As LLaVA, the model is made for one size. Others need `interpolate_pos_encoding`; some images
in training were of 112 pixels, the other sizes were never seen.""",
    training="""First CLIP
alone, then projector and language model on its frozen tower (at 112 pixels at the beginning); the
learning rate falls to 0 in both. CLIP learns from captions (some of the things with colour, kind and
quarter of the image, some digits of the tag; the CLS row) and from phrases and questions about one thing
(the patches; these answer with the sign of the cosine turned, see below). **Minutes of contrastive training cannot
give fine detail, so the patch rows before the last block also learned to name what they show, in a
linear helper thrown away afterwards:** LLaVA's tower has nothing of the kind. The language model too was
helped where answers alone teach it late: visual tokens entering layers 4 and 8 tell where they are, the
first head of layer 4 looks at what is asked about and that of layer 8 at the answer of a `relation`, and
the colour a question names is in the state that enters layer 4. One image in eight lost visual
tokens before the decoder (three in ten of these all of them), and about one in fourteen lost all of them
from a layer between 9 and 12 on. Accuracy below is on validation scenes other than those above.""",
    images="""(111 thousand of them for CLIP, the others with eight questions each)""",
)

CLIP = """Of 256 held-out scenes. {retrieval} of the images are nearest to their own caption among 32 captions and 32
with one wrong word; {wrong_refused} are nearer to the right than to the wrong one. Things and tag cover {on_things} of
the patches; among the 36 patches to which the CLS row pays most attention they are {cls_feature} in the block
before the last and {cls_last} in the last one, of {most} that are possible. The patch that answers a question
about one thing most is on that thing in {phrase_top} of the cases; the thing covers {phrase_base} of the patches.
"""

LIMITS = """## What it can not tell

It is a stand-in for the *mechanics* of a large model: where tokens may go, what attention-based
and diversity-based rules see, how much depth a question needs. Which rule is best by how much on a
large model must be verified on that model. Scenes are sparse (a few objects on a plain ground),
which favours rules that avoid the ground more than photographs and documents do.
"""
