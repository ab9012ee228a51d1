"""A byte-level tokenizer, which records its inputs."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


class ByteTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """One token for each byte, after the special tokens, whose ids are 0, 1 and so on."""

    def __init__(self, *special: str) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
        plain = Tokenizer(models.BPE(vocabulary, []))
        plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        plain.decoder = decoders.ByteLevel()
        plain.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        super().__init__(tokenizer_object=plain, pad_token=special[0])
        self.read: list[str] = []

    def __call__(self, text: str, **options: Any) -> Any:
        self.read.append(text)
        return super().__call__(text, **options)
