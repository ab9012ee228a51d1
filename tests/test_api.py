"""The public face: what others rely on changes only together with this file."""

import inspect
from dataclasses import fields
from typing import Any

import typer

import tangovlm
from tangovlm.cli.app import app
from tangovlm.pipeline.load import VideoLLM
from tangovlm.video import decode

CLIP_OPTIONS = {
    "clips", "--model", "--frames", "--fps", "--max-frames", "--start", "--end", "--stream", "--seek", "--saliency",
    "--head-weights", "--output-dir", "--no-picture", "--json", "--device", "--dtype", "--chunk-frames",
    "--max-frame-pixels", "--help",
}  # fmt: skip
COMMANDS = {
    "app": {
        "--port", "--host", "--model", "--device", "--dtype", "--saliency", "--head-weights", "--max-frame-pixels",
        "--max-megabytes", "--max-minutes", "--max-megapixels", "--max-frames", "--max-new-tokens", "--help",
    },
    "bench prune": {
        "--method", "--shape", "--retention", "--video", "--dtype", "--reference", "--repeats", "--device", "--threads",
        "--out", "--json", "--help",
    },
    "bench scale": {
        "--shape", "--frames", "--batch", "--retention", "--video", "--dtype", "--repeats", "--device", "--threads",
        "--out", "--json", "--help",
    },
    "bench ttft": {
        "--size", "--model", "--frames", "--batch", "--retention", "--dtype", "--repeats", "--device", "--threads",
        "--out", "--json", "--help",
    },
    "bench profile": {
        "clips", "--model", "--method", "--retention", "--frames", "--question", "--words", "--repeats", "--results",
        "--device", "--threads", "--out", "--csv", "--markdown", "--picture", "--json", "--help",
    },
    "bench decode": {"files", "--frames", "--repeats", "--out", "--json", "--help"},
    "bench questions": {
        "--model", "--method", "--retention", "--frames", "--dtype", "--repeats", "--device", "--threads", "--out",
        "--json", "--help",
    },
    "bench first-token": {
        "files", "--model", "--method", "--retention", "--frames", "--dtype", "--repeats", "--device", "--threads",
        "--out", "--json", "--help",
    },
    "bench stream": {
        "--model", "--method", "--retention", "--max-tokens", "--half-life", "--minutes", "--clips", "--device",
        "--threads", "--out", "--json", "--help",
    },
    "bench batch": {
        "--model", "--method", "--retention", "--rows", "--clips", "--repeats", "--device", "--threads", "--out",
        "--json", "--help",
    },
    "bench flops": {"--size", "--frames", "--retention", "--out", "--json", "--help"},
    "bench serve": {"--frames", "--concurrency", "--requests", "--retention", "--out", "--json", "--help"},
    "ask": {
        "--adaptive", "--chat", "--question", "--fps", "--max-frames", "--start", "--end", "--stream", "--seek",
        "video", "question", "--model", "--method", "--retention", "--frames", "--compare", "--report", "--json",
        "--device", "--dtype", "--head-weights", "--saliency", "--sink-tokens", "--positions", "--chunk-frames",
        "--max-frame-pixels", "--newlines", "--encode", "--max-new-tokens", "--dry-run", "--report-retentions",
        "--max-tokens", "--half-life", "--follow", "--help",
    },
    "batch": {
        "--adaptive", "--positions", "--encode", "--fps", "--max-frames", "--start", "--end", "--stream", "--seek",
        "source", "target", "extra", "--model", "--method", "--retention", "--frames", "--max-new-tokens",
        "--saliency", "--head-weights", "--device", "--dtype", "--video-root", "--limit", "--retry-failed", "--engine",
        "--format", "--allow-failures",
        "--concurrency", "--ray", "--workers", "--server", "--api-key", "--media", "--give-up", "--json", "--help",
    },
    "demo": {"--output-dir", "--json", "--help"},
    "doctor": {"--family", "--json", "--help"},
    "eval": {
        "--adaptive", "--benchmark", "--picture", "--reuse", "--seed",
        "--method", "--retention", "--param", "--table", "--limit", "--kinds", "--look", "--model", "--output",
        "--threads", "--device", "--json", "--help",
    },
    **{
        f"inspect {name}": CLIP_OPTIONS | own
        for name, own in {
            "attention": {"--top", "--show", "--sink-tokens"},
            "distribution": {"--share", "--drawn"},
            "norms": {"--block", "--sink-tokens", "--drawn"},
            "clusters": {"--method", "--retention", "--show", "--drawn"},
            "compare": {"--method", "--retention", "--show"},
        }.items()
    },
    "inspect decay": {
        "--base-time", "--base-space", "--channels", "--output-dir", "--no-picture", "--json", "--help",
    },
    "inspect sinks": {
        "--fps", "--max-frames", "--start", "--end", "--stream", "--seek",
        "clips", "--model", "--threshold", "--top", "--frames", "--saliency", "--head-weights", "--out", "--json",
        "--device", "--dtype", "--chunk-frames", "--max-frame-pixels", "--help",
    },
    "methods": {"--json", "--help"},
    "models": {"--explain", "--json", "--help"},
    "reproduce": {
        "table", "--model", "--harness", "--gpus", "--limit", "--rows", "--benchmarks", "--output", "--paper",
        "--dry-run", "--yes", "--json", "--help",
    },
    "serve": {
        "--positions",
        "arguments", "--method", "--retention", "--saliency", "--head-weights", "--frames", "--fps",
        "--max-frames", "--print", "--help",
    },
    "vlmeval": {
        "extra", "--data", "--model", "--method", "--retention", "--frames", "--param", "--work-dir", "--limit",
        "--reuse", "--data-dir", "--max-new-tokens", "--vlmevalkit", "--untested", "--json", "--help",
    },
}  # fmt: skip


