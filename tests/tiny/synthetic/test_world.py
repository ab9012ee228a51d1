"""The synthetic world: what is drawn is what is said."""

import numpy as np
import pytest

from tangovlm.tiny.synthetic.glyphs import PALETTE
from tangovlm.tiny.synthetic.labels import ATTRIBUTES, cell_labels
from tangovlm.tiny.synthetic.questions import KINDS, POSITIONS, descriptions, questions
from tangovlm.tiny.synthetic.render import CELL, GRID, render
from tangovlm.tiny.synthetic.sampling import sample_clip, sample_crowd
from tangovlm.tiny.synthetic.world import LARGEST_GROUP, LENGTHS, PACES, SIDE, Clip

CLIPS = [sample_clip(np.random.default_rng([40, i]), LENGTHS[i % 4]) for i in range(60)]


def test_a_clip_is_a_function_of_its_seed() -> None:
    again = sample_clip(np.random.default_rng([40, 3]), LENGTHS[3])
    assert again == CLIPS[3]
    first, second = render(again, [0.0, 7.5]), render(CLIPS[3], [0.0, 7.5])
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("clip", CLIPS)
def test_things_stay_in_the_frame_and_shapes_name_them(clip: Clip) -> None:
    shapes = [t.shape for t in clip.things if t.role != "sign"]
    assert len(set(shapes)) == len(shapes)
    for thing in clip.things:
        for time in (thing.start, thing.end):
            for x, y in thing.at(time):
                assert thing.width / 2 - 1e-6 <= x <= SIDE - thing.width / 2 + 1e-6
                assert thing.height / 2 - 1e-6 <= y <= SIDE - thing.height / 2 + 1e-6


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_scenes_cover_every_moment_that_is_shown(frames: int) -> None:
    for clip in CLIPS[:20]:
        for time in clip.times(frames):
            assert sum(s.start <= time < s.end for s in clip.scenes) == 1


def test_a_flash_is_in_exactly_one_frame_a_moment() -> None:
    flashes = [(clip, t) for clip in CLIPS for t in clip.things if t.role == "flash"]
    assert len(flashes) > 10
    for clip, flash in flashes:
        assert sum(flash.start <= time < flash.end for time in clip.times(int(clip.length))) == 1


def test_playing_backwards_twice_gives_the_clip() -> None:
    for clip in CLIPS:
        twice = clip.reversed().reversed()
        assert [(t.role, t.start, t.end, t.direction) for t in twice.things] == [
            (t.role, t.start, t.end, t.direction) for t in clip.things
        ]
        for a, b in zip(twice.things, clip.things, strict=True):
            assert np.allclose(a.points, b.points)
        for scene, again in zip(clip.scenes, twice.scenes, strict=True):
            assert [(d.kind, d.start, d.end, d.seed) for d in again.decoys] == [
                (d.kind, d.start, d.end, d.seed) for d in scene.decoys
            ]


def test_backwards_shows_the_same_pictures_in_the_other_order() -> None:
    for clip in CLIPS[:8]:
        middle = [moment + 0.5 for moment in range(int(clip.length))]
        (forwards, _), (backwards, _) = render(clip, middle), render(clip.reversed(), middle)
        # The grain of a frame depends on its time, and halves of a pixel may be rounded the other way.
        difference = np.abs(forwards.astype(int) - backwards[::-1].astype(int)) > 60
        assert difference.mean() < 0.05


def test_things_fill_a_fifth_of_the_cells() -> None:
    """Enough that a tenth of the tokens cannot hold everything."""
    covers = [float((render(clip, clip.times(4))[1] > 0).mean()) for clip in CLIPS]
    assert 0.15 < np.mean(covers) < 0.25


def test_equal_things_stand_apart() -> None:
    groups = [thing for clip in CLIPS for thing in clip.things if thing.role == "group"]
    assert {len(group.points) for group in groups} == set(range(1, LARGEST_GROUP + 1))
    for group in groups:
        for i, (x, y) in enumerate(group.points):
            assert all(max(abs(x - a), abs(y - b)) > group.width for a, b in group.points[:i])


