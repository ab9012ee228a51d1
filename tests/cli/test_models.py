"""`tangovlm models` shows the registry: one entry a family."""

from collections import Counter
from pathlib import Path

import tangovlm
from tangovlm import registry
from tangovlm.cli.catalog import ModelCard, saved
from tangovlm.models.common.family import FEATURES
from tangovlm.models.common.signals import SALIENCY_KINDS
from tests.cli.conftest import Run

SERVED = {"llava-onevision", "llava-video", "qwen2.5-omni", "qwen2.5-vl", "qwen3-omni", "qwen3-vl", "qwen3.5"}
"""Families that vLLM can run with pruned videos."""


def test_json_lists_every_family_once(tangovlm_command: Run) -> None:
    outcome = tangovlm_command("models", "--json")
    assert (outcome.status, outcome.out.count("\n"), outcome.err) == (0, 1, "")
    listed = outcome.json
    families = {family.name: family for family in registry.families().values()}
    assert [entry["family"] for entry in listed] == sorted(families)
    assert Counter(name for entry in listed for name in entry["architectures"]) == Counter(list(registry.families()))
    for entry in listed:
        family = families[entry["family"]]
        assert all(registry.family_for(name) is family for name in entry["architectures"])
        kinds = [signal for signal in entry["signals"] if signal in SALIENCY_KINDS]
        assert kinds == list(family.signals.saliency_kinds) == entry["signals"][: len(kinds)]
        assert set(entry["signals"]) - set(kinds) == family.signals.provides - {"saliency"}
        assert set(entry["tested"]) == family.tested
        assert entry["checkpoints"] == list(family.checkpoints)
        assert entry["served"] == (entry["family"] in SERVED)
        assert (Path(tangovlm.__file__).parent / "models" / f"{entry['module'].split('.')[-1]}.py").is_file()


def test_table(tangovlm_command: Run) -> None:
    outcome = tangovlm_command("models")
    assert outcome.status == 0
    for wanted in ("llava-onevision", "p-attn", "multi-turn"):
        assert wanted in outcome.out
    for card in saved().models:
        assert card.family in outcome.out


def test_words_for_what_is_tested() -> None:
    def words(*tested: str) -> str:
        untested = tuple(feature for feature in FEATURES if feature not in tested)
        return ModelCard("a-family", (), (), tested, untested, (), "", served=False).tested_in

    assert words(*FEATURES) == "all"
    assert words(*FEATURES[1:-1]) == f"all but {FEATURES[0]}, {FEATURES[-1]}"
    assert words() == "none"


def test_explain(tangovlm_command: Run, tmp_path: Path) -> None:
    outcome = tangovlm_command("models", "--explain", "tangovlm-tiny")
    assert (outcome.status, outcome.out) == (
        0,
        "LlavaOnevisionForConditionalGeneration: supported by the family llava-onevision\n",
    )
    (tmp_path / "config.json").write_text('{"architectures": ["SomebodysModel"]}')
    told = tangovlm_command("models", "--explain", str(tmp_path), "--json").json
    assert (told["family"], told["generic"]) == (None, False)
    assert "SomebodysModel" in told["missing"][0]
    outcome = tangovlm_command("models", "--explain", str(tmp_path / "nothing"))
    assert (outcome.status, outcome.out) == (2, "")
