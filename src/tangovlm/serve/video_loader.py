"""A loader of videos for vLLM that takes the frames which `tangovlm.video.decode` takes, of a part of a video too."""

from dataclasses import replace
from io import BytesIO
from typing import Any

from ..video import decode
from . import compatibility
from .videos import LOADER, request_sampling, video_item

with compatibility.importing_vllm():
    from vllm.logger import init_logger
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY, VideoLoader
    from vllm.multimodal.video_decoders import check_frame_pixel_limit

logger = init_logger(f"vllm.{__name__}")


def register() -> None:
    """Let requests choose the loader, as ``"video_backend": "tangovlm"`` in their ``media_io_kwargs``."""
    VIDEO_LOADER_REGISTRY.register(LOADER)(TangoVideoLoader)


class TangoVideoLoader(VideoLoader):
    """Decodes with this library instead of vLLM's decoders."""

    @classmethod
    def load_bytes(cls, data: bytes, num_frames: int = 32, **options: Any) -> tuple[Any, dict[str, Any]]:
        """See `video_item` for the result.

        Parameters
        ----------
        num_frames, options: see `videos.request_sampling`; with ``fps``, at least ``min_frames`` frames are taken.

        Raises
        ------
        InputError, VideoError: an option is wrong or out of range, or the video cannot be read.
        """
        sampling, least = request_sampling(num_frames, options), options.get("min_frames")
        clip = decode(BytesIO(data), sampling, size=_check_size)
        if sampling.fps is not None and least is not None and len(clip.timestamps_s) < least:
            uniform = replace(sampling, frames=least, fps=None, max_frames=None)
            clip = decode(BytesIO(data), uniform, size=_check_size)
        for note in clip.notes:
            logger.info("A video: %s", note)
        return video_item(clip)


def _check_size(height: int, width: int) -> tuple[int, int]:
    """The size of frames, after a check of the limit that the server sets."""
    check_frame_pixel_limit(width, height)
    return height, width
