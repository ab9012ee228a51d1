"""The benchmark `tangoworld`: fixed sets of questions about clips that no training has used."""

from .design import NAME, OFFICIAL, TRAINING_SEEDS, VERSIONS, Benchmark, benchmark
from .questions import (
    ClipQuestions,
    NumberedQuestion,
    digest,
    draw_clip,
    draw_questions,
    fingerprint,
    load_questions,
    to_json_lines,
)
from .rendering import RenderedClip, render_clip

__all__ = [
    "NAME",
    "OFFICIAL",
    "TRAINING_SEEDS",
    "VERSIONS",
    "Benchmark",
    "ClipQuestions",
    "NumberedQuestion",
    "RenderedClip",
    "benchmark",
    "digest",
    "draw_clip",
    "draw_questions",
    "fingerprint",
    "load_questions",
    "render_clip",
    "to_json_lines",
]
