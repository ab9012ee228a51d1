"""What pictures are drawn from."""

import torch

from tangovlm.report import Scene, scene
from tangovlm.session.records import VideoRecord
from tangovlm.tokens import Selection, VideoReport
from tangovlm.video import Frames


def test_kept_tokens_are_those_of_the_selection(drawn: Scene, record: VideoRecord) -> None:
    assert drawn.kept is not None
    assert drawn.sources is not None
    assert drawn.kept.reshape(-1).nonzero()[0].tolist() == record.selection.indices.tolist()
    assert drawn.slots == len(record.selection.indices)
    # Slot k is the k-th kept token in raster order: the page's script counts on it.
    assert drawn.sources[drawn.kept].tolist() == list(range(drawn.slots))


def test_segments(drawn: Scene) -> None:
    owners = [drawn.segment_of(step) for step in range(drawn.steps)]
    assert [owners.count(segment) for segment in range(len(drawn.segments))] == list(drawn.segments)
    assert owners == sorted(owners)


def test_saliency_is_scaled_to_one(drawn: Scene) -> None:
    assert drawn.saliency is not None
    assert 0 <= drawn.saliency.min() < drawn.saliency.max() == 1


def test_without_a_recording(frames: Frames) -> None:
    bare = scene(frames, None)
    assert (bare.sources, bare.kept, bare.saliency, bare.slots) == (None, None, None, 0)
    assert (bare.steps, bare.segments) == (5, (5,))


def test_a_token_step_of_two_frames_is_drawn_on_one_of_them(frames: Frames) -> None:
    grid = torch.arange(2 * 4).view(2, 2, 2)
    selection = Selection(torch.arange(8), torch.zeros(8, 1), grid, (2,))
    report = VideoReport(8, 8, 1.0, "tango")
    joined = scene(frames, VideoRecord(selection, torch.zeros(2, 2, 2), report))
    assert joined.steps == 2
    assert joined.times_s == (0.25, 0.75)
    assert joined.saliency is not None
    assert joined.saliency.max() == 0
