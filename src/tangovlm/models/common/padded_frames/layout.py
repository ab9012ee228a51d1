"""Frames and images as sequences of patches that are padded to one length, with the position of each patch.

The family has the names of the arguments (`input_names`), and says whether it describes images (`is_of_images`) and
which rows and columns the positions have (`sides`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....errors import InputError
from ..image_tiles import like
from ..layout import Clip, FeatureLayout, Grid
from ..transformers_compat import Arg


class PaddedFrames(FeatureLayout):
    """Frames of all videos in one sequence ``(F, P, c)``, with positions ``(F, P, 2)`` that are -1 for padding.

    transformers 5.17 has one axis more, for videos with the same number of frames. An image is a video of one frame.
    """

    family: Any

    @property
    def placeholder(self) -> int:
        """See `FeatureLayout.placeholder`."""
        return int(self.model.config.image_token_id) if self.family.is_of_images else super().placeholder

    def features(self, output: Any, clips: Sequence[Clip]) -> list[Tensor]:
        """See `FeatureLayout.features`; older releases return those of all images as one."""
        features = torch.cat([part.flatten(0, -2) for part in output.pooler_output])
        return list(torch.split(features, [clip.grid.tokens for clip in clips]))

    def replace_video_features(self, output: Any, _clips: Sequence[Clip], features: Sequence[Tensor]) -> None:
        """See `FeatureLayout.replace_video_features`."""
        output.pooler_output = like(output.pooler_output, torch.cat(list(features)))

    def grids(self, *args: Any, **kwargs: Any) -> list[Grid]:
        """See `FeatureLayout.grids`.

        Raises
        ------
        InputError: positions that are not those of whole frames, or other numbers of frames.
        """
        named = dict(zip(self.family.input_names, args, strict=False)) | kwargs
        name = self.family.input_names[1]
        positions, counts = named.get(name), named.get(Arg.FRAME_COUNTS)
        if positions is not None and self.family.is_of_images:
            counts = [1] * len(positions)
        elif positions is not None and positions.dim() == 4:
            counts = [positions.shape[1]] * positions.shape[0]
            positions = positions.flatten(0, 1)
        if positions is None or counts is None or sum(map(int, counts)) != len(positions):
            raise InputError(
                f"{' and '.join(self.family.input_names[1:])} must be what the processor returned with the pixels"
            )
        sides, grids, start = self.family.sides(positions), [], 0
        for count in map(int, counts):
            own = set(sides[start : start + count])
            if len(own) != 1:
                raise InputError("the frames of a video differ in their size: make the inputs with the video processor")
            grids.append(Grid(count, *own.pop()))
            start += count
        return grids
