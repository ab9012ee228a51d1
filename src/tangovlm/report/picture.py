"""One PNG of a whole video: its frames, their saliency, and the kept tokens."""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colours import RGB
from .overlay import kept_layer, resize, saliency_layer
from .palette import Pixels, cluster_colours, segment_colour
from .scenes import Scene

BACKGROUND: RGB = (16, 18, 24)
TEXT: RGB = (232, 234, 240)
QUIET: RGB = (150, 156, 170)
MARGIN, GAP, BAND, LABELS = 28, 8, 22, 96
CELL_WIDTH = 176
COLUMNS = 8


def draw_picture(scene: Scene, title: str, subtitle: str = "") -> Image.Image:
    """Draw frames in rows of up to eight, with saliency (if recorded), kept tokens and clusters below each.

    A band above the frames shows the temporal segments. `title` and `subtitle` are at the top.
    """
    layout = _Layout.of(scene)
    layers = _layers(scene)
    canvas = Image.new("RGB", (layout.width, layout.height(len(layers))), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 6), _fit(draw, title, 22, layout.width), TEXT, ImageFont.load_default(22))
    draw.text((MARGIN, MARGIN + 26), _fit(draw, subtitle, 15, layout.width), QUIET, ImageFont.load_default(15))
    for step in range(scene.steps):
        x, y = layout.corner(step, len(layers))
        _draw_band(draw, scene, step, x, y)
        for row, (_, pictures) in enumerate(layers):
            canvas.paste(Image.fromarray(pictures[step]), (x, y + BAND + row * (layout.cell_height + GAP)))
    for first in range(0, scene.steps, COLUMNS):
        _, y = layout.corner(first, len(layers))
        for row, (name, _) in enumerate(layers):
            middle = y + BAND + row * (layout.cell_height + GAP) + layout.cell_height // 2
            draw.text((MARGIN, middle), name, QUIET, ImageFont.load_default(15), anchor="lm")
    if scene.sources is not None:
        _draw_legend(draw, layout.height(len(layers)) - MARGIN - 12)
    return canvas


def png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class _Layout:
    columns: int
    rows: int
    cell_height: int

    @classmethod
    def of(cls, scene: Scene) -> _Layout:
        height, width = scene.images[0].shape[:2]
        return cls(min(COLUMNS, scene.steps), -(-scene.steps // COLUMNS), max(1, round(height * CELL_WIDTH / width)))

    @property
    def width(self) -> int:
        return max(760, 2 * MARGIN + LABELS + self.columns * (CELL_WIDTH + GAP) - GAP)

    def block(self, layers: int) -> int:
        """Height of one row of frames with its band and layers."""
        return BAND + layers * (self.cell_height + GAP) + 2 * GAP

    def height(self, layers: int) -> int:
        return 2 * MARGIN + 60 + self.rows * self.block(layers) + 40

    def corner(self, step: int, layers: int) -> tuple[int, int]:
        row, column = divmod(step, COLUMNS)
        return MARGIN + LABELS + column * (CELL_WIDTH + GAP), MARGIN + 62 + row * self.block(layers)


def _layers(scene: Scene) -> list[tuple[str, list[Pixels]]]:
    frames = [resize(image, CELL_WIDTH) for image in scene.images]
    size = (frames[0].shape[1], frames[0].shape[0])
    frames = [np.asarray(Image.fromarray(frame).resize(size)) for frame in frames]
    layers = [("frame", frames)]
    if scene.saliency is not None:
        layers.append(("saliency", [saliency_layer(f, s) for f, s in zip(frames, scene.saliency, strict=True)]))
    if scene.sources is not None and scene.kept is not None:
        colours = cluster_colours(scene.slots)
        pairs = zip(frames, scene.sources, scene.kept, strict=True)
        layers.append(("kept", [kept_layer(f, sources, kept, colours) for f, sources, kept in pairs]))
    return layers


def _draw_band(draw: ImageDraw.ImageDraw, scene: Scene, step: int, x: int, y: int) -> None:
    """Draw time, number of kept tokens, and a bar in the colour of the segment that joins its frames."""
    segment = scene.segment_of(step)
    colour = segment_colour(segment)
    joined = step + 1 < scene.steps and scene.segment_of(step + 1) == segment and (step + 1) % COLUMNS != 0
    draw.rectangle((x, y + BAND - 6, x + CELL_WIDTH - 1 + (GAP if joined else 0), y + BAND - 4), fill=colour)
    small = ImageFont.load_default(13)
    draw.text((x, y), f"{scene.times_s[step]:.2f} s", TEXT, small)
    if scene.kept is not None:
        kept = int(scene.kept[step].sum())
        draw.text((x + CELL_WIDTH, y), f"{kept}/{scene.kept[step].size}", QUIET, small, anchor="ra")
    if step == 0 or scene.segment_of(step - 1) != segment:
        draw.text((x + CELL_WIDTH // 2, y), f"segment {segment + 1}", colour, small, anchor="ma")


def _draw_legend(draw: ImageDraw.ImageDraw, y: int) -> None:
    font = ImageFont.load_default(14)
    x = MARGIN
    sample: RGB = (92, 200, 255)
    tinted: RGB = (70, 112, 140)
    entries: tuple[tuple[RGB, RGB, str], ...] = (
        ((222, 222, 216), sample, "kept: represents its cluster"),
        (tinted, tinted, "merged into the kept token of the same colour"),
        ((34, 36, 42), (34, 36, 42), "dropped"),
    )
    for fill, outline, text in entries:
        draw.rectangle((x, y - 8, x + 16, y + 8), fill=fill, outline=outline, width=2)
        draw.text((x + 24, y), text, QUIET, font, anchor="lm")
        x += 24 + int(draw.textlength(text, font)) + 32


def _fit(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """Truncate a line to the width of the picture."""
    font = ImageFont.load_default(size)
    line, room = " ".join(text.split()), width - 2 * MARGIN
    if draw.textlength(line, font) <= room:
        return line

    def cut_width(letters: int) -> float:
        return draw.textlength(line[:letters] + "...", font)

    # Measuring text is slow: use a binary search.
    return line[: bisect_right(range(1, len(line)), float(room), key=cut_width)] + "..."
