"""Changes of transformers that a future release might make, for the duration of a test."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.generation.utils import GenerationMixin

from tangovlm.registry import family_for
from tangovlm.selfcheck.twins.common.base import Twin


def rewrite(patch: pytest.MonkeyPatch, cls: type, changes: dict[str, str]) -> int:
    """Change the source of all methods of a class; returns the number of changed methods."""
    count = 0
    for name, member in list(vars(cls).items()):
        if inspect.isfunction(member):
            function = inspect.unwrap(member)
            # Which wants to know the class of a method.
            before = after = re.sub(r"@auto_docstring(\([^)]*\))?\n", "", textwrap.dedent(inspect.getsource(function)))
            for old, new in changes.items():
                after = after.replace(old, new)
            if after != before:
                space: dict[str, Any] = {}
                exec(compile(after, inspect.getfile(function), "exec"), function.__globals__, space)
                patch.setattr(cls, name, space[function.__name__])
                count += 1
    return count


def argument_of_the_text_model(patch: pytest.MonkeyPatch, twin: Twin) -> None:
    """The text model accepts `embeddings` instead of `inputs_embeds`, and its callers pass that."""
    text: Any = type(twin.model.get_decoder())
    call, forward = text.__call__, text.forward

    def renamed_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, embeddings=kwargs.pop("inputs_embeds", None), **kwargs)

    def renamed_forward(self: Any, *args: Any, embeddings: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, inputs_embeds=embeddings, **kwargs)

    patch.setattr(text, "__call__", renamed_call)
    patch.setattr(text, "forward", renamed_forward)


def method_of_the_features(patch: pytest.MonkeyPatch, twin: Twin) -> None:
    """Another method computes the features; the old one still exists, but nothing calls it."""
    base = type(twin.model.model)
    for kind in ("video", "image"):
        if hasattr(base, f"get_{kind}_features"):
            patch.setattr(base, f"make_{kind}_vectors", getattr(base, f"get_{kind}_features"), raising=False)
    calls = {f"= self.get_{kind}_features(": f"= self.make_{kind}_vectors(" for kind in ("video", "image")}
    assert rewrite(patch, base, calls) == 1
    rewrite(patch, GenerationMixin, {'f"get_{modality}_features"': 'f"make_{modality}_vectors"'})


def order_of_the_features(patch: pytest.MonkeyPatch, twin: Twin) -> None:
    """The features of a video are in reverse order of the frames."""
    family, base = family_for(twin.model), type(twin.model.model)
    original = getattr(base, family.feature_method)

    @functools.wraps(original)
    def reversed_frames(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        old = output.pooler_output
        # Newlines stay last.
        rows = [torch.cat([video[: len(video) // 9 * 9].flip(0), video[len(video) // 9 * 9 :]]) for video in old]
        output.pooler_output = torch.stack(rows) if isinstance(old, torch.Tensor) else type(old)(rows)
        return output

    patch.setattr(base, family.feature_method, reversed_frames)


def positions_ignored(patch: pytest.MonkeyPatch, twin: Twin) -> None:
    """The text model counts position ids itself."""
    text: Any = type(twin.model.get_decoder())
    forward = text.forward

    @functools.wraps(forward)
    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs | {"position_ids": None})

    patch.setattr(text, "forward", counting)


def arguments_of_the_preparation(patch: pytest.MonkeyPatch, twin: Twin) -> None:
    """`prepare_inputs_for_generation` has arguments `length` and `prefill` instead of its present names."""
    words = {"next_sequence_length": "length", "is_first_iteration": "prefill"}
    assert sum(rewrite(patch, cls, words) for cls in (GenerationMixin, type(twin.model))) > 2


CHANGES: dict[str, Callable[[pytest.MonkeyPatch, Twin], None]] = {
    function.__name__: function
    for function in (
        argument_of_the_text_model,
        method_of_the_features,
        order_of_the_features,
        positions_ignored,
        arguments_of_the_preparation,
    )
}
