"""Keywords of questions, as MMTok's authors filter them."""

import pytest

from autotc.keywords import keyword_tokens, keywords
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "mmtok_text"))
def test_mmtok_text_parity(case: Case) -> None:
    for question, theirs in zip(case.texts("in_question"), case.texts("out_filtered"), strict=True):
        assert keywords(question) == theirs


def test_common_words_and_stock_sentences_go() -> None:
    assert keywords("Is THERE a red cup on the table, having been used by whom?") == (
        "THERE red cup on table having used whom"
    )
    stock = "Answer with the option's letter from the given choices directly."
    assert keywords(f"Which of these doesn't fit?\n{stock}") == "of these doesn t fit"
    assert keywords("Who are they?") == "Who are they?"


def test_keyword_tokens_are_those_of_the_question() -> None:
    pieces = ["USER", ":", " What", " col", "our", " is", " the", " cup", "?", " ASSIST", "ANT", ":"]

    def decode(ids: list[int]) -> str:
        return "".join(pieces[i] for i in ids)

    ids = list(range(len(pieces)))
    chosen = keyword_tokens(ids, "What colour is the cup?", decode)
    assert [pieces[i] for i in ids if chosen[i]] == [" col", "our", " cup"]
    alone = keyword_tokens(ids, "is the", decode)  # no keyword: the whole question
    assert [pieces[i] for i in ids if alone[i]] == [" is", " the"]
    assert all(keyword_tokens(ids, "another one", decode)) and all(keyword_tokens(ids, "", decode))
