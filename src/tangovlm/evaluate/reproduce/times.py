"""Times, tokens and memory of questions, as the paper's profile has them."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..harness.records import read
from ..harness.requests import Answered

_ON_DEVICE = ("encode", "prune", "prefill", "decode_tokens")
_STAGES = ("decode", *_ON_DEVICE)
_FOR_A_VIDEO = ("decode", "encode", "prune")
"""Stages that one question about a video takes for all others."""


def means(answers: Sequence[Answered], tower_ms: float | None = None) -> dict[str, Any]:
    """Figures of questions.

    Parameters
    ----------
    answers: at least one. Stages that a video takes once are means over the questions that took them.
    tower_ms: of the vision encoder for all questions together; None where it was not told from what follows it.

    Returns
    -------
    tokens_before, tokens_after: visual tokens of a question, and those that enter the language model.
    gpu_runtime_s: of all stages but `decode_ms`, which is the decoding of a video file.
    vit_ms, other_ms: the vision encoder, None without `tower_ms`; and what comes between it and the language model
    (projector, pooling, signals, pruning), with the encoder without `tower_ms`.
    prefill_ms, ttft_ms: reading the prompt to the first word; the sum from the pixels to it.
    decode_tokens_per_s: words of an answer after the first; None where no answer has a second one.
    peak_memory_gb: see `Answered.peak_bytes`.
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


def of_records(folder: Path) -> dict[str, Any]:
    """Figures of a folder of records and of those in it, with the name of the "device"; empty without any."""
    contents = [read(each) for each in sorted({path.parent for path in folder.rglob("records-*.jsonl")})]
    answers = [record.answered for content in contents for record in content.records.values()]
    if not answers:
        return {}
    devices = dict.fromkeys(str(header.get("device")) for content in contents for header in content.headers)
    return means(answers) | {"device": " and ".join(devices)}
