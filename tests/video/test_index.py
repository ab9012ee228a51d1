"""Times from the index of a file: those of a pass over its packets, and only where the index is complete."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from tangovlm.video import Frames, decode, duration_s
from tangovlm.video.index import Listed, read_index
from tangovlm.video.prefetch import FramePrefetcher, FramesChangedError
from tangovlm.video.reader import Reader
from tests.support import clips

INDEXED: dict[str, dict[str, Any]] = {
    "clip.mp4": {},
    "clip.mov": {},
    "no-b.mp4": {"b_frames": 0},
    "opengop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "first.mp4": {"muxer": {"movflags": "faststart"}},
    "sound.mp4": {"sound": True, "sound_s": 8},
    "vfr.mp4": {"times": [*range(0, 1000, 20), *range(1000, 5000, 250), *range(5000, 5400, 20)]},
    "late.mp4": {"times": [7000 + 40 * i for i in range(40)]},
    "negative.mp4": {"muxer": {"movflags": "negative_cts_offsets"}},
    "edits.mp4": {"muxer": {"use_editlist": "0"}},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "turned.mp4": {"turn": (90, False)},
}


def pass_over_packets(path: Path) -> tuple[list[int], list[tuple[int, int]]]:
    """Presentation times of all frames, and (place, time) of keyframes, by reading every packet."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    shown = sorted(packet.pts for packet in packets if not packet.is_discard)
    return shown, [(order, packet.pts) for order, packet in enumerate(packets) if packet.is_keyframe]


@pytest.mark.parametrize("name", INDEXED)
def test_the_times_of_all_packets(tmp_path: Path, name: str) -> None:
    path = clips.write(tmp_path / name, **{"times": 90, **INDEXED[name]})
    pts, keyframes = pass_over_packets(path)
    with Reader(path) as reader:
        timeline = reader.timeline()
        assert timeline.index is not None
        assert list(timeline.pts) == pts
        assert [(keyframe.order, keyframe.pts) for keyframe in timeline.keyframes] == keyframes
        slow = reader.timeline(use_index=False)
        assert slow.index is None
        assert (slow.pts, slow.keyframes) == (timeline.pts, timeline.keyframes)
    everything = clips.every_frame(path)
    shown = [(time - everything[0][0], number) for time, number in everything]
    found = decode(path, 7)
    assert found.timestamps_s.tolist() == pytest.approx([time for time, _ in clips.on_screen(shown, 7)], abs=1e-12)
    if name != "turned.mp4":
        assert clips.numbers(found.pixels) == [number for _, number in clips.on_screen(shown, 7)]


def packets_read(path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Path], Any]) -> int:
    demux, count = Reader._demux, 0

    def counted(reader: Reader, order: int = 0) -> Any:
        nonlocal count
        for packet in demux(reader, order):
            count += 1
            yield packet

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "_demux", counted)
        run(path)
    return count


def test_few_packets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "clip.mp4", 600, gop=20)
    assert packets_read(path, monkeypatch, duration_s) <= 21
    assert packets_read(path, monkeypatch, lambda path: decode(path, 3, threads=1)) < 200
    path = clips.write(tmp_path / "clip.mkv", 600, gop=20)
    assert packets_read(path, monkeypatch, duration_s) == 600


