"""Clips of the synthetic world as files and as frames."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from tangovlm.video import Frames

from .model import FRAMES
from .synthetic.questions import KINDS, Question, questions
from .synthetic.render import render
from .synthetic.world import Clip, sample_clip

SECONDS_A_MOMENT = 0.5
_FRAMES_A_MOMENT = 4
_ENLARGEMENT = 4
"""Pixels of the file for one of the world: chroma subsampling and the codec then leave the world's pixels alone."""
_DEMO_SEED = 0
"""The first clip of the world about which a question of every kind can be asked."""


def seen_frames(clip: Clip, frames: int = FRAMES) -> tuple[Frames, list[int]]:
    """The frames that decoding the clip's file would give, and the indices of the things that can be seen in them."""
    times = clip.times(frames)
    images, owners = render(clip, times)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    seconds = torch.tensor(times, dtype=torch.float64) * SECONDS_A_MOMENT
    fps = _FRAMES_A_MOMENT / SECONDS_A_MOMENT
    visible = [int(number) - 1 for number in np.unique(owners) if number]
    return Frames(pixels, seconds, fps=fps, duration_s=clip.length * SECONDS_A_MOMENT), visible


def write_clip(clip: Clip, path: Path) -> None:
    """Write the clip as H.264 in an mp4 file: 448 x 448 pixels, 8 frames a second."""
    rate = Fraction(_FRAMES_A_MOMENT) / Fraction(SECONDS_A_MOMENT)
    times = [index / _FRAMES_A_MOMENT for index in range(int(clip.length * _FRAMES_A_MOMENT))]
    images, _ = render(clip, times)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        stream.width = stream.height = images.shape[1] * _ENLARGEMENT
        stream.pix_fmt = "yuv420p"
        for image in images:
            large = image.repeat(_ENLARGEMENT, 0).repeat(_ENLARGEMENT, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode())


def write_demo(path: Path) -> list[tuple[str, str]]:
    """Write the clip that `tangovlm demo` shows; returns questions about it with the true answers."""
    clip = sample_clip(np.random.default_rng(_DEMO_SEED))
    write_clip(clip, path)
    _, visible = seen_frames(clip)
    asked: dict[str, Question] = {q.kind: q for q in questions(clip, np.random.default_rng(0), visible)}
    return [(asked[kind].text, asked[kind].answer) for kind in KINDS if kind in asked]
