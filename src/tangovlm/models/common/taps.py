"""Where signals are taken from a vision encoder: hooks that are described first, and put on by whoever observes."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn


class Tap(NamedTuple):
    """One hook.

    Parameters
    ----------
    module: of the vision encoder.
    before: called with (module, args, kwargs) in front of the module; else with (module, args, output) behind it.
    function: what is called; it returns nothing.
    """

    module: nn.Module
    before: bool
    function: Callable[..., None]

    def put_on(self, function: Callable[..., Any]) -> Any:
        """Register a function in place of the tap's own; returns the handle, which has `remove`."""
        if self.before:
            return self.module.register_forward_pre_hook(function, with_kwargs=True)
        return self.module.register_forward_hook(function)


def before(module: nn.Module, function: Callable[..., None]) -> Tap:
    """A tap in front of a module."""
    return Tap(module, True, function)


def behind(module: nn.Module, function: Callable[..., None]) -> Tap:
    """A tap on a module's output."""
    return Tap(module, False, function)
