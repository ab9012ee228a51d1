"""mp4 files that are cut off behind their index: the complete frames are read, and it is said."""

import struct
from pathlib import Path

import av
import pytest

from tangovlm.errors import VideoError
from tangovlm.video import decode
from tests.support import clips

MUXERS = {"fragments": {"movflags": "frag_keyframe+empty_moov"}, "index-first": {"movflags": "faststart"}}


def complete(whole: Path, length: int) -> list[int]:
    """The numbers of the frames whose packets lie within the first `length` bytes of a file, in order of time."""
    with av.open(str(whole)) as container:
        kept = [p for p in container.demux(video=0) if p.size and p.pos is not None and p.pos + p.size <= length]
        times = {packet.pts for packet in kept}
    with av.open(str(whole)) as container:
        return [
            clips.number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0) if frame.pts in times
        ]


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("kind", MUXERS)
def test_the_complete_frames_of_a_file_that_is_cut_off(tmp_path: Path, kind: str, sound: bool) -> None:
    whole = clips.write(tmp_path / f"{kind}.mp4", 100, muxer=MUXERS[kind], sound=sound)
    data = whole.read_bytes()
    for share in (0.8, 0.95):
        path = tmp_path / f"{share}.mp4"
        path.write_bytes(data[: int(share * len(data))])
        expected = complete(whole, int(share * len(data)))
        frames = decode(path, 100)
        assert clips.numbers(frames.pixels) == expected
        (note,) = [note for note in frames.notes if "truncated" in note]
        assert note.startswith(f"the file is truncated: the {frames.duration_s:.1f} s that it has are used")
        assert note.endswith("of 4.0 s") == (kind == "index-first")  # fragments announce no duration


@pytest.mark.parametrize("index", ["mehd", "sidx"])
def test_a_recording_in_fragments_that_announces_its_duration(tmp_path: Path, index: str) -> None:
    """In its header, as recorders of known length do, or in an index of the fragments."""
    flags = "frag_keyframe+empty_moov+default_base_moof" + "+dash+global_sidx" * (index == "sidx")
    whole = clips.write(tmp_path / "clip.mp4", 100, muxer={"movflags": flags})
    data = whole.read_bytes()
    if index == "mehd":
        moov, mvhd, mvex = (data.index(kind) - 4 for kind in (b"moov", b"mvhd", b"mvex"))
        scale = int.from_bytes(data[mvhd + 20 : mvhd + 24], "big")
        box = struct.pack(">I4sII", 16, b"mehd", 0, 4 * scale)
        data = data[: mvex + 8] + box + data[mvex + 8 :]
        for place in (moov, mvex):
            size = int.from_bytes(data[place : place + 4], "big") + len(box)
            data = data[:place] + size.to_bytes(4, "big") + data[place + 4 :]
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 8 // 10])
    frames = decode(path, 4)
    said = f"the file is truncated: the {frames.duration_s:.1f} s that it has are used, of 4.0 s"
    assert said in frames.notes
    assert 2 < frames.duration_s < 3.9


@pytest.mark.parametrize("kind", MUXERS)
def test_cut_anywhere_it_is_read_and_said_or_refused(tmp_path: Path, kind: str) -> None:
    whole = clips.write(tmp_path / f"{kind}.mp4", 30, muxer=MUXERS[kind])
    data = whole.read_bytes()
    ends = [place + shift for place in _boxes(data) for shift in (-1, 0, 4, 8, 20)]
    for length in [end for end in ends if 0 < end < len(data)]:
        path = tmp_path / f"{length}.mp4"
        path.write_bytes(data[:length])
        try:
            frames = decode(path, 30)
        except VideoError:
            continue
        assert clips.numbers(frames.pixels) == complete(whole, length)
        # A cut between two fragments leaves no trace.
        assert frames.notes or length in _boxes(data) or len(frames.pixels) == 30


def _boxes(data: bytes) -> list[int]:
    """Where the boxes of a file begin."""
    places, place = [], 0
    while place < len(data):
        places.append(place)
        place += int.from_bytes(data[place : place + 4], "big")
    return places


def test_a_cut_behind_the_video_is_not_said(tmp_path: Path) -> None:
    """Of a box that FFmpeg does not need."""
    path = clips.write(tmp_path / "clip.mp4", 30, muxer={"movflags": "faststart"})
    path.write_bytes(path.read_bytes() + (1000).to_bytes(4, "big") + b"free" + bytes(10))
    frames = decode(path, 4)
    assert (len(frames.pixels), frames.notes) == (4, ())
