"""`tangovlm bench flops`: FLOPs of a whole model, by the papers' formula and by PyTorch's counter.

The counter runs the stock model on the meta device, which has shapes but no values. It agrees exactly with twice the
formula, which counts multiply-accumulates of two FLOPs each. Both use the width of keys and values under grouped-query
attention, and count attention over all pairs of tokens, without halving it for causality.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tangovlm.budget import count, validate_retention
from tangovlm.machine.flops import prefill_flops
from tangovlm.models.common.transformers_compat import Arg
from tangovlm.report.provenance import machine

from .tables import Column, giga, number, text
from .ttft.models import LlavaOnevision, check

RETENTIONS = (1.0, 0.2, 0.15, 0.1)
KEYS = ("model", "frames", "retention")
"""The entries that identify a row: one with the same entries replaces another."""
COLUMNS = (
    Column("retention", text("retention")),
    Column("tokens", number("tokens", 0)),
    Column("formula GMAC", giga("formula_macs")),
    Column("counted GFLOP", giga("counted_flops")),
    Column("counted / formula", number("ratio", 3)),
    Column("tower GFLOP", giga("tower_flops")),
    Column("projector GFLOP", giga("projector_flops")),
    Column("times fewer (model)", number("saving", 2)),
    Column("times fewer (all)", number("saving_with_tower", 2)),
)


@dataclass(frozen=True)
class FlopsRow:
    """Prefill of the visual tokens of one video, without the text of the prompt and the output head.

    Parameters
    ----------
    formula_macs: `tangovlm.machine.flops.prefill_flops`, with grouped keys and values.
    counted_flops: of the language model, by `torch.utils.flop_counter`. ratio: over formula_macs.
    tower_flops, projector_flops: counted; independent of the retention.
    saving: counted_flops without pruning over those of this row. saving_with_tower: the same with tower and projector.
    """

    model: str
    frames: int
    retention: float
    tokens: int
    formula_macs: int
    counted_flops: int
    ratio: float
    tower_flops: int
    projector_flops: int
    saving: float
    saving_with_tower: float
    versions: dict[str, str]


def run(
    *,
    size: str = "7b",
    frames: int = 32,
    retentions: Sequence[float] = RETENTIONS,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Count the FLOPs of LLaVA-OneVision on one video and yield a row per retention.

    Raises
    ------
    InputError: an unknown size, or a retention outside (0, 1].
    """
    check(size, ())
    for retention in retentions:
        validate_retention(retention)
    device = torch.device("meta")
    progress(f"LLaVA-OneVision {size}, {frames} frames")
    host = LlavaOnevision(size, device, torch.bfloat16)
    whole, projector = encoder_flops(host, frames)
    all_tokens = host.visual_tokens(frames)
    unpruned = model_flops(host, all_tokens)
    for retention in retentions:
        tokens = count(retention, all_tokens)
        counted = model_flops(host, tokens)
        macs = formula_macs(host, tokens)
        row = FlopsRow(
            model=f"llava-onevision {size}",
            frames=frames,
            retention=retention,
            tokens=tokens,
            formula_macs=macs,
            counted_flops=counted,
            ratio=counted / macs,
            tower_flops=whole - projector,
            projector_flops=projector,
            saving=unpruned / counted,
            saving_with_tower=(whole + unpruned) / (whole + counted),
            versions=machine(device)["versions"],
        )
        yield asdict(row)


def formula_macs(host: LlavaOnevision, tokens: int) -> int:
    """Multiply-accumulates of a prefill by the papers' formula."""
    config = host.model.config.text_config
    return prefill_flops(
        [tokens] * config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
    )


@torch.no_grad()
def model_flops(host: LlavaOnevision, tokens: int) -> int:
    """FLOPs of the language model for a number of tokens, by PyTorch's counter."""
    text_model = host.model.model.language_model
    width = host.model.config.text_config.hidden_size
    inputs = torch.empty(1, tokens, width, device=host.device, dtype=host.model.dtype)
    with FlopCounterMode(display=False) as counter:
        # A mask per layer type is used unchanged; the model would read values to build one, and there are none.
        text_model(**{Arg.EMBEDS: inputs, Arg.MASK: {"full_attention": None}, Arg.USE_CACHE: False})
    total: int = counter.get_total_flops()
    return total


@torch.no_grad()
def encoder_flops(host: LlavaOnevision, frames: int) -> tuple[int, int]:
    """FLOPs from pixels to features, and the part of the projector."""
    side = host.frame_side
    pixels = torch.empty(1, frames, 3, side, side, device=host.device, dtype=host.model.dtype)
    config = host.model.config
    with FlopCounterMode(display=False) as counter:
        host.model.get_video_features(
            pixels,
            **{name: getattr(config, name) for name in (Arg.FEATURE_LAYER, Arg.FEATURE_STRATEGY)},
        )
    modules = counter.get_flop_counts()
    projector = type(host.model.model.multi_modal_projector).__name__
    return counter.get_total_flops(), sum(modules[projector].values())
