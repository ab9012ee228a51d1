"""How a served model prunes one video: the registered method, on signals that the family collects from vLLM's tower."""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from .. import registry
from ..errors import TangoError
from ..families.base import Family
from ..families.call import Clip, Grid
from ..tokens import Selection, VideoTokens
from . import compat
from .options import ServeOptions

with compat.internals():
    from vllm.distributed import get_tensor_model_parallel_world_size, get_tp_group, tensor_model_parallel_all_reduce
    from vllm.logger import init_logger

logger = init_logger(f"vllm.{__name__}")

LOG_SECONDS = 10.0
"""Between two lines of the log, as between vLLM's own statistics."""


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
        pruner = options.pruner(options.retention)
        self.needs = pruner.needs
        self.kind = family.kind(options.saliency or getattr(pruner, "signal", None))
        family.check(pruner.name, self.needs, self.kind)
        self._log = _Log(options.method)

    def prepare(self) -> None:
        """Read weights that signals need; after those of the model, as the family looks there first.

        Raises
        ------
        ModelError: there are none.
        """
        self.family.prepare(self.needs, self.kind)

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
        start = perf_counter()
        try:
            tokens = self.family.video_tokens(features, Clip(grid, 0), signals, timestamps)
            selection = self.options.pruner(retention)(tokens)
        except TangoError as error:
            # An error here would end the server and with it all other requests.
            logger.warning("A video's tokens are spread evenly, as method %r failed: %s", self.options.method, error)
            selection = _spread(features, grid, retention)
        selection = _agreed(selection)
        self._log.add(grid.tokens, selection.indices.numel(), perf_counter() - start)
        return selection, features


def _spread(features: Tensor, grid: Grid, retention: float) -> Selection:
    """As many tokens, chosen without looking at them."""
    shape = VideoTokens(torch.zeros(*grid, 1))
    selection: Selection = registry.method("uniform", retention=retention)(shape)
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
    """Counts what was pruned and says so now and then."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._begin(-LOG_SECONDS)

    def _begin(self, now: float) -> None:
        self._since, self._videos, self._before, self._after, self._seconds = now, 0, 0, 0, 0.0

    def add(self, before: int, after: int, seconds: float) -> None:
        """A video; the first is told of at once."""
        self._videos += 1
        self._before += before
        self._after += after
        self._seconds += seconds
        now = perf_counter()
        if now - self._since < LOG_SECONDS:
            return
        logger.info(
            "%s: %d videos, %d of %d visual tokens kept (%.1f %%), pruning took %.1f ms a video",
            self._method,
            self._videos,
            self._after,
            self._before,
            100 * self._after / self._before,
            1000 * self._seconds / self._videos,
        )
        self._begin(now)
