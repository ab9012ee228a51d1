"""Clips of the synthetic world as video files and as decoded frames."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from tangovlm.pipeline.embedded import MARK
from tangovlm.video import Frames

from .model import FRAMES
from .synthetic.questions import KINDS, Question, questions
from .synthetic.render import render
from .synthetic.sampling import sample_clip
from .synthetic.world import SECONDS_A_MOMENT, Clip

_FRAMES_A_MOMENT = 4
_ENLARGEMENT = 4
"""Upscaling of the file, so that chroma subsampling and the codec do not blur the pixels of the world."""
DEMO_SEED = 0
"""The first seed whose clip has a question of every kind."""


def decoded_frames(clip: Clip, frames: int = FRAMES) -> tuple[Frames, list[int]]:
    """The frames that decoding the file of the clip returns, and the indices of the things that are visible in them."""
    times = clip.times(frames)
    images, owners = render(clip, times)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    seconds = torch.tensor(times, dtype=torch.float64) * SECONDS_A_MOMENT
    fps = _FRAMES_A_MOMENT / SECONDS_A_MOMENT
    visible = [int(number) - 1 for number in np.unique(owners) if number]
    return Frames(pixels, seconds, fps=fps, duration_s=clip.length * SECONDS_A_MOMENT), visible


def write_clip(clip: Clip, path: Path) -> None:
    """Write the clip as H.264 in an mp4 file: 448 x 448 pixels, 8 frames per second, and a comment in the metadata
    from which the embedded model knows that it can understand the clip.
    """
    rate = Fraction(_FRAMES_A_MOMENT) / Fraction(SECONDS_A_MOMENT)
    times = [index / _FRAMES_A_MOMENT for index in range(int(clip.length * _FRAMES_A_MOMENT))]
    images, _ = render(clip, times)
    with av.open(str(path), "w") as container:
        container.metadata["comment"] = MARK
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        stream.width = stream.height = images.shape[1] * _ENLARGEMENT
        stream.pix_fmt = "yuv420p"
        for image in images:
            large = image.repeat(_ENLARGEMENT, 0).repeat(_ENLARGEMENT, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode())


def write_demo(path: Path) -> list[tuple[str, str]]:
    """Write the clip of `tangovlm demo`, and return questions about it with their true answers."""
    clip = sample_clip(np.random.default_rng(DEMO_SEED))
    write_clip(clip, path)
    _, visible = decoded_frames(clip)
    asked: dict[str, Question] = {q.kind: q for q in questions(clip, np.random.default_rng(0), visible)}
    return [(asked[kind].text, asked[kind].answer) for kind in KINDS if kind in asked]
