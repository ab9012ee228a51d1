"""Clips to choose from: examples of the embedded world, rendered on this machine, and files of users."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from tangovlm.errors import VideoError
from tangovlm.tiny.synthetic.render import render
from tangovlm.tiny.synthetic.world import Clip as WorldClip
from tangovlm.tiny.synthetic.world import Pace
from tangovlm.tiny.synthetic.worlds import world

from .limits import Limits, renamed

_THUMBNAIL, _POSTER = 112, 448
"""Sides of pictures of a clip, in pixels."""
_DEMO_SEED = 0
"""That of `tangovlm.tiny.clip.DEMO_SEED`, which imports torch."""
_SUGGESTIONS = 6


@dataclass(frozen=True)
class Clip:
    """A clip that can be asked about.

    Parameters
    ----------
    path: of its file.
    name: as the user knows it.
    seconds: its duration.
    poster: its frame in the middle, as a data URI.
    questions: suggested questions with their true answers.
    uploaded: whether a user gave it.
    """

    path: Path
    name: str
    seconds: float
    poster: str
    questions: tuple[tuple[str, str], ...] = ()
    uploaded: bool = False

    def truth(self, question: str) -> str | None:
        """The true answer, if the question is one of the suggested ones."""
        return dict(self.questions).get(question)

    @classmethod
    def read(cls, path: Path, name: str, limits: Limits) -> "Clip":
        """A clip of a user, from its file.

        Raises
        ------
        VideoError: see `Limits.check_clip`; or no frame can be decoded.
        """
        from tangovlm.video import decode

        seconds = limits.check_clip(path, name)
        try:
            frames = decode(path, 3)
        except VideoError as error:
            raise renamed(error, path, name) from error
        middle = frames.pixels[len(frames.pixels) // 2].permute(1, 2, 0).contiguous().numpy()
        aspect = frames.aspect or middle.shape[1] / middle.shape[0]
        return cls(path, name, seconds, _jpeg(middle, _POSTER, aspect), uploaded=True)


@dataclass(eq=False)
class Example:
    """A clip of the embedded world, whose file is rendered when it is first needed.

    Parameters
    ----------
    name: of the clip.
    version: of its world.
    seed, length, pace: of the clip, see `World.draw_clip`; the length is in moments of half a second.
    """

    name: str
    version: int = 1
    seed: int = _DEMO_SEED
    length: int = 16
    pace: Pace | None = None
    _lock: Lock = field(default_factory=Lock, repr=False)
    _clip: Clip | None = field(default=None, repr=False)

    @property
    def is_demo(self) -> bool:
        """Whether it is the clip of `tangovlm demo`."""
        return self.pace is None

    def thumbnail(self) -> str:
        """A frame of it as a data URI, without rendering the file."""
        return self._frame(_THUMBNAIL)

    def poster(self) -> str:
        """The frame in its middle as a data URI, without rendering the file."""
        return self._frame(_POSTER)

    def clip(self, folder: Path) -> Clip:
        """The clip with its file, which is rendered into the folder by the first call."""
        with self._lock:
            if self._clip is None:
                self._clip = self._render(folder)
            return self._clip

    def _world(self) -> WorldClip:
        return world(self.version).draw_clip(np.random.default_rng(self.seed), self.length, self.pace)

    def _frame(self, side: int) -> str:
        shown = self._world()
        images, _ = render(shown, [shown.length / 2])
        return _jpeg(images[0], side, 1.0)

    def _render(self, folder: Path) -> Clip:
        from tangovlm.tiny.clip import decoded_frames, write_clip, write_demo

        path = folder / f"world-{self.version}-{self.pace or 'demo'}.mp4"
        if self.is_demo:
            questions = write_demo(path)[:_SUGGESTIONS]
        else:
            made, shown = world(self.version), self._world()
            write_clip(shown, path)
            _, visible = decoded_frames(shown)
            asked = {each.kind: each for each in made.questions(shown, np.random.default_rng(0), visible)}
            # Kinds that a later world adds come last.
            questions = [(asked[kind].text, asked[kind].answer) for kind in made.kinds if kind in asked][-_SUGGESTIONS:]
        seconds = Limits().check_clip(path, self.name)
        return Clip(path, self.name, seconds, self.poster(), tuple(questions))


# The first seeds whose clips have a question of every kind, or of all but one or two.
_FIRST_WORLD = (("Still, 8 s", 5, 16, "still"), ("Calm, 16 s", 1, 32, "calm"), ("Busy, 16 s", 0, 32, "busy"))
_SECOND_WORLD = (("Changes, 16 s", 0, 32, "calm"), ("Changes, 32 s", 4, 64, "busy"))


def examples(version: int = 1) -> list[Example]:
    """The example clips for a model: the clip of `tangovlm demo`, then others of its world.

    Parameters
    ----------
    version: of the world that the model was trained on; 1 for a model of real videos.
    """
    others = _FIRST_WORLD if version == 1 else (_FIRST_WORLD[0], *_SECOND_WORLD)
    worlds = [1] * len(others) if version == 1 else [1, *[version] * len(_SECOND_WORLD)]
    made = [
        Example(name, number, seed, length, pace)  # type: ignore[arg-type] # paces are literals
        for number, (name, seed, length, pace) in zip(worlds, others, strict=True)
    ]
    return [Example("Demo, 8 s"), *made]


def _jpeg(picture: "np.ndarray", width: int, aspect: float) -> str:
    """A picture `(Y, X, 3)` as a data URI, of this width and so many times as wide as high."""
    buffer = io.BytesIO()
    size = (width, max(1, round(width / aspect)))
    Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC).save(buffer, "jpeg", quality=75, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
