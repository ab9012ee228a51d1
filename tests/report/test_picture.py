"""The PNG of a whole video."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tangovlm.report import Scene, draw_picture, png, scene
from tangovlm.report.picture import CELL_WIDTH, COLUMNS
from tangovlm.session.records import VideoRecord
from tangovlm.video import Frames


def test_png_holds_the_drawing(drawn: Scene) -> None:
    image = draw_picture(drawn, "A title", "and below it")
    again = Image.open(io.BytesIO(png(image)))
    assert again.format == "PNG"
    assert (np.asarray(again) == np.asarray(image)).all()


def test_all_frames_are_in_it(frames: Frames) -> None:
    flat = Frames(torch.full_like(frames.pixels, 200), frames.timestamps_s, frames.fps, frames.duration_s)
    image = np.asarray(draw_picture(scene(flat, None), "t"))
    height = round(CELL_WIDTH * 30 / 44)
    assert (image == 200).all(axis=-1).sum() == 5 * CELL_WIDTH * height


@pytest.mark.parametrize("steps", [1, COLUMNS, COLUMNS + 1, 40])
def test_any_number_of_frames(frames: Frames, steps: int) -> None:
    many = Frames(
        frames.pixels[:1].expand(steps, -1, -1, -1), torch.arange(steps, dtype=torch.float64), frames.fps, float(steps)
    )
    image = draw_picture(scene(many, None), "t")
    assert image.width >= min(steps, COLUMNS) * CELL_WIDTH
    assert image.height >= -(-steps // COLUMNS) * round(CELL_WIDTH * 30 / 44)


def test_recording_adds_layers_and_a_long_title_is_cut(frames: Frames, record: VideoRecord) -> None:
    bare, full = draw_picture(scene(frames, None), "t"), draw_picture(scene(frames, record), "word " * 400)
    assert full.height > bare.height
    assert full.width == bare.width
