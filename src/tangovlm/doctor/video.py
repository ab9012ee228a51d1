"""The video decoder: a clip is rendered, encoded, decoded, and compared with the rendered frames."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from .rows import Examination

PART = "video"
_SEED, _FRAMES = 8, 16
_NOISE = 5.0
"""Maximum mean difference of the pixel values (0 to 255) of a frame: encoding smooths noise, which causes 3 to 4."""


def examinations() -> Iterator[Examination]:
    """Decoding of one H.264 clip in an mp4 file."""
    yield Examination(PART, "decoding", _decoding)


def _decoding() -> str:
    import numpy as np
    import torch

    from ..tiny.clip import write_clip
    from ..tiny.synthetic.render import render
    from ..tiny.synthetic.sampling import sample_clip
    from ..tiny.synthetic.world import SECONDS_A_MOMENT
    from ..video import decode

    clip = sample_clip(np.random.default_rng(_SEED))
    with tempfile.TemporaryDirectory(prefix="tangovlm-") as folder:
        file = Path(folder) / "clip.mp4"
        write_clip(clip, file)
        decoded = decode(file, _FRAMES, size=(112, 112))
    if decoded.notes:
        raise RuntimeError(f"the decoder reports: {'; '.join(decoded.notes)}")
    times = decoded.timestamps_s.tolist()
    end = clip.length * SECONDS_A_MOMENT
    if len(times) != _FRAMES or any(time < 0 or time >= end or (8 * time) % 1 for time in times):
        raise RuntimeError(f"frames of a clip of {end} s with 8 frames per second have the times {times}")
    drawn, _ = render(clip, [time / SECONDS_A_MOMENT for time in times])
    pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2).float()
    gaps = (decoded.pixels.float()[:, None] - pixels[None]).abs().mean(dim=(2, 3, 4))
    for number, (time, row) in enumerate(zip(times, gaps, strict=True)):
        if int(row.argmin()) != number or float(row[number]) > _NOISE:
            raise RuntimeError(f"the frame at {time} s differs from the rendered one by {float(row[number]):.1f}")
    return f"{_FRAMES} frames with correct times and pixels"
