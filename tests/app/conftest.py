"""The embedded model, example clips, and what tests of the page need beside the library.

`make test-app` has Gradio, Playwright and Chromium, and sets TEST_APP: there a test that cannot run fails. Elsewhere it
is skipped with a reason.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest

import tangovlm
from tangovlm.app.clips import Clip, Example, examples
from tangovlm.app.engine import Engine
from tangovlm.app.limits import Limits
from tangovlm.app.sessions import Session
from tangovlm.pipeline import VideoLLM


def need(name: str, is_there: bool) -> None:
    """Skip the test unless something is installed; fail where it must be."""
    if is_there:
        return
    reason = f"{name} is not installed: make test-app has it"
    if "TEST_APP" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def gradio() -> None:
    need("Gradio", find_spec("gradio") is not None)


@pytest.fixture(scope="session")
def chromium(gradio: None) -> str:
    """The path of the browser."""
    need("Playwright", find_spec("playwright") is not None)
    found = which("chromium") or which("chromium-browser") or which("google-chrome")
    need("Chromium", found is not None)
    return str(found)


@pytest.fixture(scope="session")
def llm() -> VideoLLM:
    return tangovlm.load(device="cpu")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def demo(folder: Path) -> Clip:
    return examples()[0].clip(folder)


@pytest.fixture(scope="session")
def still(folder: Path) -> Clip:
    """A clip that shows something else."""
    return Example("Still", 1, 5, 16, "still").clip(folder)


@pytest.fixture
def engine(llm: VideoLLM) -> Engine:
    """An engine whose model is loaded."""
    made = Engine(lambda: llm, Limits())
    made.start()
    assert made.wait(60) is llm
    return made


@pytest.fixture
def page(engine: Engine) -> Callable[[str, Clip], Session]:
    """Opens a page with a clip."""

    def opened(name: str, clip: Clip) -> Session:
        session = engine.sessions.get(name)
        assert session is not None
        engine.sessions.choose(session, clip)
        return session

    return opened