def surface() -> dict[str, set[str]]:
    """Command to its arguments and options, long forms."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root)

    def names(command: Any) -> set[str]:
        parameters = command.get_params(context)
        return {parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name for parameter in parameters}

    found = {}
    for name, command in root.commands.items():
        parts = getattr(command, "commands", None)
        # A group is no command of its own; its parts are.
        found |= {name: names(command)} if parts is None else {f"{name} {part}": names(parts[part]) for part in parts}
    return found


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_names() -> None:
    assert sorted(tangovlm.__all__) == [
        "Milonga", "Report", "Selection", "Tango", "TangoError", "VideoTokens", "__version__", "ask", "attach", "load",
        "method", "methods", "stream",
    ]  # fmt: skip
    assert all(hasattr(tangovlm, name) for name in tangovlm.__all__)
    assert issubclass(tangovlm.TangoError, ValueError)


def test_functions() -> None:
    assert parameters(tangovlm.attach)[:2] == ["model", "pruner"]
    assert {"timestamps", "saliency", "head_weights", "record", "newlines"} <= set(parameters(tangovlm.attach))
    assert parameters(tangovlm.ask)[:2] == ["video", "question"]
    assert {"model", "method", "retention", "frames", "max_new_tokens", "progress", "record"} <= set(
        parameters(tangovlm.ask)
    )
    assert {"model", "device", "dtype", "saliency", "head_weights"} <= set(parameters(tangovlm.load))
    assert {"device", "dtype", "saliency", "head_weights"} <= set(parameters(tangovlm.ask))
    for function in (tangovlm.ask, VideoLLM.encode, decode):
        assert {"frames", "fps", "max_frames", "start_s", "end_s", "stream", "seek"} <= set(parameters(function))


def test_containers() -> None:
    names = {cls.__name__: [field.name for field in fields(cls)] for cls in (tangovlm.VideoTokens, tangovlm.Selection)}
    assert names == {
        "VideoTokens": ["features", "saliency", "timestamps", "frame_features", "keys", "sink_tokens"],
        "Selection": ["indices", "features", "sources", "segments", "notes"],
    }


def test_tango() -> None:
    wanted = {
        "retention", "exact", "placement", "diversity", "st_rope", "timestamps", "merge", "expansion", "context_ratio",
        "neighbors", "base_time", "base_space", "rope_sections", "segmentation", "segment_threshold",
        "static_threshold", "anchor_weight", "sink_tokens", "counts", "equivalent_retention", "rope_pairs",
    }  # fmt: skip
    assert {field.name for field in fields(tangovlm.Tango) if field.init} == wanted
    assert tangovlm.methods()["tango"] is tangovlm.Tango
    assert isinstance(tangovlm.method("tango", retention=0.15), tangovlm.Tango)
    release = tangovlm.Tango.release(retention=0.2)
    assert (release.exact, release.placement, release.static_threshold) == (False, "release", 0.8)
    assert tangovlm.Tango.paper == "https://arxiv.org/abs/2604.09547"
    paper = tangovlm.Tango.paper(retention=0.2)
    assert (paper.retention, paper.anchor_weight, paper.rope_pairs) == (0.2, 0.0, "neighbors")
    assert tangovlm.methods()["visionzip"].release(retention=0.2).dominant_ratio == 54 / 64


def test_command_line() -> None:
    assert surface() == COMMANDS
