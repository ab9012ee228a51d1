"""The page in a headless Chromium: what a user sees and does, with the mouse, the keyboard, and beside another user."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tangovlm.app.clips import Clip
from tests.app.web.contrast import MEASURE

WAIT_MS = 90_000
QUESTION, ANSWER = "What color is the bar?", "red"
PROGRAM = """
import sys
from tangovlm.cli import main
sys.exit(main(["app", "--port", "0", "--max-megabytes", "1", *sys.argv[1:]]))
"""


class Server:
    """The command in a process of its own."""

    def __init__(self, temporary: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TMPDIR": str(temporary)},
        )
        assert self.process.stderr is not None
        self.url = ""
        for line in self.process.stderr:
            if line.startswith("http"):
                self.url = line.split()[0]
                break
        # A full pipe would stop the server.
        self.lines: list[str] = []
        threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True).start()

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(gradio: None, temporary: Path) -> Iterator[Server]:
    started = Server(temporary)
    yield started
    started.close()
    assert started.process.returncode == 0
    # Those of files that were refused.
    assert all(re.match(r"tangovlm: (broken|large)\.mp4: ", line) for line in started.lines), started.lines
    # PyTorch keeps a folder of its own.
    assert list(temporary.glob("tangovlm-app-*")) == []


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[..., Any]]:
    """Opens pages that are ready to be asked, each in a browser profile of its own; checks what they did in the end."""
    opened = []

    def open_page(url: str = server.url, **options: Any) -> Any:
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(WAIT_MS)
        requests: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Security Policy" in message.text else None)
        page.goto(url)
        opened.append((page, url, requests, errors))
        if url == server.url:
            page.wait_for_selector("#tv-ask:not([disabled])")
            page.wait_for_selector("#tv-suggestions label")
        return page

    yield open_page
    for page, url, requests, errors in opened:
        outside = [each for each in requests if not each.startswith((f"{url}/", "data:", "blob:"))]
        assert requests
        assert outside == []
        assert errors == []
        page.context.close()


def ask(page: Any, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.locator("#tv-ask").click()
    wait_for_answers(page, question)


def wait_for_answers(page: Any, question: str, heading: str = "") -> None:
    """Both answers to a question are complete."""
    about = page.locator("#tv-answers", has=page.locator(".tv-question", has_text=question))
    about.locator(".tv-card.full dl").wait_for()
    about.locator(".tv-card.pruned", has_text=heading).locator("dl").wait_for()
    about.locator(".tv-status").wait_for(state="detached")
    page.locator("#tv-shown .tv-kept-by", has_text=heading).wait_for()


def answer_of(page: Any, kind: str) -> str:
    return page.locator(f".tv-card.{kind} .tv-answer").inner_text()


def kept(page: Any) -> int:
    """Tokens that the frames show as kept."""
    return sum(int(each.split("/")[0]) for each in page.locator("#tv-shown figcaption b").all_inner_texts())


def test_answers_overlay_slider_and_method(visit: Callable[..., Any], demo: Clip) -> None:
    page = visit(viewport={"width": 1000, "height": 900})
    page.locator("#tv-suggestions label", has_text=QUESTION).click()
    page.locator("#tv-ask").click()
    wait_for_answers(page, QUESTION)
    assert (answer_of(page, "full"), answer_of(page, "pruned")) == (ANSWER, ANSWER)
    assert "102 of 1,024 (9.96 %)" in page.locator(".tv-card.pruned").inner_text()
    assert kept(page) == 102
    # Only the chosen layer is drawn over the frames.
    for name in ("kept", "clusters", "saliency", "none"):
        page.locator(f"label:has(#tv-layer-{name})").click()
        shown = page.locator("#tv-shown .tv-stack").first.locator(".over:visible")
        assert shown.count() == (name != "none")
        if name != "none":
            assert name in str(shown.get_attribute("class"))
            assert shown.evaluate("image => image.naturalWidth") > 0
    # A cluster.
    page.locator("#tv-shown .tv-stack").first.hover(position={"x": 8, "y": 8})
    assert page.locator(".tv-readout").inner_text().startswith("Frame 1 (0.0 s), row 1, column 1: ")

    page.locator("#tv-retention input[type=range]").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait_for_answers(page, QUESTION, "tango, 15 %")
    assert kept(page) == 154
    page.get_by_role("combobox", name="Method").click()
    page.get_by_role("option", name="uniform", exact=True).click()
    wait_for_answers(page, QUESTION, "uniform, 15 %")
    assert kept(page) == 154

    with page.expect_download() as download:
        page.get_by_role("link", name="Save this run").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert QUESTION in text
    assert "uniform" in text


def test_methods_compared(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("tab", name="Compare methods").click()
    for name in ("milonga", "fastvid", "visionzip"):
        page.get_by_role("checkbox", name=name, exact=True).click()
    page.locator("#tv-compare").click()
    page.get_by_role("link", name="Save the table as CSV").wait_for()
    rows = page.locator(".tv-table tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["all tokens", "tango, 10 %", "uniform, 10 %"]
    assert page.locator("#tv-comparison .tv-strip").count() == 2
    assert page.locator("#tv-comparison .tv-strip .over.kept:visible").count() == 16
    assert page.locator("#tv-comparison .tv-marks .of-kept:visible").count() == 1
    assert page.locator("#tv-comparison .of-clusters:visible").count() == 0
    boxes = [each.bounding_box() for each in page.locator("#tv-comparison .tv-strip").first.locator(".tv-stack").all()]
    for frame, following in pairwise(boxes):
        assert frame["x"] + frame["width"] <= following["x"] - 8


def test_a_file_of_the_user(
    visit: Callable[..., Any], server: Server, demo: Clip, tmp_path: Path, temporary: Path
) -> None:
    def uploads() -> list[Path]:
        known = ("world-1-demo.mp4", "world-1-still.mp4")
        return [path for path in temporary.glob("tangovlm-app-*/*.mp4") if path.name not in known]

    page = visit()
    broken, large, mine = tmp_path / "broken.mp4", tmp_path / "large.mp4", tmp_path / "mine.mp4"
    broken.write_bytes(demo.path.read_bytes()[:5000])
    large.write_bytes(b"x" * 1_100_000)
    mine.write_bytes(demo.path.read_bytes())
    field = page.locator(".tv-picker input")
    for path, words in ((broken, "broken.mp4: the file ends"), (large, "large.mp4: 1.1 MB, and up to 1 MB")):
        field.set_input_files(path)
        page.locator(".tv-upload-message [role=alert]", has_text=words).wait_for()
        assert page.locator("[role=alert]:visible").count() == 1
        # The clip that was chosen before can still be asked about.
        assert page.locator(".tv-player figcaption").inner_text() == "Demo, 8 s"
    assert uploads() == []
    assert [line for line in server.lines if "broken.mp4: the file ends" in line]
    field.set_input_files(mine)
    page.locator(".tv-player figcaption", has_text="mine.mp4, 0:08").wait_for()
    assert page.locator("[role=alert]:visible").count() == 0
    page.locator("#tv-clips input:checked").wait_for(state="detached")
    assert len(uploads()) == 1
    ask(page, QUESTION)
    assert answer_of(page, "pruned") == ANSWER
    page.locator("#tv-clips label").nth(1).click()
    page.locator(".tv-player figcaption", has_text="Still, 8 s").wait_for()
    page.locator(".tv-card").first.wait_for(state="detached")
    assert uploads() == []
    field.set_input_files(mine)
    page.locator(".tv-player figcaption", has_text="mine.mp4, 0:08").wait_for()
    page.close()
    for _ in range(100):
        if not uploads():
            break
        threading.Event().wait(0.1)
    assert uploads() == []


def test_two_browsers_at_once(visit: Callable[..., Any], demo: Clip, still: Clip) -> None:
    one, other = visit(), visit()
    other.locator("#tv-clips label").nth(1).click()
    other.locator(".tv-player figcaption", has_text="Still, 8 s").wait_for()
    questions = [(one, *demo.questions[3]), (other, *still.questions[1])]
    for page, question, _ in questions:
        page.get_by_label("Question").fill(question)
    for page, _, _ in questions:
        page.locator("#tv-ask").click()
    for page, question, truth in questions:
        wait_for_answers(page, question)
        assert answer_of(page, "full") == truth
    assert "about Demo, 8 s" in one.locator("#tv-answers").inner_text()
    assert "about Still, 8 s" in other.locator("#tv-answers").inner_text()


def test_the_keyboard_alone(visit: Callable[..., Any]) -> None:
    page = visit()
    focused = "document.activeElement"

    def tab_to(condition: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            assert page.evaluate(f"{focused} !== document.body")
            if page.evaluate(f"(() => {{ const e = {focused}; return Boolean({condition}); }})()"):
                style = page.evaluate(
                    f"""(() => {{
                        const marked = (e) => {{
                            const s = getComputedStyle(e);
                            return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2;
                        }};
                        const e = {focused};
                        return marked(e) || Boolean(e.closest('label') && marked(e.closest('label')));
                    }})()"""
                )
                assert style, f"nothing shows the focus: {condition}"
                return
        pytest.fail(f"the tab key does not lead to {condition}")

    # In the order of the page; a group of radio buttons is one stop.
    tab_to("e.tagName === 'VIDEO'")
    tab_to("e.closest('#tv-clips')")
    tab_to("e.closest('.tv-picker')", most=1)
    tab_to("e.closest('#tv-question')", most=1)
    tab_to("e.closest('#tv-suggestions')", most=1)
    page.keyboard.press("Space")
    page.wait_for_function("text => document.querySelector('#tv-question textarea').value === text", arg=QUESTION)
    tab_to("e.closest('#tv-method')", most=1)
    page.keyboard.press("ArrowDown")
    page.locator("[role=option]").first.wait_for()
    page.keyboard.press("Escape")
    tab_to("e.closest('#tv-retention') && e.type === 'range'")
    page.keyboard.press("ArrowRight")
    tab_to("e.id === 'tv-ask'")
    page.keyboard.press("Enter")
    wait_for_answers(page, QUESTION)
    assert answer_of(page, "full") == ANSWER
    tab_to("e.getAttribute('role') === 'tab'", most=1)
    tab_to("e.matches('a.tv-button')")
    tab_to("e.name === 'tv-layer'", most=1)
    page.keyboard.press("ArrowRight")
    assert page.locator("#tv-layer-clusters").is_checked()
    tab_to("e.matches('.tv-frames')", most=1)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("PageDown")
    assert page.locator(".tv-readout").inner_text().startswith("Frame 2 (0.5 s), row 1, column 1: ")
    page.keyboard.press("ArrowDown")
    assert "row 2, column 1" in page.locator(".tv-readout").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(visit: Callable[..., Any], scheme: str, tmp_path: Path) -> None:
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for large text, from the colours that the browser computes."""
    page = visit(color_scheme=scheme, viewport={"width": 1000, "height": 900})
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    page.locator(".tv-picker input").set_input_files(tmp_path / "broken.mp4")
    page.locator(".tv-upload-message [role=alert]").wait_for()
    page.get_by_role("button", name="More settings").click()
    page.locator("#tv-positions").wait_for()
    ask(page, QUESTION)
    found = page.evaluate(MEASURE)
    page.get_by_role("tab", name="Compare methods").click()
    page.locator("#tv-compared").wait_for()
    found += page.evaluate(MEASURE)
    texts = {each["text"] for each in found}
    for expected in (
        "Ask",
        "Question",
        QUESTION,
        "all tokens",
        "tango, 10 %",
        "More settings",
        "visual tokens",
        "Compare",
    ):
        assert expected in texts, expected
    assert any("broken.mp4" in text for text in texts)
    assert len(found) > 80
    poor = [each for each in found if each["ratio"] < each["needed"]]
    assert poor == []
    # The page is in the scheme that was asked for.
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")


def test_a_phone(visit: Callable[..., Any]) -> None:
    page = visit(viewport={"width": 400, "height": 800}, has_touch=True)
    ask(page, QUESTION)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    stack = page.locator("#tv-shown .tv-stack").first
    stack.scroll_into_view_if_needed()
    stack.tap(position={"x": 8, "y": 8})
    assert page.locator(".tv-readout").inner_text().startswith("Frame 1 (0.0 s), row 1, column 1: ")


def test_a_model_that_does_not_load(visit: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    failed = Server(tmp_path_factory.mktemp("failed"), "--model", str(folder))
    try:
        page = visit(failed.url)
        page.locator("[role=alert]", has_text="NoSuchModel").wait_for()
        assert page.locator("#tv-ask").is_disabled()
    finally:
        failed.close()
    assert failed.process.returncode == 2
    assert len(failed.lines) == 1
    assert "NoSuchModel" in failed.lines[0]