def test_every_pace_and_its_scenes() -> None:
    clips = {pace: [sample_clip(np.random.default_rng(i), 32, pace) for i in range(30)] for pace in PACES}
    pans = {pace: sum(s.pan != (0.0, 0.0) for c in some for s in c.scenes) for pace, some in clips.items()}
    cuts = {pace: sum(len(c.scenes) for c in some) for pace, some in clips.items()}
    assert pans["still"] == 0 < pans["calm"] < pans["busy"]
    assert cuts["still"] < cuts["calm"] < cuts["busy"]
    assert {clip.pace for clip in CLIPS} == set(PACES)


def test_owned_cells_show_the_colour_of_their_thing() -> None:
    checked = 0
    for clip in CLIPS[:20]:
        frames, owners = render(clip, clip.times(4))
        for frame, owner in zip(frames, owners, strict=True):
            for number, thing in enumerate(clip.things, start=1):
                if thing.role in ("sign", "mover"):
                    continue
                for row, column in np.argwhere(owner == number):
                    cell = frame[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL].reshape(-1, 3)
                    distance = np.abs(cell.astype(int) - PALETTE[thing.color]).max(1)
                    assert (distance < 40).any()
                    checked += 1
    assert checked > 100


def test_labels_follow_owners() -> None:
    clip = sample_crowd(np.random.default_rng(1))
    frames, owners = render(clip, [0.0])
    labels = cell_labels(clip, [0.0], owners)
    assert frames.shape == (1, SIDE, SIDE, 3)
    assert labels.shape == (1, GRID, GRID, len(ATTRIBUTES))
    assert np.array_equal(labels[..., :-1].any(-1), owners > 0)
    assert (owners > 0).mean() > 0.3
    assert (labels.reshape(-1, len(ATTRIBUTES)) < list(ATTRIBUTES.values())).all()


def test_questions_have_one_true_choice_of_four() -> None:
    kinds = set()
    for index, clip in enumerate(CLIPS):
        for question in questions(clip, np.random.default_rng(index)):
            kinds.add(question.kind)
            assert len(set(question.choices)) == 4
            assert question.answer in question.choices
            assert set(question.about) <= set(range(len(clip.things)))
    assert kinds == set(KINDS)


def test_answers_hold_for_the_things_they_are_about() -> None:
    """An independent look at the clip for the kinds whose truth is not a plain attribute."""
    seen = set()
    for index, clip in enumerate(CLIPS):
        for question in questions(clip, np.random.default_rng(index)):
            thing = clip.things[question.about[0]]
            (x0, y0), (x1, y1) = thing.at(thing.start)[0], thing.at(thing.end)[0]
            if question.kind == "position":
                vertical, horizontal = question.answer.split()
                assert (y0 < SIDE / 2) == (vertical == "top") == (y1 < SIDE / 2)
                assert (x0 < SIDE / 2) == (horizontal == "left") == (x1 < SIDE / 2)
                assert question.answer in POSITIONS
            elif question.kind == "motion":
                along = {"left": x0 - x1, "right": x1 - x0, "up": y0 - y1, "down": y1 - y0}
                assert max(along, key=lambda way: along[way]) == question.answer
            elif question.kind == "order":
                first = min((clip.things[i] for i in question.about), key=lambda t: t.start)
                assert first.shape == question.answer
            else:
                continue
            seen.add(question.kind)
    assert seen == {"position", "motion", "order"}


def test_nothing_is_asked_about_what_cannot_be_seen() -> None:
    for index, clip in enumerate(CLIPS):
        rng, visible = np.random.default_rng(index), set(range(0, len(clip.things), 2))
        asked = questions(clip, rng, visible) + descriptions(clip, rng, visible)
        assert all(visible.issuperset(question.about) for question in asked)
