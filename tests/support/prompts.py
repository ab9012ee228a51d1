"""A byte-level tokenizer, which loses nothing of a text."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
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

    def whole_text(self, ids: Tensor) -> str:
        """The text of a prompt ``(1, Q)``, special tokens included."""
        (text,) = self.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)
