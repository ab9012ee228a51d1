"""The stages of the time to the first token, from calls in which the device is synchronized between stages."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tangovlm.machine.stopwatch import Stopwatch
from tangovlm.session.patching import patch_method

from ..timing import synchronize
from .models import Host

STAGES = ("pixels", "tower", "project", "prune", "prefill")


class Steps:
    """A logits processor that records the time of each generation step and changes nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        synchronize(self._device)
        self._times.append(time.perf_counter())
        return scores

    @property
    def per_second(self) -> float:
        """Steps per second after the first, which is the prefill; needs at least two steps."""
        return (len(self._times) - 1) / (self._times[-1] - self._times[0])


def stage_times(
    host: Host,
    attached: Callable[[], AbstractContextManager[Any]],
    pixels: Callable[[], dict[str, Tensor]],
    generate: Callable[[int, dict[str, Tensor]], None],
    repeats: int,
) -> dict[str, float]:
    """Median milliseconds of each stage up to the first token.

    Parameters
    ----------
    host: the model.
    attached: returns the context in which the model prunes, or one that yields None.
    pixels: prepares the frames.
    generate: generates a number of tokens from the pixels.
    repeats: number of runs, at least 1.
    """
    runs = []
    for _ in range(repeats):
        clock = Stopwatch(host.device, STAGES)
        with ExitStack() as stack:
            stack.enter_context(_stock_stages(host, clock))
            if stack.enter_context(attached()) is not None:
                stack.enter_context(_added_stages(host, clock))
            with clock.stage("pixels"):
                inputs = pixels()
            with clock.stage("prefill"):
                generate(1, inputs)
        runs.append(clock.totals_ms)
    return {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}


@contextmanager
def _stock_stages(host: Host, clock: Stopwatch) -> Iterator[None]:
    """Count the stock encoding as "project", and the part of the tower, including signals, as "tower"."""

    def encode(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with clock.stage("project"):
            return original(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(patch_method(host.encoder, "get_video_features", encode))
        for module, stage in ((host.tower, "tower"), (host.projector, "project")):
            stack.callback(module.register_forward_pre_hook(partial(_enter, clock, stage)).remove)
            stack.callback(module.register_forward_hook(lambda *_: clock.leave()).remove)
        yield


@contextmanager
def _added_stages(host: Host, clock: Stopwatch) -> Iterator[None]:
    """Count as "prune" what the session adds around the encoding and before the text model."""

    def encode(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with clock.stage("prune"):
            return original(*args, **kwargs)

    decoder = host.model.get_decoder()
    with ExitStack() as stack:
        stack.enter_context(patch_method(host.encoder, "get_video_features", encode))
        stack.callback(decoder.register_forward_pre_hook(partial(_enter, clock, "prune"), prepend=True).remove)
        stack.callback(decoder.register_forward_pre_hook(lambda *_: clock.leave()).remove)
        yield


def _enter(clock: Stopwatch, stage: str, *_: Any) -> None:
    """A forward pre-hook that enters a stage."""
    clock.enter(stage)
