"""Small clips whose frames carry their own number, and the slow, plain way to decode them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

COLUMNS, ROWS, CELL = 5, 2, 32
WIDTH, HEIGHT = COLUMNS * CELL, ROWS * CELL
TICK = Fraction(1, 1000)

Image = npt.NDArray[np.uint8]


def drawing(number: int) -> Image:
    """The number in binary, ten black and white cells."""
    bits = [(number >> bit) & 1 for bit in range(COLUMNS * ROWS)]
    cells = np.array(bits, dtype=np.uint8).reshape(ROWS, COLUMNS)
    return np.repeat((cells * 219 + 18).repeat(CELL, 0).repeat(CELL, 1)[:, :, None], 3, axis=2)


def number(picture: Image) -> int:
    """Read `drawing` back from an upright `(H, W, 3)` picture of any size."""
    height, width = picture.shape[:2]
    cells = picture[: height // ROWS * ROWS, : width // COLUMNS * COLUMNS].mean(axis=2)
    means = cells.reshape(ROWS, height // ROWS, COLUMNS, width // COLUMNS).mean(axis=(1, 3))
    return sum(int(mean > 128) << bit for bit, mean in enumerate(means.ravel()))


def numbers(pixels: object) -> list[int]:
    """The number of every frame of a `(T, 3, H, W)` tensor."""
    return [number(image) for image in np.asarray(pixels).transpose(0, 2, 3, 1)]


def write(
    path: Path,
    times: Sequence[int] | int = 60,
    *,
    codec: str = "libx264",
    gop: int = 12,
    b_frames: int = 2,
    turn: tuple[int, bool] = (0, False),
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    sound: bool = False,
    sound_s: float = 2.56,
    first: int = 0,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Frame i, showing the number i + first, at `times[i]` milliseconds; or so many frames at 25 a second."""
    at = [40 * i for i in range(times)] if isinstance(times, int) else list(times)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = Fraction(1, 25) if "mpeg" in codec else TICK
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if turn != (0, False):
            stream.set_display_rotation(turn[0], hflip=turn[1])
        if sound:
            _add_sound(container, sound_s)
        for i, ms in enumerate(at):
            frame = av.VideoFrame.from_ndarray(drawing(first + i), format="rgb24")
            frame.pts, frame.time_base = ms, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _add_sound(container: av.container.OutputContainer, seconds: float = 2.56) -> None:
    codec, rate = ("mp3", 44100) if container.format.name in ("avi", "flv") else ("aac", 8000)
    stream = container.add_stream(codec, rate=rate, layout="mono")
    for i in range(round(seconds * rate / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 1024 * i, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def shifted(source: Path, path: Path, seconds: float) -> Path:
    """The same packets, later."""
    with av.open(str(source)) as read, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.pts is not None and packet.dts is not None and packet.time_base is not None:
                ticks = round(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, stream
                container.mux(packet)
    return path


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        _add_sound(container)
    return path


def every_frame(path: Path) -> list[tuple[float, int]]:
    """(seconds, number) of all frames, decoded straight through: the independent reference."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            (float(f.pts * stream.time_base), number(f.to_ndarray(format="rgb24"))) for f in container.decode(stream)
        ]


def on_screen(frames: Sequence[tuple[float, int]], count: int) -> list[tuple[float, int]]:
    """What is shown at `count` moments from the first to the last presentation time, both included."""
    first, last = frames[0][0], frames[-1][0]
    moments = np.linspace(first, last, count) + 1e-9
    return [[frame for frame in frames if frame[0] <= moment][-1] for moment in moments]
