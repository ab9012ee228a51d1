"""`tangovlm methods` shows the registry."""

from dataclasses import fields

from tangovlm import registry
from tangovlm.methods import build
from tests.cli.conftest import Run


def test_json_lists_every_method(tangovlm_command: Run) -> None:
    listed = {entry["name"]: entry for entry in tangovlm_command("methods", "--json").json}
    assert list(listed) == list(registry.methods())
    for name, entry in listed.items():
        pruner = build.method(name)
        assert entry["stage"] == pruner.stage
        assert len(entry["signals"]) == len(pruner.needs) and "saliency" not in entry["signals"]
        assert entry["paper"] == "" or entry["paper"].startswith("https://")
        assert list(entry["parameters"]) == [field.name for field in fields(pruner) if field.init]
        assert build.method(name, **entry["parameters"]) == pruner


def test_saliency_is_named_by_its_attention(tangovlm_command: Run) -> None:
    listed = {entry["name"]: entry for entry in tangovlm_command("methods", "--json").json}
    assert listed["tango"]["signals"] == ["p-attn", "timestamps"]


def test_table(tangovlm_command: Run) -> None:
    outcome = tangovlm_command("methods")
    assert outcome.status == 0
    for wanted in ("tango", "p-attn", "retention=0.1", "neighbors=7"):
        assert wanted in outcome.out
