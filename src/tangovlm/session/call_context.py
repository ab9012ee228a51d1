"""What a caller tells of a call: its prompts, when frames were shown, which features are wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..inputs import timestamps as times
from ..models.common.family import Family
from ..models.common.layout import Clip, Prompt
from ..models.common.transformers_compat import Arg
from . import copies
from .placeholders import also_images, check_placeholders


@dataclass(frozen=True, eq=False)
class CallContext:
    """One call of an attached model; a call within it, such as the forwards of `generate`, knows the same.

    Parameters
    ----------
    family: the model's.
    given: times that hold for every call, those of one video for all or of each; None if there are none.
    metadata: times out of the call's `video_metadata`.
    step_seconds: seconds between the steps of each video, where the model's own inputs say so.
    input_ids: ``(B, Q)`` whole prompts, None where the call has none.
    forwarded_mask: see `Prompt`.
    continues: whether a cache holds earlier turns, with videos that are not in this call.
    """

    family: Family
    given: Sequence[Tensor] | None = None
    metadata: Sequence[Tensor | None] | None = None
    step_seconds: Sequence[float] | None = None
    input_ids: Tensor | None = None
    forwarded_mask: Tensor | None = None
    continues: bool = False

    def begun(self, input_ids: Any, continues: bool) -> "CallContext":
        """At the beginning of a call of the user's: nothing of an earlier one holds any more."""
        ids = input_ids if isinstance(input_ids, Tensor) and not input_ids.is_floating_point() else None
        return CallContext(self.family, self.given, input_ids=ids, continues=continues)

    def timed(self, kwargs: dict[str, Any]) -> "CallContext":
        """With the times in a call's keywords; `video_metadata` is taken out of them, as stock models do not know it.

        Raises
        ------
        InputError: see `timestamps.from_metadata`.
        """
        metadata, steps = kwargs.pop(Arg.METADATA, None), kwargs.get(Arg.STEP_SECONDS)
        found = None if metadata is None else times.from_metadata(metadata)
        told = found is not None and any(seconds is not None for seconds in found)
        return replace(
            self,
            metadata=found if told else self.metadata,
            step_seconds=self.step_seconds if steps is None else [float(seconds) for seconds in steps],
        )

    def masked(self, kwargs: dict[str, Any]) -> "CallContext":
        """With the mask in a call's keywords; older releases copy it with the videos between `generate` and forward."""
        name = self.family.mask_input
        return self if name is None else replace(self, forwarded_mask=kwargs.get(name))

    @property
    def prompt(self) -> Prompt:
        """What tells videos from other pictures."""
        found = self.given or self.metadata or []
        frames = tuple(seconds.numel() for seconds in found if seconds is not None)
        known = frames if frames and len(frames) == len(found) else None
        return Prompt(self.input_ids, known, self.forwarded_mask, self.continues)

    def timestamps(self, clips: Sequence[Clip]) -> list[Tensor | None]:
        """Seconds ``(T,)`` of each encoded video, None where nothing was told.

        Raises
        ------
        InputError: see `timestamps.assign`.
        """
        steps = [clip.grid.frames for clip in clips]
        found: Sequence[Any] = self.given or self.metadata or self.step_seconds or [None]
        if self.continues and len(found) > len(clips):
            # Those of the whole conversation.
            found = found[-len(clips) :]
        if 1 < len(found) < len(clips):
            order = copies.order(self.family, self.input_ids, [clip.grid for clip in clips], len(found))
            found = [found[number] for number in order]
        if isinstance(found[0], float):
            pairs = zip(found, steps, strict=False)
            found = [step * torch.arange(count, dtype=torch.float64) for step, count in pairs]
        return times.assign(found, steps, self.family.frames_per_step, self.family.middle_of_steps)

    def check_fit(self, clips: Sequence[Clip]) -> None:
        """See `fit.check_placeholders`; what a cache holds already cannot be told."""
        if self.input_ids is not None and clips and not self.continues:
            check_placeholders(self.family, self.input_ids, clips)

    def visual_tokens(self, row: int, rows: int) -> int | None:
        """Placeholders in the prompt of a row of the text model's batch, None where they cannot be told.

        Parameters
        ----------
        rows: of that batch, in which copies of a prompt stand side by side.
        """
        if self.input_ids is None or self.continues or also_images(self.family):
            return None
        return int((self.input_ids[row * len(self.input_ids) // rows] == self.family.placeholder).sum())
