"""Every family whose videos are one piece of the prompt, with a small checkpoint; the others are refused by name."""

from pathlib import Path

import pytest
import torch

import tangovlm
from tangovlm import registry
from tangovlm.errors import InputError
from tangovlm.pipeline.load import VideoLLM
from tangovlm.selfcheck.twins import TWINS
from tests.pipeline.test_ask_families import QUESTION, write_checkpoint
from tests.session.test_generate_families import HOSTS
from tests.streaming.test_stream import reference, texts

FAMILIES = {cls.name: cls for cls in registry.families().values()}


@pytest.fixture(scope="module", params=[name for name in HOSTS if FAMILIES[TWINS[name].family].in_one_piece])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(HOSTS[request.param](), folder)
    return tangovlm.load(folder)


def pictures(count: int) -> torch.Tensor:
    """A still half and a busy one."""
    made = torch.randint(0, 256, (count, 3, 60, 80), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    made[: count // 2] = made[0]
    return made


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", ["tango", "milonga"])
def test_answers(llm: VideoLLM, method: str) -> None:
    budget = 30
    stream = tangovlm.stream(llm, method=method, retention=0.5, max_tokens=budget, chunk_frames=4)
    for stop in (3, 6, 13):
        stream.add(pictures(13)[stream.frames : stop])
        answer = stream.ask(QUESTION, max_new_tokens=5)
        assert answer == texts(llm, reference(stream, QUESTION, 5))
        assert answer.frames == stop and answer.tokens_after <= budget < answer.tokens_before + budget
    assert answer.tokens_after == budget


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_frames_that_show_nothing_new(llm: VideoLLM) -> None:
    stream = tangovlm.stream(llm, method="milonga", retention=0.5, chunk_frames=6, encode="changed")
    stream.add(pictures(12))
    answer = stream.ask(QUESTION, max_new_tokens=5)
    assert answer.encoded_frames == 7
    assert answer == texts(llm, reference(stream, QUESTION, 5))


@pytest.mark.parametrize("name", [name for name in HOSTS if not FAMILIES[TWINS[name].family].in_one_piece])
def test_others_are_refused(name: str, tmp_path: Path) -> None:
    write_checkpoint(HOSTS[name](), tmp_path)
    with pytest.raises(InputError, match=f"the family {FAMILIES[TWINS[name].family].name} is none, take one of llava"):
        tangovlm.stream(tmp_path)
