"""Options that are passed to VLMEvalKit's `run.py`."""

from pathlib import Path

import pytest

from tangovlm.evaluate.harness.settings import Settings
from tangovlm.evaluate.harness.vlmevalkit.launcher import EvaluationRun
from tangovlm.evaluate.harness.vlmevalkit.results import model_name

SETTINGS = Settings("tangovlm-tiny", retention=0.2)


@pytest.mark.parametrize(
    ("extra", "judge", "judged"),
    [
        ([], "exact_matching", True),
        (["--judge", "gpt-4o", "--mode", "infer"], "gpt-4o", False),
        (["--verbose", "--judge=gpt-4o", "--mode=all"], "gpt-4o", True),
    ],
)
def test_options_of_the_script(extra: list[str], judge: str, judged: bool) -> None:
    run = EvaluationRun(SETTINGS, ["MVBench_MP4_32frame"], Path("out"), extra=extra)
    assert (run.judge, run.judged) == (judge, judged)
    given = [word for word in run.arguments if word.startswith("--judge")]
    assert len(given) == 1
    assert run.arguments[:2] == ["--model", model_name(SETTINGS)]
