"""The tables: which runs they hold, and what those are compared with."""

import json
from itertools import pairwise

import pytest

from tangovlm import Tango, registry
from tangovlm.budget import count
from tangovlm.cli.commands.eval import TableName
from tangovlm.errors import InputError, MethodError
from tangovlm.evaluate.runs import Run, build_run, percent, spec_key, unpruned_run
from tangovlm.evaluate.tables import Table, custom, names, table
from tangovlm.evaluate.tables.comparison import AllTokens, Defaults
from tangovlm.evaluate.tangoworld import Benchmark
from tangovlm.methods import build


@pytest.mark.parametrize("name", names())
def test_rows(name: str) -> None:
    chosen = table(name)
    assert chosen.runs[0].key == unpruned_run().key
    assert sum(each.key == unpruned_run().key for each in chosen.runs) == 1
    labels = [(each.group, each.label) for each in chosen.runs]
    assert len(set(labels)) == len(labels)
    groups = [each.group for each in chosen.runs]
    assert sum(a != b for a, b in pairwise(groups)) == len(set(groups)) - 1
    assert chosen.comparisons[0] == AllTokens()


@pytest.mark.parametrize("name", names())
def test_references(name: str) -> None:
    chosen = table(name)
    for comparison in chosen.comparisons:
        for each in chosen.runs if isinstance(comparison, Defaults) else ():
            reference = comparison.find(each, chosen.runs)
            assert each.unpruned or reference is not None
            assert reference is None or reference.pruner.name == comparison.method
            assert reference is None or (reference.group, reference.pruner.retention) == (
                each.group,
                each.pruner.retention,
            )


def test_the_command_knows_every_table() -> None:
    assert tuple(TableName) == names()


def test_every_method_is_compared() -> None:
    pre_llm = {name for name, cls in registry.methods().items() if getattr(cls, "stage", "") == "pre-llm"}
    for name in ("methods", "frames"):
        assert {each.pruner.name for each in table(name).runs} == pre_llm
    assert {0.1, 0.15, 0.2} <= {each.pruner.retention for each in table("methods").runs}


def tango_of(of: Table, run: Run) -> Run | None:
    return Defaults("tango").find(run, of.runs)


def test_both_positions() -> None:
    by_label = {each.label: each for each in table("methods", [0.1]).runs}
    assert by_label["tango"].positions == "contiguous"
    other = by_label["tango, original positions"]
    assert (other.positions, other.pruner) == ("original", by_label["tango"].pruner)
    assert "divprune, original positions" in by_label
    assert "fastvid, original positions" not in by_label
    for each in by_label.values():
        own = getattr(each.pruner, "positions", "contiguous")
        if not each.unpruned and not each.label.endswith("positions"):
            assert each.positions == own
        if own == "original" and not each.unpruned:
            assert f"{each.pruner.name}, contiguous positions" in by_label


def test_choices() -> None:
    chosen = table("methods", retentions=[0.3], methods=["uniform"])
    assert [each.key for each in chosen.runs] == [unpruned_run().key, build_run("uniform", 0.3).key]
    assert {each.pruner.retention for each in table("expansion", [0.3]).runs} == {0.3, 1.0}
    mine = custom(["tango"], [0.1], {"neighbors": 5})
    assert mine.runs[1].pruner == build.method("tango", retention=0.1, neighbors=5)
    assert tango_of(mine, mine.runs[1]) is None


def test_close_retentions_are_told_apart_and_equal_runs_are_not_repeated() -> None:
    close = custom(["tango", "uniform", "tango"], [0.1, 0.1001, 0.1], {})
    assert [(each.group, each.label) for each in close.runs[1:]] == [
        ("10 %", "tango"), ("10 %", "uniform"), ("10.01 %", "tango"), ("10.01 %", "uniform"),
    ]  # fmt: skip
    assert tango_of(close, close.runs[4]) is close.runs[3]
    assert [percent(each) for each in (1.0, 1, 0.07, 0.15, 0.29)] == ["100 %", "100 %", "7 %", "15 %", "29 %"]
    assert [each.label for each in custom(["tango", "uniform"], [1.0], {}).runs] == ["all tokens"]
    assert [each.label for each in table("methods", [1.0]).runs] == ["all tokens"]


@pytest.mark.parametrize(
    "options",
    [{"frames": value} for value in ("banana", 3.5, 0, -1, True)]
    + [{"saliency": "attention"}, {"saliency": ["attn"]}, {"positions": "close"}, {"positions": None}],
)
def test_options_of_a_run(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} is "):
        build_run("tango", 0.1, **options)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("tables", ("nothing", (), ())),
        ("--method", ("bases", (), ("uniform",))),
        ("tengo", ("methods", (), ("tengo",))),
    ],
)
def test_mistakes(words: str, arguments: tuple[str, tuple[float, ...], tuple[str, ...]]) -> None:
    with pytest.raises((InputError, MethodError), match=words if words != "tables" else "choose one of"):
        table(*arguments)


def test_the_same_budget_at_all_frames() -> None:
    budgets: dict[str, set[int]] = {}
    for each in table("frames").runs:
        if not each.unpruned:
            budgets.setdefault(each.group, set()).add(count(each.pruner.retention, (each.frames or 0) * 64))
    assert budgets
    assert all(len(counts) == 1 for counts in budgets.values())


