"""The command line has every setting."""

from typing import Any

import pytest

from tangovlm.errors import InputError
from tangovlm.evaluate.harness.settings import Settings
from tangovlm.evaluate.harness.vlmevalkit.command import command_line


def read_back(words: list[str]) -> Settings:
    """The settings that a command line gives."""
    options = [(words[place], words[place + 1]) for place in range(len(words) - 1) if words[place].startswith("--")]
    names = {"--model": "pretrained", "--method": "method", "--retention": "retention", "--frames": "frames"}
    given: dict[str, Any] = {names[option]: value for option, value in options if option in names}
    given |= {value.partition("=")[0]: value.partition("=")[2] for option, value in options if option == "--param"}
    return Settings.read(**given)


@pytest.mark.parametrize(
    "settings",
    [
        Settings("tangovlm-tiny", retention=0.2),
        Settings("tangovlm-tiny", retention=1 / 3, frames=64, in_llm="tango-fastv"),
        Settings("a/b", "tango-release", 0.15, dtype="float16", device_map="auto"),
        Settings("a/b", params={"diversity": False, "context_ratio": 0.4, "neighbors": 5}),
        Settings("a/b", "topk", params={"signal": "attn"}),
        Settings("a/b", "fastv"),
    ],
    ids=str,
)
def test_a_command_line_holds_every_setting(settings: Settings) -> None:
    words = command_line(settings, ["Video-MME_64frame"], "out", 20, data_dir="data")
    assert read_back(words) == settings
    assert words[-7:] == ["--data-dir", "data", "--work-dir", "out", "--reuse", "--limit", "20"]


def test_a_setting_that_no_command_line_holds_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written as a command line"):
        command_line(Settings("a/b", backend="vllm", vllm=("--seed", "1")), ["Video-MME_64frame"], "out")
