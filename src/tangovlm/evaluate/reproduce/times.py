"""Times, tokens and memory of answered questions, with the figures of the paper's profile."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..harness.records import read
from ..harness.requests import Completion

_ON_DEVICE = ("encode", "prune", "prefill", "decode_tokens")
_STAGES = ("decode", *_ON_DEVICE)
_FOR_A_VIDEO = ("decode", "encode", "prune")
"""Stages that run once per video, for the first question about it."""


def means(answers: Sequence[Completion], tower_ms: float | None = None) -> dict[str, Any]:
    """Mean figures per question.

    Parameters
    ----------
    answers: at least one. Stages that run once per video are averaged over the questions that ran them.
    tower_ms: time of the vision encoder, summed over all questions; None if it was not measured separately.

    Returns
    -------
    tokens_before, tokens_after: visual tokens of a question, and those that enter the language model.
    gpu_runtime_s: total of all stages except decoding.
    decode_ms: decoding of the video file.
    vit_ms: the vision encoder; None without `tower_ms`.
    other_ms: the stages between encoder and language model (projector, pooling, signals, pruning); includes the encoder
        without `tower_ms`.
    prefill_ms: the prompt up to the first token.
    ttft_ms: time from pixels to the first token.
    decode_tokens_per_s: tokens after the first one; None if no answer has more than one token.
    peak_memory_gb: see `Completion.peak_bytes`.
    """
    total = {stage: sum(each.times_ms.get(stage, 0.0) for each in answers) for stage in _STAGES}
    videos = sum(not each.shared for each in answers) or 1
    each = {stage: ms / (videos if stage in _FOR_A_VIDEO else len(answers)) for stage, ms in total.items()}
    vit = None if tower_ms is None else tower_ms / videos
    further = sum(max(0, answer.output_tokens - 1) for answer in answers)
    return {
        "tokens_before": statistics.fmean(answer.tokens_before for answer in answers),
        "tokens_after": statistics.fmean(answer.tokens_after for answer in answers),
        "gpu_runtime_s": sum(total[stage] for stage in _ON_DEVICE) / 1000,
        "peak_memory_gb": max(answer.peak_bytes for answer in answers) / 10**9,
        "decode_ms": each["decode"],
        "vit_ms": vit,
        "other_ms": each["encode"] + each["prune"] - (vit or 0.0),
        "prefill_ms": each["prefill"],
        "ttft_ms": each["encode"] + each["prune"] + each["prefill"],
        "decode_tokens_per_s": 1000 * further / total["decode_tokens"] if further and total["decode_tokens"] else None,
    }


def means_of_records(folder: Path) -> dict[str, Any]:
    """Mean figures of all records below a folder, and the name of the "device"; empty if there are no records."""
    contents = [read(each) for each in sorted({path.parent for path in folder.rglob("records-*.jsonl")})]
    answers = [record.completion for content in contents for record in content.records.values()]
    if not answers:
        return {}
    devices = dict.fromkeys(str(header.get("device")) for content in contents for header in content.headers)
    return means(answers) | {"device": " and ".join(devices)}
