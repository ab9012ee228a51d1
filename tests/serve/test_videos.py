"""What vLLM gets to know about a video: options of its loaders."""

from typing import Any

import pytest

from tangovlm.errors import InputError, TangoError
from tangovlm.serve.videos import LOADER, media_io, request_sampling
from tangovlm.video import FrameSampling


@pytest.mark.parametrize(
    "sampling",
    [
        FrameSampling(start_s=1.5),
        FrameSampling(8, end_s=2),
        FrameSampling(1, stream=1),
        FrameSampling(fps=0.5, max_frames=9, start_s=0, end_s=60),
        FrameSampling(fps=2, max_frames=768, seek="keyframe"),
    ],
)
def test_the_loader_takes_the_frames_that_the_client_asked_for(sampling: FrameSampling) -> None:
    options = dict(media_io(sampling)["video"])
    assert options.pop("video_backend") == LOADER
    frames = options.pop("num_frames", None)
    assert request_sampling(frames, options) == sampling


def test_options_that_a_server_has_for_all_requests() -> None:
    """vLLM merges them with those of a request, and gives its loader a number of frames beside a rate."""
    stock = {"backend": "torchcodec", "max_frames": 64, "min_frames": 64}
    assert request_sampling(64, stock | {"start_s": 1}) == FrameSampling(64, start_s=1)
    assert request_sampling(32, {"fps": 2, "num_ffmpeg_threads": 1}) == FrameSampling(fps=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": 1}, "no option 'start'.*it takes num_frames, fps, .*start_s, end_s"),
        ({"strat_s": 1}, "no option 'strat_s'"),
        ({"start_s": "0:05"}, "the start is '0:05': give seconds"),
        ({"end_s": 0}, "the end"),
        ({"fps": -1}, "fps=-1"),
        ({"seek": "fast"}, "seek='fast'"),
        ({"fps": 1, "min_frames": "5"}, "min_frames='5'"),
    ],
)
def test_bad_values(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TangoError, match=words):
        request_sampling(8, options)


def test_an_option_of_no_decoder_is_an_input_error() -> None:
    with pytest.raises(InputError, match="'tango_x'"):
        request_sampling(8, {"tango_x": 1})
