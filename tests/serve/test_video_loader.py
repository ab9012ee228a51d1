"""The loader of videos within vLLM: the frames and the times that `tangovlm.video.decode` takes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tangovlm.errors import InputError, VideoError
from tangovlm.serve.videos import LOADER, video_item
from tangovlm.tiny.clip import write_demo
from tangovlm.video import FrameSampling, decode

pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 s, 8 frames per second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_demo(path)
    return path


def load(data: bytes, **options: Any) -> tuple[Any, dict[str, Any]]:
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY

    from tangovlm.serve import video_loader

    video_loader.register()
    result: tuple[Any, dict[str, Any]] = VIDEO_LOADER_REGISTRY.load(LOADER).load_bytes(data, **options)
    return result


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({"num_frames": 4, "start_s": 3, "end_s": 4.5}, FrameSampling(4, start_s=3, end_s=4.5)),
        ({"fps": 2, "start_s": 3, "num_frames": 32}, FrameSampling(fps=2, start_s=3)),
        ({"fps": 2, "max_frames": 3, "end_s": 4}, FrameSampling(fps=2, max_frames=3, end_s=4)),
        ({"fps": 0.5, "min_frames": 5, "start_s": 6}, FrameSampling(5, start_s=6)),
        ({}, FrameSampling(32)),
    ],
)
def test_frames_and_times_are_those_of_decode(clip: Path, options: dict[str, Any], sampling: FrameSampling) -> None:
    frames, metadata = load(clip.read_bytes(), **options)
    expected_frames, expected = video_item(decode(clip, sampling))
    assert np.array_equal(frames, expected_frames)
    assert metadata == expected
    seconds = np.array(metadata["frames_indices"]) / metadata["fps"]
    assert seconds[0] < 1 / 8 and not metadata["do_sample_frames"]


def test_the_limit_of_the_server_on_the_size_of_frames(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MAX_IMAGE_PIXELS", "200000")
    with pytest.raises(ValueError, match="448x448"):
        load(clip.read_bytes(), num_frames=2)


def test_what_cannot_be_read(clip: Path) -> None:
    for data, words in ((b"no video" * 9, "video"), (b"", "no data")):
        with pytest.raises(VideoError, match=words):
            load(data, num_frames=2)
    with pytest.raises(VideoError, match="the video ends at 8.00 s"):
        load(clip.read_bytes(), num_frames=2, start_s=8)


@pytest.mark.parametrize("name", ["start_s", "end"])
def test_a_part_of_a_picture_is_refused(name: str) -> None:
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY

    from tangovlm.serve import media_connector

    media_connector.register()
    connector = MEDIA_CONNECTOR_REGISTRY.load("http", media_io_kwargs={"image": {name: 1}})
    with pytest.raises(InputError, match=f"'{name}', but the medium is no video"):
        connector.fetch_image("data:image/png;base64,AAAA")
