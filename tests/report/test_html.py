"""The HTML page: whole in itself, honest about its text, and true to the selection."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import tangovlm
from tangovlm.report import Exchange, Scene, html_page, scene
from tangovlm.report.overlay import DROPPED_RGBA
from tangovlm.report.palette import cluster_colours
from tangovlm.session.records import VideoRecord
from tangovlm.tokens import VideoReport
from tangovlm.video import Frames

EVIL = "</title></script><script>alert(1)</script><img src=x onerror='alert(2)'>\" ' &"
VOID = {"meta", "input", "img"}


class Page(HTMLParser):
    """Elements and text of a page; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.texts.append((self._open[-1], data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> str:
        return "\n".join(text for name, text in self.texts if name == tag)


@pytest.fixture
def page(drawn: Scene, exchange: Exchange) -> Page:
    return Page(html_page(drawn, [exchange], title="clip.mp4", settings={"method": "tango", "neighbors": 7}))


def test_shows_answers_figures_notes_and_settings(page: Page) -> None:
    cells = page.text("td") + page.text("th") + page.text("span")
    for wanted in (
        "What color is the star?",
        "red",
        "blue",
        "all tokens",
        "tango, 30 %",
        "18",
        "60",
        "69.0",
        "neighbors",
    ):
        assert wanted in cells
    assert page.text("li") == "a note\nanother & <b>bold</b> note"
    marks = {attributes["class"] for attributes in page.all("span") if attributes.get("class") in {"right", "wrong"}}
    assert marks == {"right", "wrong"}


def picture(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def test_three_layers_of_every_frame(page: Page, drawn: Scene) -> None:
    pictures = page.all("img")
    assert len(pictures) == 3 * drawn.steps
    assert {each["class"] for each in pictures} == {"frame", "over saliency", "over kept"}
    assert pictures[0]["src"].startswith("data:image/jpeg;base64,")
    assert picture(pictures[0]["src"]).size == (224, round(224 * 30 / 44))
    assert len({attributes["style"] for attributes in page.all("figcaption")}) == len(drawn.segments)


def test_layer_of_kept_tokens_follows_the_selection(page: Page, drawn: Scene) -> None:
    assert drawn.sources is not None and drawn.kept is not None
    layers = [each["src"] for each in page.all("img") if each["class"] == "over kept"]
    for layer, sources, kept in zip(layers, drawn.sources, drawn.kept, strict=True):
        pixels = np.asarray(picture(layer).convert("RGBA"))
        cell = pixels.shape[0] // kept.shape[0]
        assert pixels.shape == (kept.shape[0] * cell, kept.shape[1] * cell, 4)
        inside = pixels[cell // 2 :: cell, cell // 2 :: cell]
        assert ((inside[..., 3] == 0) == kept).all()
        assert ((inside == np.array(DROPPED_RGBA)).all(axis=-1) == (sources < 0)).all()
        edge = pixels[::cell, ::cell]
        assert (edge[kept][:, :3] == cluster_colours(drawn.slots)[sources[kept]]).all()


def test_shape_of_frames_is_that_of_the_video(frames: Frames, record: VideoRecord, exchange: Exchange) -> None:
    wide = scene(replace(frames, aspect=16 / 9), record)
    images = Page(html_page(wide, [exchange], title="t", settings={})).all("img")
    assert picture(images[0]["src"]).size == (224, 126)


def test_legend_and_scale(page: Page) -> None:
    words = page.text("span")
    assert all(wanted in words for wanted in ("kept: ", "merged ", "dropped: ", "square root", "0 ", " 1"))
    (scale,) = [each for each in page.all("i") if each["class"] == "scale"]
    assert scale["style"].startswith("background:linear-gradient(90deg, #0a0822 0%")


def test_no_legend_without_a_layer(frames: Frames, exchange: Exchange) -> None:
    page = Page(html_page(scene(frames, None), [exchange], title="t", settings={}))
    assert not any("legend" in each.get("class", "") for each in page.all("p"))


def test_tokens_by_layer(drawn: Scene, exchange: Exchange) -> None:
    exchange.answer.tokens_per_layer = (18, 18, 9, 9, 3)
    page = Page(html_page(drawn, [exchange], title="t", settings={}))
    rows = page.text("td").split("\n")
    first = rows.index("video")
    assert rows[first : first + 15] == [
        "video", "60", "100 %",
        "layers 0–1", "18", "30 %", "42",
        "layers 2–3", "9", "15 %", "9",
        "layer 4", "3", "5 %", "6",
    ]  # fmt: skip
    assert [each["style"] for each in page.all("div") if each.get("class") == "bar"] == [
        "width:100.0%", "width:30.0%", "width:15.0%", "width:5.0%",
    ]  # fmt: skip


@pytest.mark.parametrize("grid", [(27, 27)])
def test_page_of_64_noisy_frames_is_below_a_megabyte(grid: tuple[int, int], exchange: Exchange) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 224, 224), generator=draw).to(torch.uint8)
    frames = Frames(pixels, torch.arange(64, dtype=torch.float64), fps=1.0, duration_s=64.0, aspect=16 / 9)
    features, saliency = torch.randn(64, *grid, 8, generator=draw), torch.rand(64, *grid, generator=draw)
    selection = tangovlm.method("topk", retention=0.1)(tangovlm.VideoTokens(features, saliency=saliency))
    report = VideoReport(saliency.numel(), len(selection.indices), 0.1, "topk", selection.segments)
    drawn = scene(frames, VideoRecord(selection, saliency, report))
    assert len(html_page(drawn, [exchange], title="t", settings={}).encode()) < 1_000_000


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_script_answers_taps_and_pointers(page: Page) -> None:
    """With a minimal document: what the mouse points at is left again, what was tapped stays until a tap elsewhere."""
    tokens, script = [text for tag, text in page.texts if tag == "script"]
    program = f"""
const tokens = {json.dumps(tokens)};
const listeners = [], outside = [];
const pen = {{ fillRect() {{}}, clearRect() {{}}, strokeRect() {{}} }};
const readout = {{ textContent: "help" }};
const stack = () => {{
  const own = {{}};
  listeners.push(own);
  return {{
    clientWidth: 40, clientHeight: 30,
    querySelector: () => ({{ getContext: () => pen }}),
    addEventListener: (name, run) => {{ own[name] = run; }},
    getBoundingClientRect: () => ({{ left: 0, top: 0, width: 40, height: 30 }}),
  }};
}};
const stacks = Array.from({{ length: 5 }}, stack);
globalThis.window = {{ addEventListener() {{}} }};
globalThis.document = {{
  getElementById: (id) => (id === "tokens" ? {{ textContent: tokens }} : readout),
  querySelectorAll: () => stacks,
  addEventListener: (name, run) => outside.push(run),
}};
(() => {{ {script} }})();
const told = [];
const at = (kind) => ({{ clientX: 15, clientY: 5, pointerType: kind, target: {{ closest: () => null }} }});
listeners[2].pointermove(at("mouse")); told.push(readout.textContent);
listeners[2].pointerleave(at("mouse")); told.push(readout.textContent);
listeners[2].pointerdown(at("touch")); told.push(readout.textContent);
listeners[2].pointerleave(at("touch")); told.push(readout.textContent);
outside[0](at("touch")); told.push(readout.textContent);
console.log(JSON.stringify(told));
"""
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    pointed, left, tapped, lifted, cleared = json.loads(done.stdout)
    assert pointed == tapped == lifted
    assert pointed.startswith("Frame 3 (0.50 s), row 1, column 2: ")
    assert left == cleared == "help"


def test_loads_nothing_from_elsewhere(drawn: Scene, exchange: Exchange) -> None:
    text = html_page(drawn, [exchange], title="clip.mp4", settings={})
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\(|<link|<iframe|<object", text)
    assert all(picture["src"].startswith("data:") for picture in Page(text).all("img"))


def test_policy_allows_the_own_script_only(page: Page) -> None:
    (policy,) = [
        meta["content"] for meta in page.all("meta") if "content-security-policy" in meta.get("http-equiv", "").lower()
    ]
    (_, script) = [text for tag, text in page.texts if tag == "script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_hovering_reads_the_selection(page: Page, record: VideoRecord) -> None:
    data = json.loads(next(text for tag, text in page.texts if tag == "script"))
    sources = record.selection.sources
    assert data["sources"] == sources.tolist()
    places = np.ravel_multi_index(np.array(data["kept"]).T, sources.shape)
    assert places.tolist() == record.selection.indices.tolist()
    assert data["times"] == [0, 0.25, 0.5, 0.75, 1.0]


def test_all_text_is_escaped(drawn: Scene, exchange: Exchange, frames: Frames, record: VideoRecord) -> None:
    answer = type(exchange.answer)(EVIL)
    answer.__dict__.update(exchange.answer.__dict__, notes=(EVIL,), method=EVIL, model=EVIL)
    evil = replace(exchange, question=EVIL, answer=answer, truth=EVIL)
    page = Page(html_page(drawn, [evil], title=EVIL, settings={EVIL: EVIL}))
    assert len(page.all("script")) == 2
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert all(picture["src"].startswith("data:") for picture in page.all("img"))
    assert page.text("title") == page.text("h1") == EVIL
    assert page.text("td").count(EVIL) >= 4


def test_without_a_recording(frames: Frames, exchange: Exchange) -> None:
    page = Page(html_page(scene(frames, None), [exchange], title="t", settings={}))
    assert {picture["class"] for picture in page.all("img")} == {"frame"}
    assert page.all("script") == []


def test_several_questions_share_a_page(drawn: Scene, exchange: Exchange) -> None:
    second = replace(exchange, question="And now?", truth=None)
    page = Page(html_page(drawn, [exchange, second], title="t", settings={}))
    assert "And now?" in page.text("td")
    assert "means over 2 questions" in page.text("p")


def test_single_answer(drawn: Scene, exchange: Exchange) -> None:
    page = Page(html_page(drawn, [Exchange("Why?", exchange.answer)], title="t", settings={}))
    assert "all tokens" not in page.text("th")
    assert "truth" not in page.text("th")
