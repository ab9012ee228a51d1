"""The context of a call: its prompts, the times of its frames, and which features its caller selected."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..inputs import timestamps
from ..models.common.family import Family
from ..models.common.layout import Clip, Prompt
from ..models.common.transformers_compat import Arg, value_of
from .placeholders import check_placeholders, has_image_placeholder, match_copies


@dataclass(frozen=True, eq=False)
class CallContext:
    """What the arguments of one call of an attached model say; forwards within `generate` share its context.

    Parameters
    ----------
    family: of the model.
    timestamps: seconds ``(T,)`` for every call, one tensor for all videos or one each; None if `attach` got none.
    metadata: seconds ``(T,)`` of each video from the call's `video_metadata`; None if it has none.
    step_seconds: seconds between the steps of each video, if the model's own inputs include them.
    input_ids: ``(B, Q)`` whole prompts, None if the call has none.
    forwarded_mask: see `Prompt`.
    continues: whether a cache holds earlier turns, whose videos are not in this call.
    attention_mask: ``(B, Q)`` of the prompts, None if the call has none of this shape.
    """

    family: Family
    timestamps: Sequence[Tensor] | None = None
    metadata: Sequence[Tensor | None] | None = None
    step_seconds: Sequence[float] | None = None
    input_ids: Tensor | None = None
    forwarded_mask: Tensor | None = None
    continues: bool = False
    attention_mask: Tensor | None = None

    def for_call(self, input_ids: Any, continues: bool, mask: Any = None) -> "CallContext":
        """The context of a new call, without anything of an earlier one."""
        ids = input_ids if isinstance(input_ids, Tensor) and not input_ids.is_floating_point() else None
        fits = ids is not None and isinstance(mask, Tensor) and mask.shape == ids.shape
        given = mask if fits else None
        return CallContext(self.family, self.timestamps, input_ids=ids, continues=continues, attention_mask=given)

    def with_times(self, kwargs: dict[str, Any]) -> "CallContext":
        """With the times in a call's keyword arguments.

        `video_metadata` is removed from `kwargs`, because stock models do not accept it.

        Raises
        ------
        InputError: see `timestamps.from_metadata`.
        """
        metadata, steps = kwargs.pop(Arg.METADATA, None), value_of(kwargs, Arg.STEP_SECONDS)
        seconds = None if metadata is None else timestamps.from_metadata(metadata)
        has_times = seconds is not None and any(each is not None for each in seconds)
        return replace(
            self,
            metadata=seconds if has_times else self.metadata,
            step_seconds=self.step_seconds if steps is None else [float(step) for step in steps],
        )

    def with_mask(self, kwargs: dict[str, Any]) -> "CallContext":
        """With the mask in a call's keyword arguments; older releases copy it with the videos within `generate`."""
        name = self.family.mask_input
        return self if name is None else replace(self, forwarded_mask=kwargs.get(name))

    @property
    def prompt(self) -> Prompt:
        """What distinguishes videos from images."""
        times_s = self.timestamps or self.metadata or []
        frames = tuple(seconds.numel() for seconds in times_s if seconds is not None)
        is_complete = bool(frames) and len(frames) == len(times_s)
        return Prompt(self.input_ids, frames if is_complete else None, self.forwarded_mask, self.continues)

    def frame_times(self, clips: Sequence[Clip]) -> list[Tensor | None]:
        """Seconds ``(T,)`` of each encoded video, None if the call does not say.

        Raises
        ------
        InputError: see `timestamps.assign`.
        """
        steps = [clip.grid.frames for clip in clips]
        given: Sequence[Any] = self.timestamps or self.metadata or self.step_seconds or [None]
        if self.continues and len(given) > len(clips):
            # Those of the whole conversation.
            given = given[-len(clips) :]
        if 1 < len(given) < len(clips):
            order = match_copies(self.family, self.input_ids, [clip.grid for clip in clips], len(given))
            given = [given[number] for number in order]
        if isinstance(given[0], float):
            pairs = zip(given, steps, strict=False)
            given = [step * torch.arange(count, dtype=torch.float64) for step, count in pairs]
        return timestamps.assign(given, steps, self.family.layout.frames_per_step, self.family.middle_of_steps)

    def check_placeholders(self, clips: Sequence[Clip]) -> None:
        """See `placeholders.check_placeholders`; nothing is checked where a cache holds a part of the prompts."""
        if self.input_ids is not None and clips and not self.continues:
            check_placeholders(self.family, self.input_ids, clips)

    def count_placeholders(self, entry: int, batch: int) -> int | None:
        """Video placeholders in the prompt of an entry of the text model's batch; None if unknown.

        Parameters
        ----------
        batch: entries of that batch, in which copies of a prompt are adjacent.
        """
        if self.input_ids is None or self.continues or has_image_placeholder(self.family):
            return None
        prompt = self.input_ids[entry * len(self.input_ids) // batch]
        return int((prompt == self.family.layout.placeholder).sum())