def test_the_threshold_is_fixed_over_the_frames() -> None:
    frames = [each for each in table("frames").runs if each.label.startswith("tango")]
    # 2 and 5 % of 64 frames are up to 40 % of 8.
    assert max(each.pruner.retention for each in frames) == 0.4
    assert {each.pruner.segment_threshold for each in frames} == {0.65}
    of = table("frames")
    flash = next(each for each in of.runs if each.label == "flashvid, 8 frames")
    reference = tango_of(of, flash)
    assert reference is not None
    assert (reference.label, reference.group) == ("tango, 8 frames", flash.group)


def test_the_paper_s_rows_are_in_the_tables() -> None:
    labels = {name: {each.label: each for each in table(name).runs} for name in ("ablation", "placement", "pairs")}
    assert labels["ablation"]["merging without diversity or ST-RoPE"].pruner.merge
    for part in ("ST-RoPE = Tango", "without diversity", "without timestamps", "+ diversity; attn"):
        assert any(part in label for label in labels["ablation"])
    paper = labels["placement"]["the text of the paper"].pruner
    assert paper == Tango.paper(retention=paper.retention)
    assert {"tango+tango-fastv", "holitom+holitom-merge"} <= set(labels["pairs"])


def test_what_few_layers_cannot_reach_is_listed() -> None:
    pairs = table("pairs")
    few, many = pairs.within(4), pairs.within(28)
    assert {each.label for each, _ in few.unreachable if each.group == "10 %"} == {
        "dart", "fastv", "holitom-merge", "pyramiddrop", "sparsevlm", "tango-fastv",
    }  # fmt: skip
    assert all("out of reach" in why for _, why in few.unreachable)
    assert len(few.runs) + len(few.unreachable) == len(pairs.runs)
    # FastV cuts at layer 2 of 28, and so reaches 1/14.
    assert "fastv" in {each.label for each in many.runs if each.group == "10 %"}
    assert not any(each.label == "fastv" for each, _ in many.unreachable)


def test_results_from_before_a_setting_was_added_still_count() -> None:
    for each in (build_run("tango", 0.1), build_run("tango+tango-fastv", 0.1)):
        older = json.loads(json.dumps(each.spec))
        settings = older["settings"]["before"] if "before" in older["settings"] else older["settings"]
        for name in ("counts", "equivalent_retention", "rope_pairs"):
            del settings[name]
        assert spec_key(older) == each.key
        settings["neighbors"] = 6
        assert spec_key(older) != each.key


def test_the_parts_of_milonga() -> None:
    of = table("milonga")
    assert {each.group for each in of.runs[1:]} == {"2 %", "5 %", "10 %", "20 %"}
    rows = {each.label: each for each in of.runs if each.group == "5 %"}
    reference = Defaults("milonga").find(rows["Tango"], of.runs)
    assert reference is rows["Milonga"]
    # Every row differs from the first in what it says, and in nothing else.
    for each in rows.values():
        if each.pruner.name == "milonga":
            plain, own = build_settings(rows["Milonga"]), build_settings(each)
            assert sum(plain[name] != own[name] for name in plain) == (each.label != "Milonga")
    assert {"without saliency", "without runs", "attn", "Milonga, contiguous positions"} <= set(rows)


def build_settings(run: Run) -> dict[str, object]:
    return run.spec["settings"] | {"positions": run.positions, "saliency": run.saliency}


def test_adaptive_counts_have_fixed_ones_beside_them() -> None:
    of = table("adaptive")
    following = [each for each in of.runs if each.adaptive]
    for each in following:
        fixed = [other for other in of.runs if not other.adaptive and other.pruner.name == each.pruner.name]
        assert {(other.saliency, other.positions, other.frames) for other in fixed} == {
            (each.saliency, each.positions, each.frames)
        }
        assert {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3} <= {other.pruner.retention for other in fixed}
        assert all(other.pruner.exact for other in fixed)
    assert {each.pruner.retention for each in following} == {0.2, 1.0}
    assert {each.pruner.name for each in following} == {
        name for name, cls in registry.methods().items() if getattr(cls, "adaptive_fields", {})
    }
    assert of.by_length
    capped = table("adaptive", [0.1], ["milonga"])
    assert {each.pruner.retention for each in capped.runs if each.adaptive} == {0.1}
    with pytest.raises(MethodError, match="'tango' keeps a fixed number of tokens"):
        table("adaptive", methods=["tango"])


def test_chosen_methods_with_adaptive_counts() -> None:
    mine = custom(["milonga"], [0.1], {"floor": 0.5}, adaptive_counts=True)
    (run,) = mine.runs[1:]
    assert run.label == "milonga, adaptive, floor=0.5"
    assert run.pruner == build.method("milonga", adaptive=True, retention=0.1, floor=0.5)
    assert run.adaptive


def test_methods_that_read_the_question() -> None:
    read = {each.pruner.name for each in table("question").within(4).runs if each.reads_question}
    assert read == {"flexselect"}
    assert not any(each.reads_question for each in table("methods").runs)
    assert {"flexselect", "fastv"} <= {each.pruner.name for each in table("pairs").runs if each.reads_question}


def test_frames_of_a_later_version() -> None:
    of = table("frames", [0.05], ["uniform"], Benchmark(2, 1000))
    longest = 256
    assert of.lengths == (longest,)
    assert {each.frames for each in of.runs if each.unpruned} == {None, 16, 32, 64, 128}
    assert {count(each.pruner.retention, (each.frames or 0) * 64) for each in of.runs if not each.unpruned} == {819}
