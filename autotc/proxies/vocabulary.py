"""Words, prompt and tokenizer of the proxy models: one token a word, whole words only."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from autotc.tasks import scenes

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<unk>",
)
PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO, UNKNOWN = range(len(SPECIAL))

# fmt: off
_PROMPT = ("system", "user", "assistant", "answer", "briefly", ".", "?", ",")
_ASKING = ("what", "is", "the", "where", "there", "a", "how", "many", "digit", "digits", "color",
           "shape", "shapes", "in", "box", "read", "left", "right", "of", "above", "below")
# fmt: on
_ANSWERS = ("yes", "no", "10", "11", "12")
WORDS = (
    *SPECIAL,
    *_PROMPT,
    *_ASKING,
    *"0123456789",
    *scenes.COLORS,
    *scenes.SHAPES,
    *scenes.PLURALS.values(),
    *scenes.PLACES,
    *scenes.QUARTERS,
    *_ANSWERS,
)
INDEX = {word: index for index, word in enumerate(WORDS)}

# Before the image, between image and question, and between question and answer.
PREFIX = "<|im_start|> system answer briefly . <|im_end|> <|im_start|> user <|vision_start|>"
SUFFIX = "<|im_end|> <|im_start|> assistant"

CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
<|im_start|> system answer briefly . <|im_end|>{{ ' ' }}
{%- endif -%}
{%- for message in messages -%}
<|im_start|> {{ message['role'] }}{{ ' ' }}
{%- if message['content'] is string -%}
{{ message['content'] }}{{ ' ' }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>{{ ' ' }}
{%- elif part['type'] == 'text' -%}
{{ part['text'] }}{{ ' ' }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>{{ ' ' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|> assistant
{%- endif -%}
"""


def encode(text: str) -> list[int]:
    """Return the token ids of words separated by spaces.

    Raises:
        KeyError: a word is not in the vocabulary.
    """
    return [INDEX[word] for word in text.split()]


def _words() -> Tokenizer:
    inner = Tokenizer(models.WordLevel(INDEX, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[?.,]"), "isolated")]
    )
    inner.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    return inner


def tokenizer() -> PreTrainedTokenizerFast:
    """Build the Hugging Face tokenizer of this vocabulary, chat template included."""
    outer = PreTrainedTokenizerFast(
        tokenizer_object=_words(),
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(SPECIAL[1:7]),
    )
    outer.chat_template = CHAT_TEMPLATE
    return outer


def text_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a CLIP text model: a first and a last token, at most ``length`` in all."""
    inner = _words()
    inner.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|endoftext|>",
        special_tokens=[("<|im_start|>", START), ("<|endoftext|>", PAD)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|endoftext|>",
        padding_side="right",
        model_max_length=length,
        clean_up_tokenization_spaces=False,
    )
