"""Prunes one video in a model of vLLM: a registered method, on signals that hooks collect in vLLM's vision encoder."""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..budget import count
from ..errors import TangoError
from ..machine.memory import memory_guard
from ..machine.stopwatch import Stopwatch
from ..methods import build
from ..models.common.family import Family
from ..models.common.layout import Clip, Grid
from ..models.common.signals import Signals
from ..tokens import Selection, VideoTokens
from . import compatibility
from .options import ServeOptions
from .plugin import ServedModelConfig

with compatibility.importing_vllm():
    from vllm.distributed import get_tensor_model_parallel_world_size, get_tp_group, tensor_model_parallel_all_reduce
    from vllm.logger import init_logger
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

logger = init_logger(f"vllm.{__name__}")

LOG_SECONDS = 10.0
"""Interval between two lines in the log, the same as that of vLLM's statistics."""


def pruning_options(vllm_config: Any) -> ServeOptions | None:
    """Options of pruning of a model; None if it does not prune.

    Raises
    ------
    ModelError: another configuration hook stands in the place of ours, so that the options were not checked.
    """
    options = ServeOptions.of(vllm_config.model_config.hf_config)
    architecture = vllm_config.model_config.architecture
    if options is not None and not issubclass(MODELS_CONFIG_MAP.get(architecture, object), ServedModelConfig):
        raise compatibility.incompatible_release(f"has another configuration hook for {architecture}")
    return options


class VideoPruner:
    """A method for the videos of a served model.

    Parameters
    ----------
    family: bound to the model of vLLM.

    Raises
    ------
    ModelError: the family does not provide a signal that the method needs.
    """

    def __init__(self, family: Family, options: ServeOptions) -> None:
        self.family = family
        self.options = options
        self.needs, self.kind = options.signals(family)
        self._log = _Log(options.method)

    def __call__(
        self, encode: Callable[[], Tensor], grid: Grid, retention: float, timestamps: Tensor | None
    ) -> tuple[Selection, Tensor]:
        """Encode a video and select tokens.

        Parameters
        ----------
        encode: runs the vision encoder of vLLM and returns the features ``(R, D)`` of the video.
        timestamps: ``(T,)`` seconds, or None.

        Returns
        -------
        The selection, and all features.
        """
        with self.family.signals.observe(self.needs, self.kind) as signals:
            features = encode()
        clock = Stopwatch(features.device, ("prune",))
        with clock.stage("prune"):
            selection = _broadcast(self._select(features, grid, retention, signals, timestamps))
        self._log.add(grid.tokens, selection.indices.numel(), clock.totals_ms["prune"])
        return selection, features

    def _select(
        self, features: Tensor, grid: Grid, retention: float, signals: Signals, timestamps: Tensor | None
    ) -> Selection:
        """The selection of the method; if it fails, as many evenly spaced tokens, as an error would end the server."""
        try:
            with memory_guard(features.device, f"pruning {grid.tokens} tokens", "send fewer frames"):
                tokens = self.family.video_tokens(features, Clip(grid, 0), signals, timestamps)
                selection = self.options.pruner(retention)(tokens)
            kept = selection.indices.numel()
            if kept == count(retention, grid.tokens):
                return selection
            reason = f"it keeps {kept} of {grid.tokens} tokens"
        except TangoError as error:
            reason = str(error)
        logger.warning("A video's tokens are spread evenly, as method %r failed: %s", self.options.method, reason)
        return _evenly_spaced(features[self.family.layout.grid_indices(grid)], grid, retention)


def _evenly_spaced(features: Tensor, grid: Grid, retention: float) -> Selection:
    """As many tokens, evenly spaced."""
    shape = VideoTokens(torch.zeros(*grid, 1))
    selection: Selection = build.method("uniform", retention=retention)(shape)
    indices = selection.indices.to(features.device)
    return replace(selection, indices=indices, features=features[indices])


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over tensor-parallel ranks, each of which computed `values` from an equal share of the heads."""
    ranks = get_tensor_model_parallel_world_size()
    if ranks == 1:
        return values
    mean: Tensor = tensor_model_parallel_all_reduce(values.contiguous()) / ranks
    return mean


def _broadcast(selection: Selection) -> Selection:
    """The selection of the first tensor-parallel rank, for all ranks: their features may differ by rounding."""
    if get_tensor_model_parallel_world_size() == 1:
        return selection
    group = get_tp_group()
    indices = group.broadcast(selection.indices.contiguous(), src=0)
    features = group.broadcast(selection.features.contiguous(), src=0)
    return replace(selection, indices=indices, features=features)


class _Log:
    """Counts pruned videos, and logs the counts every `LOG_SECONDS` on the first tensor-parallel rank."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._reset(-LOG_SECONDS)

    def _reset(self, now: float) -> None:
        self._since, self._videos, self._before, self._after, self._ms = now, 0, 0, 0, 0.0

    def add(self, before: int, after: int, ms: float) -> None:
        """Count a video; the first one is logged at once."""
        self._videos += 1
        self._before += before
        self._after += after
        self._ms += ms
        now = perf_counter()
        if now - self._since < LOG_SECONDS or get_tp_group().rank_in_group != 0:
            return
        logger.info(
            "%s: %d videos, %d of %d visual tokens kept (%.1f %%), pruning took %.1f ms a video",
            self._method,
            self._videos,
            self._after,
            self._before,
            100 * self._after / self._before,
            self._ms / self._videos,
        )
        self._reset(now)