def edited(source: Path, path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(source.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def box(data: bytearray, kind: bytes) -> int:
    """Where the contents of the only box of a kind begin."""
    assert data.count(kind) == 1
    return data.index(kind) + 4


def swap_edit(data: bytearray) -> None:
    """The film begins one second later: frames before it are decoded, but not shown."""
    start = box(data, b"elst")
    duration = int.from_bytes(data[start + 8 : start + 12], "big")
    data[start + 8 : start + 12] = (duration - 1000).to_bytes(4, "big")
    scale = int.from_bytes(data[box(data, b"mdhd") + 12 :][:4], "big")
    media = int.from_bytes(data[start + 12 : start + 16], "big")
    data[start + 12 : start + 16] = (media + scale).to_bytes(4, "big")


def half_speed(data: bytearray) -> None:
    start = box(data, b"elst")
    data[start + 16 : start + 20] = (1 << 15).to_bytes(4, "big")


def wrong_offsets(data: bytearray) -> None:
    """Fewer composition offsets than samples."""
    start = box(data, b"ctts")
    data[start + 8 : start + 12] = (10**6).to_bytes(4, "big")


@pytest.mark.parametrize("change", [swap_edit, half_speed, wrong_offsets])
def test_indices_that_say_less_than_all(tmp_path: Path, change: Callable[[bytearray], None]) -> None:
    """Whether they are used or not, the frames are those of a pass over the packets."""
    source = clips.write(tmp_path / "source.mp4", 90)
    path = edited(source, tmp_path / "clip.mp4", change)
    pts, keyframes = pass_over_packets(path)
    with Reader(path) as reader:
        timeline = reader.timeline()
        assert list(timeline.pts) == pts
        assert [(keyframe.order, keyframe.pts) for keyframe in timeline.keyframes] == keyframes
        if change is not swap_edit:
            assert timeline.index is None


def test_fragments_are_read_packet_by_packet(tmp_path: Path) -> None:
    for flags in ("frag_keyframe+empty_moov", "frag_keyframe", "frag_keyframe+global_sidx"):
        path = clips.write(tmp_path / "clip.mp4", 90, muxer={"movflags": flags})
        with Reader(path) as reader:
            timeline = reader.timeline()
            assert timeline.index is None
            assert list(timeline.pts) == pass_over_packets(path)[0]


def without_index(path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> Frames:
    with monkeypatch.context() as patch:
        patch.setattr("tangovlm.video.packets.is_indexed", lambda container: False)
        return decode(path, count)


def test_an_index_that_is_wrong_within_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found when the packets are decoded; then the pass over all packets follows."""
    path = clips.write(tmp_path / "clip.mp4", 90, gop=10)
    wanted = without_index(path, 5, monkeypatch)

    def wrong(*settings: Any) -> list[Listed]:
        index = list(read_index(*settings))
        index[40:60] = [packet._replace(pts=packet.pts + 7) for packet in index[40:60]]
        return index

    monkeypatch.setattr("tangovlm.video.packets.read_index", wrong)
    for threads in (1, 2):
        monkeypatch.setattr("tangovlm.video.parallel._WORTH_THREADS", 0)
        found = decode(path, 5, threads=threads)
        assert torch.equal(found.timestamps_s, wanted.timestamps_s)
        assert torch.equal(found.pixels, wanted.pixels)
        assert found.notes == wanted.notes
    with FramePrefetcher(path, 5) as ahead:
        assert not torch.equal(ahead.timestamps_s, wanted.timestamps_s)
        with pytest.raises(FramesChangedError):
            ahead.take(0, 5)


@pytest.mark.parametrize("place", [0, 1, 89])
def test_an_index_that_is_wrong_at_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    path = clips.write(tmp_path / "clip.mp4", 90, gop=10)
    index = [Listed.of(packet) for packet in av.open(str(path)).demux(video=0) if packet.size]
    index[place] = index[place]._replace(dts=index[place].dts + 1)
    monkeypatch.setattr("tangovlm.video.packets.read_index", lambda *settings: index)
    with Reader(path) as reader:
        assert (reader.timeline().index is None) == (place != 1)  # others are compared when they are decoded
    wanted = without_index(path, 6, monkeypatch)
    found = decode(path, 6)
    assert torch.equal(found.pixels, wanted.pixels)
    assert torch.equal(found.timestamps_s, wanted.timestamps_s)


def test_samples_behind_the_end_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that is cut out of the file: the index is there, the samples are not."""
    whole = clips.write(tmp_path / "whole.mp4", 90, muxer={"movflags": "faststart"})
    data = bytearray(whole.read_bytes())
    start = box(data, b"mdat")
    size = int.from_bytes(data[start - 8 : start - 4], "big")
    data[start - 8 : start - 4] = (size - 2000).to_bytes(4, "big")
    path = tmp_path / "clip.mp4"
    path.write_bytes(data[:-2000])
    slow, fast = without_index(path, 90, monkeypatch), decode(path, 90)
    assert len(fast.pixels) < 90
    assert torch.equal(fast.pixels, slow.pixels)
    assert torch.equal(fast.timestamps_s, slow.timestamps_s)
    assert fast.notes == slow.notes


def test_several_tracks_have_their_own_index(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25, options={"bf": str(bf)}) for bf in (0, 2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = clips.WIDTH, clips.HEIGHT, "yuv420p"
        for i in range(40):
            for place, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(clips.drawing(100 * place + i), format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    for index in (0, 1):
        with Reader(path, index) as reader:
            assert reader.timeline().index is not None
        assert clips.numbers(decode(path, 4, stream=index).pixels) == [100 * index + i for i in (0, 13, 26, 39)]
