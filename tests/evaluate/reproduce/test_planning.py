"""The tables of the paper as plans: their rows, what each comes down to and costs, what a model cannot reach."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.evaluate.reproduce import benchmarks, cost, models, planning, rows, tables
from tangovlm.evaluate.reproduce.paper import Paper, profile

FOUR = benchmarks.chosen(())


def plan(name: str, model: str | None = None, **options: object) -> planning.Plan:
    return planning.make(tables.table(name), model, FOUR, **options)  # type: ignore[arg-type]


def settings(made: planning.Plan) -> dict[str, dict[str, object]]:
    return {step.row.key: step.planned.settings for step in made.steps}


def test_table_1_has_six_five_and_five_compared_rows_and_tango() -> None:
    made = plan("table1")
    groups = Counter(step.row.group for step in made.steps if not step.row.method.startswith("tango"))
    assert groups == {"100 %": 1, "20 %": 6, "15 %": 5, "10 %": 5}
    tango = Counter(step.row.method for step in made.steps if step.row.method.startswith("tango"))
    assert tango == {"tango": 3, "tango-paper": 3, "tango-release": 3}
    assert {step.row.frames for step in made.steps} == {32}
    assert made.shape.model == models.LLAVA_ONEVISION
    assert not any(step.planned.unreachable for step in made.steps)


def test_every_hyper_parameter_is_said() -> None:
    told = settings(plan("table1"))
    for group, threshold in (("20", 0.8), ("15", 0.8), ("10", 0.65)):
        own = told[f"{group}-tango"]
        assert own["retention"] == own["retention_before_llm"] == int(group) / 100
        assert (own["segment_threshold"], own["static_threshold"]) == (threshold, threshold)
        assert (own["context_ratio"], own["neighbors"], own["expansion"]) == (0.4, 7, 1.5)
        assert (own["base_time"], own["base_space"]) == (1e4, 1e3)
        assert own["rope_sections"] == [1196, 1194, 1194]
        assert (own["frames"], own["saliency"], own["exact"]) == (32, "p-attn", True)
    release, paper = told["10-tango-the-release"], told["10-tango-the-paper-s-text"]
    assert (release["exact"], release["placement"], release["static_threshold"]) == (False, "release", 0.8)
    assert (paper["anchor_weight"], paper["placement"], paper["static_threshold"]) == (0.0, "consistent", 0.65)
    assert told["10-visionzip"]["dominant_ratio"] == 0.95
    assert (told["10-fastvid"]["min_segments"], told["10-fastvid"]["segment_threshold"]) == (8, 0.9)
    fastv = told["10-fastv"]["in_llm"]
    assert isinstance(fastv, dict)
    ((cut,), kept) = (fastv["cuts"], (2.8 - 2) / 26)
    assert cut["from_layer"] == 2
    assert cut["keep"] == pytest.approx(kept)


def test_pairs_keep_12_17_percent_before_the_model_and_the_threshold_of_the_mean() -> None:
    told = settings(plan("table2"))
    for key in ("10-holitom", "10-tango-and-tango-fastv", "10-tango-the-release-and-tango-fastv"):
        assert told[key]["retention_before_llm"] == pytest.approx(0.1 * 28 / 23)
        assert told[key]["segment_threshold"] == 0.65
        assert told[key]["in_llm"]["cuts"] == [{"from_layer": 18, "keep": 0.5}]  # type: ignore[index]
    assert told["15-holitom"]["segment_threshold"] == 0.8
    assert {each["frames"] for each in told.values()} == {64}


def test_table_3_changes_one_part_at_a_time() -> None:
    told = settings(plan("table3"))
    whole = told["10-and-st-rope-tango"]
    for key, names in (
        ("10-tango-without-diversity", {"diversity"}),
        ("10-merging-without-diversity-or-st-rope", {"diversity", "st_rope"}),
        ("10-and-merging-of-what-changes-tango-without-st-rope", {"st_rope"}),
        ("10-tango-without-timestamps", {"timestamps"}),
        ("10-tango-attn", {"saliency"}),
    ):
        assert {each for each in whole if told[key][each] != whole[each]} - {"rope_sections"} == names
    assert {"10-top-k-attn", "10-top-k-p-attn", "10-tango-the-paper-s-text", "10-tango-the-release"} <= set(told)


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
    counts = {(step.row.group, cost.kept_tokens(step.planned, made.shape)) for step in pruned}
    assert {count for _, count in counts} == {32 * 196}
    tango = [step for step in pruned if step.row.method == "tango"]
    assert [(step.row.frames, step.planned.settings["segment_threshold"]) for step in tango] == [
        (64, 0.65), (128, 0.65), (256, 0.65), (320, 0.65),
    ]  # fmt: skip
    assert [step.row.frames for step in made.steps if step.row.unpruned] == [32]
    assert made.table.tango(tango[0].row) is None
    (fastvid,) = [step.row for step in pruned if step.row.method == "fastvid" and step.row.frames == 128]
    assert made.table.tango(fastvid) is tango[1].row


def test_frames_of_models_of_any_size_are_limited() -> None:
    made = plan("qwen")
    assert made.steps[0].planned.settings["max_frame_pixels"] == 448 * 448
    assert made.steps[0].row.settings(made.shape).max_frame_pixels == 448 * 448
    assert "max_frame_pixels" not in plan("table1").steps[0].planned.settings


@pytest.mark.parametrize("name", tables.names())
def test_every_table_resolves_and_begins_with_the_unpruned_model(name: str) -> None:
    made = plan(name)
    assert made.steps[0].row.unpruned
    assert len({step.row.key for step in made.steps}) == len(made.steps)
    assert len({json.dumps(step.planned.settings, sort_keys=True) for step in made.steps}) >= len(made.steps) - 2
    for step in made.steps:
        other = made.table.tango(step.row)
        assert other is None or other.settings(made.shape) != step.row.settings(made.shape)


def test_beyond_has_every_method_before_the_model() -> None:
    known = {name for name, cls in registry.methods().items() if cls.stage == "pre-llm"}
    made = plan("beyond")
    assert {step.row.method for step in made.steps} == known | {"unpruned", "tango-paper", "tango-release"}
    assert {step.row.retention for step in made.steps} == {1.0, 0.2, 0.1, 0.05, 0.02, 0.01}


def test_what_four_layers_cannot_reach_is_listed_with_the_reason() -> None:
    made = plan("table1", models.TINY)
    reasons = {step.row.key: step.planned.unreachable for step in made.steps if step.planned.unreachable}
    assert set(reasons) == {f"{group}-{name}" for group in (20, 15, 10) for name in ("fastv", "dart")}
    assert all("the smallest is 0.25" in str(reason) for reason in reasons.values())
    assert "the smallest is 0.25" in planning.markdown(made, {})
    assert len(made.reachable) == len(made.steps) - 6
    assert {step.row.frames for step in made.steps} == {8}


def test_the_prediction_gives_back_the_profile_that_it_comes_from() -> None:
    made = plan("table1")
    (step,) = [step for step in made.steps if step.row.key == "10-tango-the-release"]
    ttft_s = profile()["ttft_ms"] / 1000
    # Two words of the answer beside the time to the first one.
    assert step.cost.seconds - 2 / profile()["decode_tokens_per_s"] == pytest.approx(ttft_s, rel=0.02)
    assert step.cost.memory_gb == pytest.approx(profile()["peak_memory_gb"], rel=0.15)
    whole = made.steps[0].cost
    assert whole.seconds > step.cost.seconds
    assert made.totals["gpu_hours"] == pytest.approx(sum(each.cost.hours for each in made.steps), abs=0.1)
    assert plan("table1", gpus=8).totals["wall_hours"] == pytest.approx(made.totals["gpu_hours"] / 8, abs=0.1)
    assert plan("table1", limit=20).totals["gpu_hours"] < 5


def test_a_faster_gpu_is_predicted_to_take_less() -> None:
    slow, fast = plan("qwen"), plan("qwen", device="NVIDIA H200")
    assert fast.totals["gpu_hours_busy"] < slow.totals["gpu_hours_busy"]
    assert "NVIDIA H200" in fast.assumptions
    assert "an A800" in plan("qwen", device="some other device").assumptions


def test_too_little_memory_and_too_few_gpus_are_refused_before_anything_is_loaded() -> None:
    made = plan("fig6", gpus=2)
    with pytest.raises(InputError, match=r"predicted to take \d\d\.\d GB on each GPU and small has 16\.0 GB"):
        planning.check_devices(made, [80 * 10**9, 16 * 10**9], "small")
    with pytest.raises(InputError, match="--gpus is 2, and PyTorch sees 1 here"):
        planning.check_devices(made, [80 * 10**9], "large")
    planning.check_devices(made, [80 * 10**9] * 2, "large")
    planning.check_devices(made, [], "none")


def test_rows_are_chosen_by_name_or_expression_and_the_unpruned_model_stays() -> None:
    def keys(*wanted: str) -> list[str]:
        return [step.row.key for step in plan("table1", rows=wanted).steps]

    assert keys("10-tango") == ["100-all-tokens", "10-tango"]
    assert keys("^10-(fastv|dart)$") == ["100-all-tokens", "10-fastv", "10-dart"]
    assert keys("PruneVid", "10-fastvid") == ["100-all-tokens", "20-prunevid", "10-fastvid"]
    with pytest.raises(InputError, match=r"fits no row of table1: it has 100-all-tokens, 20-fastv"):
        keys("flashvid")
    with pytest.raises(InputError, match="no regular expression"):
        keys("(")


@pytest.mark.parametrize(
    ("config", "tokens", "layers"),
    [
        (
            {
                "text_config": {
                    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
                    "num_key_value_heads": 2, "vocab_size": 100,
                },
                "vision_config": {
                    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                    "image_size": 384, "patch_size": 14,
                },
            },
            32 * 196,
            6,
        ),
        (
            {
                "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 28, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 100, "mm_spatial_pool_mode": "average",
            },
            32 * 169,
            28,
        ),
    ],
)  # fmt: skip
def test_shapes_of_checkpoints(config: dict[str, object], tokens: int, layers: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = models.shape_of(str(tmp_path))
    assert (shape.tokens_before(32), shape.text.layers) == (tokens, layers)


def test_models_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not known here"):
        models.shape_of("someone/else-7b")
    with pytest.raises(InputError, match=r"has no config\.json"):
        models.shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="does not say the shape"):
        models.shape_of(str(tmp_path))


def test_published_numbers_have_sources_and_others_are_not_invented(tmp_path: Path) -> None:
    made, paper = plan("table1"), Paper()
    known = {step.row.key: paper.of("table1", step.row) for step in made.steps}
    assert {key: each for key, each in known.items() if each} == {
        key: {"percent_of_baseline": 98.9} for key in ("10-tango", "10-tango-the-paper-s-text", "10-tango-the-release")
    }
    assert "abstract" in paper.sources("table1", tuple(step.row for step in made.steps))[0]
    own = tmp_path / "own.json"
    own.write_text('{"table1": {"10 %": {"FastV": {"mvbench": 55.5, "average": null}}}}')
    (fastv,) = [step.row for step in made.steps if step.row.key == "10-fastv"]
    assert Paper(own).of("table1", fastv) == {"mvbench": 55.5}
    own.write_text('{"table1": {"10 %": {"FastV": {"mvbench": "55.5"}}}}')
    with pytest.raises(InputError, match=r"is no file of published numbers \('55.5' is no number\)"):
        Paper(own)
    with pytest.raises(InputError, match="cannot be read"):
        Paper(tmp_path / "missing.json")


def test_names_that_are_not_known() -> None:
    with pytest.raises(InputError, match="choose one of table1, table2"):
        tables.table("table9")
    with pytest.raises(InputError, match="choose of mvbench, longvideobench, mlvu, videomme"):
        benchmarks.chosen(["egoschema"])
    assert [each.name for each in benchmarks.chosen(["videomme", "mvbench"])] == ["mvbench", "videomme"]
    with pytest.raises(InputError, match="two rows are called"):
        rows.check_alone((tables.table("table1").rows[0],) * 2)
