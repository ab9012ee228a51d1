"""What a question about a video will cost, from the frames and the config of the model: no weights are needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, ModelError
from ..inputs.prompting import check_question
from ..methods.build import Method, Plan, plan
from ..models.common.family import Family
from ..models.common.transformers_compat import Arg
from ..session.encoding.newlines import check_newlines
from ..session.in_llm.layer_access import check_text_model
from ..session.lengths.context import check_lengths, context_length
from ..session.lengths.kept import Range, kept_of
from ..session.placeholders import check_placeholders, encoder_clips
from ..video import Frames, FrameSampling
from ..video.input import VideoSource
from .arguments import resolve_method
from .cost import Cost, cost_of
from .frame_source import Progress
from .generation import check_source, decode_for
from .load import VideoLLM, load


@dataclass(frozen=True, eq=False)
class DryRun:
    """What a question will cost; ``str()`` returns a readable summary.

    Parameters
    ----------
    model, method: their names.
    frames: the decoded frames, with their times and notes.
    retention: of the method.
    before, after: without and with the method.
    first_pass_groups: see `tangovlm.tokens.VideoReport`.
    context: positions of the model's context; None if unknown.
    refusal: why the run will be refused before the video is encoded; None if it will not.
    dtype: of the weights and the cache.
    """

    model: str
    method: str
    frames: Frames
    retention: float
    before: Cost
    after: Cost
    first_pass_groups: tuple[int, ...]
    context: int | None
    refusal: str | None
    dtype: torch.dtype

    def as_dict(self) -> dict[str, Any]:
        """The counts as the CLI prints them in JSON; where they depend on the content, the most and the least."""
        after = self.after
        open_counts = {
            f"{name}_least": getattr(after, name).least
            for name in ("tokens", "newlines", "prompt_tokens")
            if getattr(after, name).least < getattr(after, name).most
        }
        return {
            "dry_run": True,
            "model": self.model,
            "method": self.method,
            "retention": self.retention,
            "frames": len(self.frames.pixels),
            "frame_times_s": [round(seconds, 6) for seconds in self.frames.timestamps_s.tolist()],
            "excerpt_s": None if self.frames.excerpt_s is None else list(self.frames.excerpt_s),
            "tokens_before": self.before.tokens.most,
            "tokens_after": after.tokens.most,
            "newlines_before": self.before.newlines.most,
            "newlines_after": after.newlines.most,
            "tokens_per_layer": list(after.tokens_per_layer),
            "first_pass_groups": list(self.first_pass_groups),
            "prompt_tokens_before": self.before.prompt_tokens.most,
            "prompt_tokens_after": after.prompt_tokens.most,
            **open_counts,
            "context": self.context,
            "fits": self.refusal is None,
            "refusal": self.refusal,
            "flops_before": self.before.flops,
            "flops_after": after.flops,
            "kv_bytes_before": self.before.kv_bytes,
            "kv_bytes_after": after.kv_bytes,
            "dtype": str(self.dtype).removeprefix("torch."),
            "notes": list(self.frames.notes),
        }

    def __str__(self) -> str:
        before, after = self.before, self.after
        times = ", ".join(f"{seconds:.2f}" for seconds in self.frames.timestamps_s.tolist())
        lines = [
            f"model: {self.model}, method: {self.method}, retention {self.retention:g}",
            f"frames: {len(self.frames.pixels)}, at {times} s",
            f"visual tokens: {before.tokens.most} -> {_words(after.tokens)}",
        ]
        if before.newlines.most:
            lines.append(f"newlines: {before.newlines.most} -> {_words(after.newlines)}")
        if len(set(after.tokens_per_layer)) > 1:
            lines.append(f"visual tokens in each layer: {', '.join(map(str, after.tokens_per_layer))}")
        if self.first_pass_groups:
            groups = self.first_pass_groups
            lines.append(f"first pass: {sum(groups)} tokens in {len(groups)} groups")
        context = "unknown" if self.context is None else self.context
        lines += [
            f"prompt: {before.prompt_tokens.most} -> {_words(after.prompt_tokens)} tokens, context {context}",
            f"prefill of the language model: {before.flops / 1e9:.2f} -> {after.flops / 1e9:.2f} GFLOP",
            f"KV cache: {before.kv_bytes / 1e6:.2f} -> {after.kv_bytes / 1e6:.2f} MB in {self.as_dict()['dtype']}",
        ]
        lines += [f"note: {note}" for note in self.frames.notes]
        return "\n".join([*lines, *([] if self.refusal is None else [f"will be refused: {self.refusal}"])])


def dry_run(
    video: VideoSource | Frames,
    question: str,
    *,
    model: str | Path | VideoLLM | None = None,
    method: str | Method = "tango",
    retention: float | None = None,
    frames: int | FrameSampling | None = None,
    progress: Progress | None = None,
    positions: str | None = None,
    max_frame_pixels: int | None = None,
    newlines: str = "kept",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> DryRun:
    """Count what `tangovlm.ask` will read and compute, without weights: the frames are decoded, nothing is encoded.

    FLOPs and bytes are those of the language model, see `tangovlm.pipeline.cost`.

    Of a checkpoint, the config, the preprocessor config and the tokenizer are read.

    Parameters
    ----------
    video, question, method, retention, frames, positions, max_frame_pixels, newlines: see `tangovlm.ask`; for a part
        of a video, give a `tangovlm.video.FrameSampling` as `frames`.
    model: see `tangovlm.ask`; also the result of ``load(..., weights=False)``.
    progress: called with the stage "decode", the number of frames decoded, and their total.
    device, dtype: which the run will have; they decide the bytes of a number.

    Raises
    ------
    TangoError: see `tangovlm.ask`; a prompt beyond the context is no error, but `DryRun.refusal`.

    Examples
    --------
    >>> pixels = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    >>> clip = Frames(pixels, torch.arange(8, dtype=torch.float64), fps=1.0, duration_s=8.0)
    >>> run = dry_run(clip, "What happens?", retention=0.1)
    >>> run.before.tokens.most, run.after.tokens.most, run.context
    (512, 51, 8192)
    """
    llm = model if isinstance(model, VideoLLM) else load_without_weights(model, device=device, dtype=dtype)
    options: dict[str, Any] = {"frames": frames, "progress": progress, "positions": positions, "newlines": newlines}
    return dry_runs(video, [question], llm.limited(max_frame_pixels), resolve_method(method, retention), **options)[0]


def load_without_weights(model: str | Path | None, **options: Any) -> VideoLLM:
    """`tangovlm.load` of the config and the tokenizer; `options` are its own."""
    try:
        return load(model, weights=False, **options)
    except ModelError as error:
        raise ModelError(f"{error} (a dry run reads the config, the preprocessor config and the tokenizer)") from error


def dry_runs(
    video: VideoSource | Frames,
    questions: Sequence[str],
    llm: VideoLLM,
    pruner: Method,
    *,
    frames: int | FrameSampling | None = None,
    progress: Progress | None = None,
    positions: str | None = None,
    newlines: str = "kept",
) -> list[DryRun]:
    """`dry_run` for several questions, with one decoding."""
    for question in questions:
        check_question(question)
    sampling = FrameSampling.of(frames)
    check_source(video, sampling)
    family, layers = llm.family, len(llm.family.decoder.layers)  # type: ignore[arg-type] # is a list of modules
    planned = plan(pruner, layers)
    _check(family, pruner, planned, positions, newlines)
    sampling = sampling.or_frames(llm.default_frames)
    report = progress or (lambda _stage, _done, _total: None)
    clip = video if isinstance(video, Frames) else decode_for(llm, video, sampling, report)
    # On the device of the frames: the model may have no weights.
    pixels = family.prompt.pixels(clip.pixels, llm.config, resized=not isinstance(video, Frames))
    return [_dry_run(llm, planned, clip, pixels, question, newlines) for question in questions]


def _dry_run(llm: VideoLLM, planned: Plan, clip: Frames, pixels: torch.Tensor, question: str, newlines: str) -> DryRun:
    family = llm.family
    times_s, duration_s = clip.prompt_times_s, clip.prompt_duration_s
    inputs = family.prompt.inputs(llm.tokenizer, llm.template, pixels, question, times_s, duration_s)
    ids, clips = inputs[Arg.IDS], encoder_clips(family, inputs, times_s)
    check_placeholders(family, ids, clips)
    (grid,) = (each.grid for each in clips)
    refusal: str | None = None
    try:
        check_lengths(family, planned, newlines, ids, inputs[Arg.MASK], clips)
    except InputError as error:
        refusal = str(error)
    text = ids.shape[1] - family.layout.feature_count(grid)
    kept = kept_of(planned, newlines, family.layout, grid)
    stock = Plan(planned.name, 1.0, None, None, (), ())
    number_bytes = llm.model.dtype.itemsize
    return DryRun(
        model=llm.name,
        method=planned.name,
        frames=clip,
        retention=planned.retention_for(grid.tokens),
        before=cost_of(family, stock, kept_of(stock, newlines, family.layout, grid), grid, text, number_bytes),
        after=cost_of(family, planned, kept, grid, text, number_bytes),
        first_pass_groups=kept.groups,
        context=context_length(family),
        refusal=refusal,
        dtype=llm.model.dtype,
    )


def _check(family: Family, pruner: Method, planned: Plan, positions: str | None, newlines: str) -> None:
    """Raise the errors of `attach` that depend on the model's structure alone."""
    before = planned.before
    check_newlines(newlines, before, planned.inside)
    family.resolve_positions(positions, getattr(before, "positions", "contiguous"))
    needs = frozenset() if before is None else family.signals.readable(before)
    family.signals.check(pruner.name, needs, family.signals.resolve_saliency(getattr(pruner, "signal", None)))
    if planned.inside is not None:
        check_text_model(family.decoder)


def _words(count: Range) -> str:
    """Such as "51", or "at least 1, at most 51"."""
    return str(count.most) if count.least == count.most else f"at least {count.least}, at most {count.most}"
