"""The HTML page in a real browser: what is drawn, keyboard, touch, colour schemes, print.

Needs Playwright's Python package, and Chromium of the system or of Playwright.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tangovlm.report import Exchange, html_page, scene
from tangovlm.report.palette import cluster_colours
from tangovlm.report.scenes import KeptSet, Scene
from tangovlm.session.records import VideoRecord
from tangovlm.video import Frames
from tests.report.conftest import COLUMNS, ROWS, STEPS, with_cuts

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright's Python package")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Of what is drawn over a token, in the middle of its square.
CLEAR, DROPPED = 0, round(255 * 0.84)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        try:
            # Containers have no name spaces for the sandbox.
            launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"needs Chromium: {error.message.splitlines()[0]}")
        yield launched
        launched.close()


class Viewer:
    """A page in a tab."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1000, "height": 900}} | options))
        self.tab = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(file.as_uri())
        self.tab.wait_for_selector("html[data-ready]")

    def alphas(self, layer: str = "kept") -> np.ndarray:
        """Opacity of what is drawn in the middle of every token, `(T, H, W)`."""
        found = self.tab.evaluate(
            """([layer, rows, columns]) => [...document.querySelectorAll(`canvas.${layer}`)].map((canvas) => {
                const pen = canvas.getContext("2d");
                return Array.from({ length: rows * columns }, (_, place) => {
                    const x = (place % columns + 0.5) / columns, y = (Math.floor(place / columns) + 0.5) / rows;
                    return pen.getImageData(Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data[3];
                });
            })""",
            [layer, ROWS, COLUMNS],
        )
        return np.array(found).reshape(STEPS, ROWS, COLUMNS)

    def text(self, selector: str) -> str:
        words: str = self.tab.locator(selector).inner_text()
        return words

    def value(self, script: str) -> Any:
        return self.tab.evaluate(script)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tab.keyboard.press(key)

    def tab_to(self, selector: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(30):
            self.press("Tab")
            if self.value(f"document.activeElement.matches({selector!r})"):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    def captions(self) -> list[str]:
        found: list[str] = self.tab.locator("figcaption .count").all_inner_texts()
        return found


@pytest.fixture
def inside(frames: Frames, record: VideoRecord) -> Scene:
    return scene(frames, with_cuts(record))


@pytest.fixture
def file(inside: Scene, exchange: Exchange, tmp_path: Path) -> Path:
    exchange.answer.tokens_per_layer = (18, 18, 9, 7)
    path = tmp_path / "report.html"
    settings = {"method": "tango", "neighbors": 7, "model": "a-model"}
    path.write_text(html_page(inside, [exchange], title="clip.mp4", settings=settings), encoding="utf-8")
    return path


@pytest.fixture
def viewer(browser: Any, file: Path) -> Iterator[Viewer]:
    opened = Viewer(browser, file)
    yield opened
    assert opened.errors == []
    # Pictures are part of the file.
    assert all(url.startswith(("file:", "data:")) for url in opened.requests)
    assert sum(url.startswith("file:") for url in opened.requests) == 1
    opened.context.close()


def check_drawn(alphas: np.ndarray, kept_set: KeptSet) -> None:
    assert ((alphas == CLEAR) == kept_set.kept).all()
    assert ((alphas >= DROPPED - 1) == (kept_set.sources < 0)).all()


def test_slider_draws_what_is_kept_at_each_retention(viewer: Viewer, inside: Scene) -> None:
    """By keyboard alone."""
    viewer.tab_to("#retention")
    assert viewer.value("document.getElementById('retention').getAttribute('aria-valuetext')") == "30 %"
    viewer.press("Home")
    seen = []
    for place, kept_set in enumerate(inside.sets):
        if place:
            viewer.press("ArrowRight")
        check_drawn(viewer.alphas(), kept_set)
        each = kept_set.kept.reshape(STEPS, -1).sum(axis=1)
        assert viewer.captions() == [f"{count} of {ROWS * COLUMNS}" for count in each]
        state = viewer.text("#state")
        assert f"{kept_set.slots} of {STEPS * ROWS * COLUMNS} tokens" in state
        assert ("as for the answer" in state) == kept_set.answered
        assert ("the answer was given with 30 %" in state) != kept_set.answered
        assert viewer.value("document.getElementById('layers').disabled") != kept_set.answered
        assert len(viewer.tab.locator("#timeline b").all()) == len(kept_set.segments)
        seen.append(viewer.alphas())
    assert not any((one == other).all() for one, other in pairwise(seen))


def test_layers_draw_what_they_drop(viewer: Viewer, inside: Scene) -> None:
    viewer.tab_to("#layers")
    answered = next(each for each in inside.sets if each.answered)
    check_drawn(viewer.alphas(), answered)
    before = answered.kept
    for cut, words in zip(inside.cuts, ("Layer 2 reads 9 of them", "Layer 3 reads 5 of them and 2 made"), strict=True):
        viewer.press("ArrowRight")
        alphas = viewer.alphas()
        assert ((alphas == CLEAR) == cut.present).all()
        # Tokens that are dropped here have a white cross; the middle of others is dark, or has the colour of a cluster.
        white = viewer.value(
            """() => [...document.querySelectorAll("canvas.kept")].flatMap((canvas) => {
                const pen = canvas.getContext("2d"), found = [];
                for (let place = 0; place < 12; place++) {
                    const x = Math.floor((place % 4 + 0.5) / 4 * canvas.width);
                    const y = Math.floor((Math.floor(place / 4) + 0.5) / 3 * canvas.height);
                    found.push(pen.getImageData(x, y, 1, 1).data.slice(0, 3).every((value) => value > 200));
                }
                return found;
            })"""
        )
        crossed = np.array(white).reshape(STEPS, ROWS, COLUMNS) & (alphas > 0)
        assert (crossed == (before & ~cut.present)).all()
        assert words in viewer.text("#state")
        before = cut.present
    viewer.press("Shift+Tab", "ArrowLeft")
    assert "known for the answer only" in viewer.text("#state")


def test_colours_of_clusters_are_those_of_pictures(viewer: Viewer) -> None:
    drawn = viewer.value("() => Array.from({ length: 100 }, (_, slot) => clusterColour(slot))")
    assert drawn == [f"rgba({red}, {green}, {blue}, 1)" for red, green, blue in cluster_colours(100).tolist()]


def test_tokens_by_keyboard(viewer: Viewer, record: VideoRecord) -> None:
    sources = record.selection.sources
    viewer.tab_to(".stack")
    viewer.press("ArrowRight")
    assert "Frame 1 (0.00 s), row 2, column 3" in viewer.text("#readout")
    viewer.press("ArrowLeft", "ArrowDown", "PageDown", "PageDown")
    said, slot = viewer.text("#readout"), int(sources[2, 2, 1])
    assert "Frame 3 (0.50 s), row 3, column 2" in said
    if slot < 0:
        assert said.endswith("dropped")
    else:
        assert f"cluster {slot + 1} of 18" in said or "cluster" not in said
    marked = viewer.alphas("marks")
    assert ((marked == 0) == (sources.numpy() == slot)).all() if slot >= 0 else not marked.any()
    assert viewer.value("document.activeElement.getAttribute('aria-label')").startswith("frame 3 at 0.50 s")
    viewer.press("End", "Home", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft")
    assert "Frame 1 (0.00 s), row 1, column 1" in viewer.text("#readout")
    viewer.press("Escape")
    assert viewer.text("#readout") == ""
    assert not viewer.alphas("marks").any()
    # One stop for all frames.
    viewer.press("Tab")
    assert not viewer.value("document.activeElement.matches('.stack')")


def test_pointing_shows_a_cluster_in_every_frame(viewer: Viewer, record: VideoRecord) -> None:
    sources = record.selection.sources.numpy()
    slot = int(np.bincount(sources[sources >= 0]).argmax())
    step, row, column = (int(each[0]) for each in np.nonzero(sources == slot))
    stack = viewer.tab.locator(".stack").nth(step)
    box = stack.bounding_box()
    place = {"x": box["width"] * (column + 0.5) / COLUMNS, "y": box["height"] * (row + 0.5) / ROWS}
    stack.hover(position=place)
    marked = viewer.alphas("marks")
    assert ((marked == 0) == (sources == slot)).all()
    members, frames = int((sources == slot).sum()), int((sources == slot).any(axis=(1, 2)).sum())
    assert f"cluster {slot + 1} of 18: {members} tokens from {frames} frame" in viewer.text("#readout")
    viewer.tab.mouse.move(2, 2)
    assert viewer.text("#readout") == ""


def test_touch_on_a_small_screen(browser: Any, file: Path) -> None:
    size = {"width": 400, "height": 800}
    phone = Viewer(browser, file, viewport=size, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert phone.value("document.documentElement.scrollWidth") == 400
    columns = phone.value("getComputedStyle(document.querySelector('.frames')).gridTemplateColumns.split(' ').length")
    assert columns == 2
    phone.tab.locator(".stack").nth(1).tap(position={"x": 5, "y": 5})
    assert phone.text("#readout").startswith("Frame 2 (0.25 s), row 1, column 1")
    phone.tab.locator("h1").tap()
    assert phone.text("#readout") == ""
    slider = phone.tab.locator("#retention")
    box = slider.bounding_box()
    assert box["height"] >= 44
    slider.tap(position={"x": box["width"] - 8, "y": box["height"] / 2})
    assert "50 %" in phone.text("#state")
    phone.tab.locator("label[for=layer-saliency]").tap()
    assert phone.tab.locator("img.saliency").first.is_visible()
    assert not phone.tab.locator("#state").is_visible()
    assert phone.errors == []
    phone.context.close()


GROUND = "getComputedStyle(document.body).backgroundColor"


def test_colour_schemes(browser: Any, file: Path) -> None:
    for scheme, other in (("light", "dark"), ("dark", "light")):
        viewer = Viewer(browser, file, color_scheme=scheme)
        own = viewer.value(GROUND)
        viewer.tab_to("#theme-auto")
        # Of a group of radio buttons, arrow keys choose.
        viewer.press(*["ArrowRight"] * (1 if other == "light" else 2))
        assert viewer.value("document.querySelector('[name=theme]:checked').id") == f"theme-{other}"
        changed = viewer.value(GROUND)
        assert changed != own
        assert viewer.value("getComputedStyle(document.documentElement).colorScheme") == other
        viewer.context.close()


CONTRAST = """() => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
    };
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.tagName === "SCRIPT") continue;
        const pair = [parse(getComputedStyle(node).color), ground(node)].map(light).sort((a, b) => a - b);
        found.push([walker.currentNode.data.trim().slice(0, 40), (pair[1] + 0.05) / (pair[0] + 0.05)]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_every_text_as_rendered(browser: Any, file: Path, scheme: str) -> None:
    viewer = Viewer(browser, file, color_scheme=scheme)
    ratios = viewer.value(CONTRAST)
    assert len(ratios) > 60
    assert not [(words, ratio) for words, ratio in ratios if ratio < 4.5]
    viewer.context.close()


def test_print(browser: Any, file: Path) -> None:
    viewer = Viewer(browser, file, color_scheme="dark")
    viewer.tab.emulate_media(media="print", color_scheme="dark")
    assert viewer.value(GROUND) == "rgb(255, 255, 255)"
    for hidden in (".themes", ".choices", ".slider", "#help", "#readout"):
        assert not viewer.tab.locator(hidden).first.is_visible(), hidden
    for shown in ("#state", "#timeline", ".legend.of-kept", "canvas.kept", "img.frame"):
        assert viewer.tab.locator(shown).first.is_visible(), shown
    pdf = viewer.tab.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert b"/Subtype /Image" in pdf
    viewer.context.close()


def test_without_scripts_this_is_said(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert "has not run" in tab.locator("#state").inner_text()
    assert not tab.locator("#retention").is_visible()
    assert tab.locator("img.frame").first.is_visible()
    context.close()
