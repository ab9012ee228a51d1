"""The paper's tables: their rows, and what each resolves to."""

import json
from collections import Counter

import pytest

from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce import cost, models, tables
from tests.support.reproduce import plan, settings


def test_table_1_has_six_five_and_five_compared_rows_and_tango() -> None:
    made = plan("table1")
    groups = Counter(step.row.group for step in made.steps if not step.row.method.startswith("tango"))
    assert groups == {"100 %": 1, "20 %": 6, "15 %": 5, "10 %": 5}
    tango = Counter(step.row.method for step in made.steps if step.row.method.startswith("tango"))
    assert tango == {"tango": 3, "tango-paper": 3, "tango-release": 3}
    assert {step.row.frames for step in made.steps} == {32}
    assert made.shape.model == models.LLAVA_ONEVISION
    assert not any(step.resolved.unreachable for step in made.steps)


def test_every_hyper_parameter_is_said() -> None:
    by_row = settings(plan("table1"))
    for group, threshold in (("20", 0.8), ("15", 0.8), ("10", 0.65)):
        own = by_row[f"{group}-tango"]
        assert own["retention"] == own["retention_before_llm"] == int(group) / 100
        assert (own["segment_threshold"], own["static_threshold"]) == (threshold, threshold)
        assert (own["context_ratio"], own["neighbors"], own["expansion"]) == (0.4, 7, 1.5)
        assert (own["base_time"], own["base_space"]) == (1e4, 1e3)
        assert own["rope_sections"] == [1196, 1194, 1194]
        assert (own["frames"], own["saliency"], own["exact"]) == (32, "p-attn", True)
    release, paper = by_row["10-tango-the-release"], by_row["10-tango-the-paper-s-text"]
    assert (release["exact"], release["placement"], release["static_threshold"]) == (False, "release", 0.8)
    assert (paper["anchor_weight"], paper["placement"], paper["static_threshold"]) == (0.0, "consistent", 0.65)
    assert by_row["10-visionzip"]["dominant_ratio"] == 0.95
    assert (by_row["10-fastvid"]["min_segments"], by_row["10-fastvid"]["segment_threshold"]) == (8, 0.9)
    fastv = by_row["10-fastv"]["in_llm"]
    assert isinstance(fastv, dict)
    ((cut,), kept) = (fastv["cuts"], (2.8 - 2) / 26)
    assert cut["from_layer"] == 2
    assert cut["keep"] == pytest.approx(kept)


def test_pairs_keep_12_17_percent_before_the_model_and_the_threshold_of_the_mean() -> None:
    by_row = settings(plan("table2"))
    for key in ("10-holitom", "10-tango-and-tango-fastv", "10-tango-the-release-and-tango-fastv"):
        assert by_row[key]["retention_before_llm"] == pytest.approx(0.1 * 28 / 23)
        assert by_row[key]["segment_threshold"] == 0.65
        assert by_row[key]["in_llm"]["cuts"] == [{"from_layer": 18, "keep": 0.5}]  # type: ignore[index]
    assert by_row["15-holitom"]["segment_threshold"] == 0.8
    assert {each["frames"] for each in by_row.values()} == {64}


def test_table_3_changes_one_part_at_a_time() -> None:
    by_row = settings(plan("table3"))
    whole = by_row["10-and-st-rope-tango"]
    for key, names in (
        ("10-tango-without-diversity", {"diversity"}),
        ("10-merging-without-diversity-or-st-rope", {"diversity", "st_rope"}),
        ("10-and-merging-of-what-changes-tango-without-st-rope", {"st_rope"}),
        ("10-tango-without-timestamps", {"timestamps"}),
        ("10-tango-attn", {"saliency"}),
    ):
        assert {each for each in whole if by_row[key][each] != whole[each]} - {"rope_sections"} == names
    assert {"10-top-k-attn", "10-top-k-p-attn", "10-tango-the-paper-s-text", "10-tango-the-release"} <= set(by_row)


def test_tables_of_settings_are_those_of_eval() -> None:
    bases = settings(plan("table4"))
    assert {(each["base_time"], each["base_space"]) for each in list(bases.values())[1:]} == {
        (time, space) for time in (1e2, 1e3, 1e4, 1e5) for space in (1e2, 1e3, 1e4)
    }
    expansions = [each.get("expansion") for each in settings(plan("fig8")).values()]
    assert expansions == [None, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0]
    signals = [(each["saliency"], each["diversity"]) for each in list(settings(plan("fig7")).values())[1:]]
    assert signals == [("attn", False), ("p-attn", False), ("attn", True), ("p-attn", True)]


def test_figure_6_keeps_the_tokens_and_the_threshold_while_frames_change() -> None:
    made = plan("fig6")
    pruned = [step for step in made.steps if not step.row.unpruned]
    counts = {(step.row.group, cost.kept_tokens(step.resolved, made.shape)) for step in pruned}
    assert {count for _, count in counts} == {32 * 196}
    tango = [step for step in pruned if step.row.method == "tango"]
    assert [(step.row.frames, step.resolved.settings["segment_threshold"]) for step in tango] == [
        (64, 0.65), (128, 0.65), (256, 0.65), (320, 0.65),
    ]  # fmt: skip
    assert [step.row.frames for step in made.steps if step.row.unpruned] == [32]
    assert made.table.tango(tango[0].row) is None
    (fastvid,) = [step.row for step in pruned if step.row.method == "fastvid" and step.row.frames == 128]
    assert made.table.tango(fastvid) is tango[1].row


def test_frames_of_models_of_any_size_are_limited() -> None:
    made = plan("qwen")
    assert made.steps[0].resolved.settings["max_frame_pixels"] == 448 * 448
    assert made.steps[0].row.settings(made.shape).max_frame_pixels == 448 * 448
    assert "max_frame_pixels" not in plan("table1").steps[0].resolved.settings


@pytest.mark.parametrize("name", tables.names())
def test_every_table_resolves_and_begins_with_the_unpruned_model(name: str) -> None:
    made = plan(name)
    assert made.steps[0].row.unpruned
    assert len({step.row.key for step in made.steps}) == len(made.steps)
    assert len({json.dumps(step.resolved.settings, sort_keys=True) for step in made.steps}) >= len(made.steps) - 2
    for step in made.steps:
        other = made.table.tango(step.row)
        assert other is None or other.settings(made.shape) != step.row.settings(made.shape)


def test_beyond_has_every_method_before_the_model() -> None:
    known = {name for name, cls in registry.methods().items() if cls.stage == "pre-llm"}
    made = plan("beyond")
    assert {step.row.method for step in made.steps} == known | {"unpruned", "tango-paper", "tango-release"}
    assert {step.row.retention for step in made.steps} == {1.0, 0.2, 0.1, 0.05, 0.02, 0.01}


def test_an_unknown_table() -> None:
    with pytest.raises(InputError, match="choose one of table1, table2"):
        tables.table("table9")
