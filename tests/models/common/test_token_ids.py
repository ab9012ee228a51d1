"""Prompts with long runs of placeholders have the ids that the tokenizer gives the whole text."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tangovlm.models.common.prompt_format import token_ids
from tests.support.prompts import ByteTokenizer

VIDEO = "<video>"
LETTERS = ["<unk>", "<s>", *"▁abAB<>.\n"]


def pieces(**given: Any) -> PreTrainedTokenizerFast:
    """Letters with a merge and with a mark for spaces, in which the text before a piece matters."""
    vocabulary = {word: number for number, word in enumerate([*LETTERS, "▁a", "ab", "<video"])}
    plain = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("a", "b")], unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=given.pop("scheme", "first"))
    plain.normalizer = given.pop("normalizer", None)
    plain.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", bos_token="<s>")
    if given.pop("added", True):
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(VIDEO, special=True, **given)]})
    return tokenizer


def ordinary() -> PreTrainedTokenizerFast:
    """The placeholder is a piece like all others, and two of them are another one."""
    words = [("<unk>", 0.0), *((letter, -3.0) for letter in "abAB<>.\n "), (VIDEO, -1.0), (2 * VIDEO, -1.5)]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(words, 0, False)), unk_token="<unk>")


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "first": pieces,
    "always": lambda: pieces(scheme="always"),
    "never": lambda: pieces(scheme="never"),
    "prepend": lambda: pieces(scheme="never", normalizer=normalizers.Prepend("▁")),
    "lowercase": lambda: pieces(normalizer=normalizers.Lowercase(), normalized=True),
    "strips": lambda: pieces(lstrip=True, rstrip=True),
    "single words": lambda: pieces(single_word=True),
    "no added token": lambda: pieces(added=False),
    "ordinary piece": ordinary,
    "pairs": lambda: ByteTokenizer("<pad>", 2 * VIDEO, VIDEO),
    "bytes": lambda: ByteTokenizer("<pad>", VIDEO),
}
BUILT = {name: build() for name, build in TOKENIZERS.items()}


@pytest.mark.parametrize("name", BUILT)
@settings(max_examples=40)
@given(parts=st.lists(st.tuples(st.text("abAB<> .\n", max_size=6), st.integers(0, 40)), min_size=1, max_size=4))
def test_ids_are_those_of_the_whole_text(name: str, parts: list[tuple[str, int]]) -> None:
    tokenizer = BUILT[name]
    text = "".join(words + count * VIDEO for words, count in parts)
    placeholder = tokenizer.convert_tokens_to_ids(VIDEO)
    assert token_ids(tokenizer, text, placeholder) == tokenizer(text).input_ids


def test_a_first_token_that_a_template_wrote_is_not_repeated() -> None:
    tokenizer = BUILT["first"]
    video = tokenizer.convert_tokens_to_ids(VIDEO)
    assert token_ids(tokenizer, "<s>" + 3 * VIDEO + "ab", video)[:4] == [1, video, video, video]


def test_a_run_is_read_as_one_token() -> None:
    tokenizer, read = BUILT["first"], []

    class Counting:
        added_tokens_decoder = tokenizer.added_tokens_decoder
        convert_ids_to_tokens = staticmethod(tokenizer.convert_ids_to_tokens)

        def __call__(self, text: str) -> Any:
            read.append(text)
            return tokenizer(text)

    video = tokenizer.convert_tokens_to_ids(VIDEO)
    assert token_ids(Counting(), 5000 * VIDEO + "ab", video).count(video) == 5000
    assert read == [VIDEO + "ab"]
