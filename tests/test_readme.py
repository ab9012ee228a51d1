"""The README is short, and its examples run as they are copied."""

import re
from pathlib import Path

import pytest

from tangovlm.tiny.clip import write_demo

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def example(word: str) -> str:
    """The one Python block of the README that contains a word."""
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in block]
    return block


def test_it_is_at_most_12_kb() -> None:
    assert len(README.encode()) <= 12_000


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_example_of_attach_on_the_demo_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tangovlm-demo").mkdir()
    questions = write_demo(tmp_path / "tangovlm-demo" / "clip.mp4")
    monkeypatch.chdir(tmp_path)

    attached = example("tangovlm.attach(")
    (asked,) = re.findall(r'"text": "(.*?)"', attached)
    right = dict(questions)[asked]
    exec(attached, {})
    answer, *report = capsys.readouterr().out.splitlines()
    assert answer.strip() == right
    assert "102" in "\n".join(report)
    assert "1024" in "\n".join(report)
