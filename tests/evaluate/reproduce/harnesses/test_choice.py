"""The default harness, and rows that reach either harness unchanged."""

from dataclasses import asdict
from pathlib import Path

import pytest

from tangovlm.evaluate.harness.settings import Settings
from tangovlm.evaluate.reproduce import planning, tables
from tangovlm.evaluate.reproduce.harnesses import choice
from tangovlm.evaluate.reproduce.harnesses.base import RowJob
from tangovlm.evaluate.reproduce.harnesses.lmms_eval import LmmsEval
from tangovlm.evaluate.reproduce.harnesses.vlmevalkit import VLMEvalKit
from tests.support.reproduce import FOUR


@pytest.mark.parametrize("name", tables.names())
def test_every_row_comes_through_the_arguments_as_it_is(name: str, tmp_path: Path) -> None:
    made = planning.make_plan(tables.table(name), None, FOUR)
    for step in made.steps:
        own = RowJob(made, step, tmp_path)
        words = LmmsEval().command(own).words
        arguments = dict(pair.split("=", 1) for pair in words[words.index("--model_args") + 1].split(","))
        del arguments["records"]
        wanted = step.row.settings(made.shape)
        assert Settings.read(**arguments) == wanted
        kit = VLMEvalKit().command(own).words
        params = [kit[place + 1] for place, word in enumerate(kit) if word == "--param"]
        given = {option: kit[kit.index(f"--{option}") + 1] for option in ("method", "retention", "frames")}
        found = Settings.read(
            pretrained=kit[kit.index("--model") + 1], **given, **dict(pair.split("=", 1) for pair in params)
        )
        assert asdict(found) == asdict(wanted)


def test_the_default_is_vlmevalkit_and_lmms_eval_for_times(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"vlmevalkit": "0.0.20", "lmms-eval": "0.7.3"}
    monkeypatch.setattr(choice, "version", lambda harness: installed.get(harness.name))
    assert [choice.choose(None)[0].name, choice.choose(None, timed=True)[0].name] == ["vlmevalkit", "lmms-eval"]
    del installed["vlmevalkit"]
    chosen, note = choice.choose(None)
    assert chosen.name == "lmms-eval"
    assert note is not None
    assert note.startswith("vlmevalkit is not installed: lmms-eval is used")
    assert choice.choose("vlmevalkit")[0].name == "vlmevalkit"
    del installed["lmms-eval"]
    assert choice.choose(None)[0].name == "vlmevalkit"
