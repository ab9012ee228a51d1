"""What a caller sees of an answer while it is generated: progress, and the text so far."""

from collections.abc import Callable

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from .frame_source import Progress

TextSoFar = Callable[[str], None]
"""Called with the whole text of an answer so far."""
_INCOMPLETE = "\ufffd"
"""What tokenizers decode the first tokens of a character of several tokens to."""


class TokenStreamer(BaseStreamer):  # type: ignore[misc] # transformers is not followed
    """Reports the tokens of `generate` for one prompt, as progress and as text; the first that it gets is the prompt.

    Parameters
    ----------
    report: called with the stage "generate", the number of tokens so far and `total`.
    total: the largest number of tokens.
    encodes_first: whether the video is encoded before the streamer gets the prompt, else before the first token.
    on_text: called after each token that changes the text of the answer with the whole text so far, so that the last
        text is the answer; not while the last character is incomplete. An exception that it raises ends `generate`.
    text_of: the text of token ids; None without `on_text`.
    """

    def __init__(
        self,
        report: Progress,
        total: int,
        encodes_first: bool,
        on_text: TextSoFar | None = None,
        text_of: Callable[[list[int]], str] | None = None,
    ) -> None:
        self._report = report
        self._total = total
        self._encoded_at = 1 if encodes_first else 2
        self._calls = 0
        self._on_text, self._text_of = on_text, text_of
        self._ids: list[int] = []
        self._done = 0
        self._shown = ""

    def put(self, value: Tensor) -> None:
        self._calls += 1
        if self._calls == self._encoded_at:
            self._report("encode", 1, 1)
            self._report("generate", 0, self._total)
        if self._calls > 1:
            self._done += value.numel()
            self._report("generate", self._done, self._total)
            if self._on_text is not None:
                self._ids += value.flatten().tolist()
                self._show(is_last=False)

    def end(self) -> None:
        self._report("generate", self._total, self._total)
        self._show(is_last=True)

    def _show(self, is_last: bool) -> None:
        if self._on_text is None or self._text_of is None:
            return
        # All tokens are decoded each time: how a tokenizer writes a token may depend on those before it.
        text = self._text_of(self._ids)
        if text != self._shown and (is_last or not text.endswith(_INCOMPLETE)):
            self._shown = text
            self._on_text(text)
