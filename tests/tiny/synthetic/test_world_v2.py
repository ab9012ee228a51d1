"""World 2: what is drawn is what is said, and world 1 stays what it was."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

from tangovlm.tiny.synthetic.labels import ATTRIBUTES, cell_labels
from tangovlm.tiny.synthetic.questions import Question
from tangovlm.tiny.synthetic.questions_v2 import KINDS, PARTS, descriptions, part_of, questions
from tangovlm.tiny.synthetic.render import render
from tangovlm.tiny.synthetic.sampling_v2 import ALL_SHAPES, LENGTHS, sample_clip
from tangovlm.tiny.synthetic.world import SECONDS_A_MOMENT, SIDE, Clip, Thing
from tangovlm.tiny.synthetic.worlds import VERSIONS, world

CLIPS = [sample_clip(np.random.default_rng([41, i]), LENGTHS[i % len(LENGTHS)]) for i in range(60)]
ASKED = [(clip, question) for i, clip in enumerate(CLIPS) for question in questions(clip, np.random.default_rng(i))]


def of_kind(kind: str) -> list[tuple[Clip, Question]]:
    found = [(clip, question) for clip, question in ASKED if question.kind == kind]
    assert len(found) >= 30
    return found


def named(clip: Clip, text: str) -> list[Thing]:
    """The things whose shape is a word of the text, by their start; found by words, not by `about`."""
    words = text.lower().replace(",", "").replace("?", "").split()
    singular = {shape: {shape, shape + "s", shape + "es"} for shape in ALL_SHAPES}
    things = [t for t in clip.things if t.shape and singular[t.shape] & set(words)]
    return sorted(things, key=lambda t: t.start)


@pytest.mark.parametrize(
    ("version", "first", "digest"),
    [
        (1, [8, 16, 32, 64], "cb66386de1a111bd"),
        (2, [16, 32, 64, 128, 256], "fd2bb8a8d39564ec"),
    ],
)
def test_a_world_never_changes(version: int, first: list[int], digest: str) -> None:
    """Clips, the cells of their things, and questions: for another digest, add a version."""
    of, total = world(version), hashlib.sha256()
    assert list(of.lengths) == first
    for index in range(12):
        rng = np.random.default_rng([43, index])
        clip = of.draw_clip(rng, of.lengths[index % len(of.lengths)], None)
        _, owners = render(clip, clip.times(3))
        total.update(json.dumps(asdict(clip)).encode())
        total.update(owners.tobytes())
        total.update(json.dumps([asdict(question) for question in of.questions(clip, rng, None)]).encode())
    assert total.hexdigest()[:16] == digest


def test_every_version_has_kinds_of_its_own() -> None:
    assert VERSIONS == (1, 2)
    assert set(world(1).kinds) < set(world(2).kinds) == set(KINDS)


@pytest.mark.parametrize("clip", CLIPS)
def test_things_stay_in_the_frame_and_in_their_scene(clip: Clip) -> None:
    for thing in clip.things:
        assert any(s.start <= thing.start < thing.end <= s.end for s in clip.scenes)
        for time in (thing.start, thing.end):
            for x, y in thing.at(time):
                assert thing.width / 2 - 1e-6 <= x <= SIDE - thing.width / 2 + 1e-6
                assert thing.height / 2 - 1e-6 <= y <= SIDE - thing.height / 2 + 1e-6


@pytest.mark.parametrize("clip", CLIPS)
def test_a_shape_names_one_thing_or_a_change(clip: Clip) -> None:
    by_shape: dict[str, list[Thing]] = {}
    for thing in clip.things:
        if thing.shape:
            by_shape.setdefault(thing.shape, []).append(thing)
    for parts in by_shape.values():
        if len(parts) == 1:
            assert parts[0].role != "turn"
            continue
        before, after = sorted(parts, key=lambda part: part.start)
        assert before.role == after.role == "turn"
        assert before.end == after.start
        assert np.allclose(before.at(before.end), after.points)
        assert (before.color != after.color) + (before.pattern != after.pattern) == 1


@pytest.mark.parametrize("length", LENGTHS)
def test_one_frame_a_moment_shows_everything_that_is_not_covered(length: int) -> None:
    clips = [clip for clip in CLIPS if clip.length == length]
    shown = total = 0
    for clip in clips:
        frames, owners = render(clip, clip.times(length))
        assert len(frames) == length
        total += len(clip.things)
        shown += len(set(owners.flatten().tolist()) - {0})
        for scene, later in zip(clip.scenes, clip.scenes[1:], strict=False):
            assert scene.end == later.start
            assert scene.end - scene.start >= 3
    assert shown >= 0.97 * total


def test_things_fill_a_seventh_of_the_cells() -> None:
    covers = [float((render(clip, clip.times(4))[1] > 0).mean()) for clip in CLIPS]
    assert 0.12 < np.mean(covers) < 0.2


def test_labels_know_every_shape() -> None:
    crowd = world(2).draw_crowd(np.random.default_rng(3))
    _, owners = render(crowd, [0.0])
    labels = cell_labels(crowd, [0.0], owners)
    assert (labels.reshape(-1, len(ATTRIBUTES)) < list(ATTRIBUTES.values())).all()
    shapes = {thing.shape for i in range(20) for thing in world(2).draw_crowd(np.random.default_rng(i)).things}
    assert set(ALL_SHAPES) <= shapes


def test_questions_have_one_true_choice_of_four() -> None:
    assert {question.kind for _, question in ASKED} == set(KINDS)
    for clip, question in ASKED:
        assert len(set(question.choices)) == 4
        assert question.answer in question.choices
        assert set(question.about) <= set(range(len(clip.things)))


def test_only_questions_about_changes_and_times_are_about_things_that_change() -> None:
    for clip, question in ASKED:
        if question.kind not in ("change", "order", "when"):
            assert all(clip.things[index].role != "turn" for index in question.about)


def test_changes_are_told_in_their_order() -> None:
    kinds = Counter()
    for clip, question in of_kind("change"):
        before, after = named(clip, question.text)
        old, new = question.answer.split(" to ")
        name = question.text.split()[1]
        kinds[name] += 1
        assert (old, new) == (getattr(before, name), getattr(after, name))
        assert f"{new} to {old}" in question.choices
        assert {clip.things[i] for i in question.about} == {before, after}
    assert min(kinds["color"], kinds["pattern"]) >= 5


def test_both_asks_about_two_moments() -> None:
    for clip, question in of_kind("both"):
        one, two = (clip.things[i] for i in question.about)
        assert {one, two} == set(named(clip, question.text))
        assert one.end <= two.start or two.end <= one.start
        assert question.text.index(one.shape) < question.text.index(two.shape)
        assert question.answer == f"{one.color} and {two.color}"
        assert one.color != two.color
        assert f"{two.color} and {one.color}" in question.choices


def test_motion_is_asked_about_long_moves() -> None:
    for clip, question in of_kind("motion"):
        (mover,) = named(clip, question.text)
        assert mover.end - mover.start >= 6


def test_when_is_the_start_in_seconds_rounded_down() -> None:
    for clip, question in of_kind("when"):
        duration, rest = question.text.removeprefix("The clip lasts ").split(" seconds. ")
        assert float(duration) == clip.length * SECONDS_A_MOMENT
        start = min(thing.start for thing in named(clip, rest)) * SECONDS_A_MOMENT
        step = float(duration) / PARTS
        answered = float(question.answer.split()[0])
        assert answered <= start < answered + step
        place = (start - answered) / float(duration)
        assert 1 / 32 <= place <= 1 / PARTS - 1 / 32
        assert question.answer == ("1 second" if answered == 1 else f"{answered:g} seconds")


def test_questions_hold_when_the_clip_is_played_backwards() -> None:
    """Training does so with half of the clips."""
    for index, clip in enumerate(CLIPS[:20]):
        backwards = clip.reversed()
        asked = questions(backwards, np.random.default_rng(index))
        forwards = {q.text: q.answer for q in questions(clip, np.random.default_rng(index)) if q.kind == "change"}
        for question in asked:
            if question.kind == "change":
                assert question.answer == " to ".join(reversed(forwards[question.text].split(" to ")))


def test_descriptions_are_true() -> None:
    for index, clip in enumerate(CLIPS[:20]):
        for sentence in descriptions(clip, np.random.default_rng(index), range(len(clip.things))):
            thing = clip.things[sentence.about[0]]
            if sentence.kind == "span":
                first, last = sentence.answer.removeprefix("part ").split(" to ")
                assert (int(first) - 1, int(last) - 1) == (part_of(clip, thing.start), part_of(clip, thing.end - 1))
            elif sentence.kind == "look":
                shown = clip.things[sentence.about["at last" in sentence.text]]
                assert sentence.answer == (shown.color if "color" in sentence.text else shown.pattern)
            else:
                assert thing.role != "turn"
