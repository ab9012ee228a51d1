"""How a served model prunes one video: the registered method, on signals that the family collects from vLLM's tower."""

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
from ..models.common.layout import Clip, Grid, Signals
from ..tokens import Selection, VideoTokens
from . import compat
from .options import ServeOptions
from .plugin import StartUp

with compat.internals():
    from vllm.distributed import get_tensor_model_parallel_world_size, get_tp_group, tensor_model_parallel_all_reduce
    from vllm.logger import init_logger
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

logger = init_logger(f"vllm.{__name__}")

LOG_SECONDS = 10.0
"""Between two lines of the log, as between vLLM's own statistics."""


def options_of(vllm_config: Any) -> ServeOptions | None:
    """How a model's videos are pruned; None for not at all.

    Raises
    ------
    ModelError: vLLM has a start-up hook of its own for the model, so that ours has checked nothing.
    """
    options = ServeOptions.of(vllm_config.model_config.hf_config)
    architecture = vllm_config.model_config.architecture
    if options is not None and MODELS_CONFIG_MAP.get(architecture) is not StartUp:
        raise compat.incompatible(f"has a start-up hook of its own for {architecture}")
    return options


class Pruning:
    """A method in a served model.

    Parameters
    ----------
    family: bound to vLLM's model.

    Raises
    ------
    ModelError: the family cannot give a signal that the method needs.
    """

    def __init__(self, family: Family, options: ServeOptions) -> None:
        self.family = family
        self.options = options
        self.needs, self.kind = options.signals(family)
        self._log = _Log(options.method)

    def __call__(
        self, encode: Callable[[], Tensor], grid: Grid, retention: float, timestamps: Tensor | None
    ) -> tuple[Selection, Tensor]:
        """Encode a video and choose.

        Parameters
        ----------
        encode: runs the stock tower and gives the features ``(T * H * W, D)``.
        timestamps: ``(T,)`` seconds, or None.

        Returns
        -------
        The selection and all features.
        """
        with self.family.observe(self.needs, self.kind) as signals:
            features = encode()
        clock = Stopwatch(features.device, ("prune",))
        with clock.stage("prune"):
            selection = _agreed(self._choose(features, grid, retention, signals, timestamps))
        self._log.add(grid.tokens, selection.indices.numel(), clock.totals_ms["prune"])
        return selection, features

    def _choose(
        self, features: Tensor, grid: Grid, retention: float, signals: Signals, timestamps: Tensor | None
    ) -> Selection:
        """What the method chooses; where it fails, as many tokens, so that one video does not end the server."""
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
        return _spread(features, grid, retention)


def _spread(features: Tensor, grid: Grid, retention: float) -> Selection:
    """As many tokens, chosen without looking at them."""
    shape = VideoTokens(torch.zeros(*grid, 1))
    selection: Selection = build.method("uniform", retention=retention)(shape)
    indices = selection.indices.to(features.device)
    return replace(selection, indices=indices, features=features[indices])


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of what tensor-parallel ranks computed from their equal shares of the heads."""
    ranks = get_tensor_model_parallel_world_size()
    if ranks == 1:
        return values
    mean: Tensor = tensor_model_parallel_all_reduce(values.contiguous()) / ranks
    return mean


def _agreed(selection: Selection) -> Selection:
    """The selection of the first tensor-parallel rank: ranks whose features differ in a bit must not part ways."""
    if get_tensor_model_parallel_world_size() == 1:
        return selection
    group = get_tp_group()
    indices = group.broadcast(selection.indices.contiguous(), src=0)
    features = group.broadcast(selection.features.contiguous(), src=0)
    return replace(selection, indices=indices, features=features)


class _Log:
    """Counts what was pruned and says so now and then, on the first tensor-parallel rank."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._begin(-LOG_SECONDS)

    def _begin(self, now: float) -> None:
        self._since, self._videos, self._before, self._after, self._ms = now, 0, 0, 0, 0.0

    def add(self, before: int, after: int, ms: float) -> None:
        """A video; the first is told of at once."""
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
        self._begin(now)
