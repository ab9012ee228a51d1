"""The text of an answer about a stream, with what was held of the stream."""

from typing import Any


class StreamAnswer(str):
    """The text of an answer, with counts, times and notes.

    Attributes
    ----------
    frames: frames of the stream so far; `encoded_frames` of them went through the vision encoder.
    span_s: times of the first and the last frame in seconds.
    tokens_before: visual tokens of all frames.
    tokens_after: those that the answer is from.
    segments: parts of the stream that are held apart.
    reused_tokens: tokens at the beginning of the prompt that were not read again.
    method, retention: of the frames of a chunk, before what is held is reduced again.
    timings_ms: encode and prune (of frames that had not filled a chunk), prefill, decode_tokens.
    notes: fallbacks, and other facts that the user should know.
    model: name of the model.
    """

    frames: int
    encoded_frames: int
    span_s: tuple[float, float]
    tokens_before: int
    tokens_after: int
    segments: int
    reused_tokens: int
    method: str
    retention: float
    timings_ms: dict[str, float]
    notes: tuple[str, ...]
    model: str

    def as_dict(self) -> dict[str, Any]:
        """The answer as the CLI prints it in JSON."""
        return {
            "answer": str(self),
            "frames": self.frames,
            "encoded_frames": self.encoded_frames,
            "span_s": list(self.span_s),
            "tokens_before": self.tokens_before,
            "tokens_after": self.tokens_after,
            "segments": self.segments,
            "reused_tokens": self.reused_tokens,
            "method": self.method,
            "retention": self.retention,
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
            "model": self.model,
            "notes": list(self.notes),
        }
