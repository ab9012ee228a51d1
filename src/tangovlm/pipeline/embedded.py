"""What an embedded model can know about a video: only clips that this library rendered show what it was trained on."""

from ..video import Frames
from ..video.input import VideoSource
from ..video.input.pictures import find_pictures
from ..video.source import local_file, open_video
from .loaded import LoadedModel

_EXAMPLE = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
_REAL_MODEL = f"for real videos name a real model, e.g. --model {_EXAMPLE}"
BUILTIN_NOTE = f"the embedded model understands only its synthetic world (moving shapes, digits, words): {_REAL_MODEL}"
FOREIGN_NOTE = (
    "the embedded model cannot know what this video shows: it understands only its synthetic world (moving shapes, "
    f"digits, words), and the file is not marked as rendered by tangovlm; {_REAL_MODEL}"
)
FOLLOW_UP_NOTE = (
    "the embedded model was trained on single questions and cannot follow up a conversation, so that this answer "
    f"may be wrong: ask each question alone; for conversations name a real model, e.g. --model {_EXAMPLE}"
)
MARK = "rendered by tangovlm"
"""Comment in the metadata of every clip that `tangovlm.tiny.clip.write_clip` writes."""


def embedded_note(llm: LoadedModel, video: VideoSource | Frames) -> str | None:
    """The note of an answer by an embedded model; None for other models.

    Parameters
    ----------
    video: a file, pictures, or decoded frames, of which nothing says where they are from.

    Raises
    ------
    VideoError: a file that cannot be opened.
    """
    if not llm.builtin:
        return None
    return BUILTIN_NOTE if isinstance(video, Frames) or _is_marked(video) else FOREIGN_NOTE


def _is_marked(file: VideoSource) -> bool:
    if find_pictures(file) is not None:
        return False
    container, _ = open_video(local_file(file))
    try:
        return container.metadata.get("comment") == MARK
    finally:
        container.close()
