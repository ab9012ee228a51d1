"""The site of docs/: links, docstrings, what a page loads, and the examples of the quick start."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from mkdocs.config import load_config

import tangovlm
from tangovlm.tiny.clip import write_demo

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "scripts" / "site"


@pytest.fixture(scope="module", autouse=True)
def hooks_import_their_neighbors() -> None:
    """MkDocs adds the folder of a hook to the path too."""
    sys.path.insert(0, str(FOLDER))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_a_page_lead_to_pages_of_the_site() -> None:
    page = "See [a](../src/tangovlm/budget.py), [b](../CONTRIBUTING.md#rules), [c](tiny.md#world-2), [d](https://a.b/c.md)."
    assert script("hooks").with_links(page, "docs/models.md") == (
        "See [a](src/tangovlm/budget.py.md), [b](contributing.md#rules), [c](tiny.md#world-2), [d](https://a.b/c.md)."
    )
    assert script("hooks").linked(page, "docs/models.md") == {"src/tangovlm/budget.py", "CONTRIBUTING.md"}


def test_links_of_a_page_outside_docs() -> None:
    page = "![a](docs/kept.png) [b](docs/methods/tango.md#steps) [c](README.md) [d](nowhere.md)"
    # A link to nowhere stays, and MkDocs refuses it.
    assert script("hooks").with_links(page, "CONTRIBUTING.md") == (
        "![a](kept.png) [b](methods/tango.md#steps) [c](index.md) [d](nowhere.md)"
    )
    below = script("hooks").with_links("[a](../../docs/benchmark.md)", "benchmarks/results/pairs.md")
    assert below == "[a](../../benchmark.md)"


def test_a_file_with_a_fence_is_shown_within_a_longer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = script("hooks")
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text("TEXT = '````'\n", encoding="utf-8")
    assert hooks.as_page("a.py").endswith("\n`````python\nTEXT = '````'\n`````\n")


def test_a_notebook_is_shown_with_its_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = script("hooks")
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "text"]},
        {
            "cell_type": "code",
            "source": ["1 + 1"],
            "outputs": [
                {"output_type": "stream", "text": ["said\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                {"output_type": "display_data", "data": {"image/png": "AAAA\n", "text/plain": ["<picture>"]}},
            ],
        },
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert hooks.as_page("a.ipynb").split("\n\n") == [
        "# A\ntext",
        "```python\n1 + 1\n```",
        "```text\nsaid\n```",
        "```text\n2\n```",
        '<img alt="Output of the cell above" src="data:image/png;base64,AAAA">\n',
    ]


def test_the_navigation_has_every_method() -> None:
    hooks = script("hooks")
    config = load_config(str(ROOT / "mkdocs.yml"))
    nav = json.dumps(hooks.on_config(config).nav)
    assert re.findall(r'"(methods/[\w-]+\.md)"', nav)[0] == "methods/README.md"
    for name in tangovlm.methods():
        assert f'{{"{name}": "methods/{name}.md"}}' in nav


def test_docstrings_in_the_format_of_griffe() -> None:
    text = """Do it.

Parameters
----------
one: described
    in two lines.
two, three: together,
    as here.

A sentence after the entries.

Raises
------
InputError: never.

>>> 1 + 1
2
"""
    assert (
        script("docstrings").as_google(text)
        == """Do it.

Parameters:
    one: described
        in two lines.
    two: together,
        as here.
    three: see `two`.

A sentence after the entries.

Raises:
    InputError: never.

Examples:
    >>> 1 + 1
    2"""
    )


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ('<script src="https://a.b/c.js"></script>', "https://a.b/c.js"),
        ('<link rel="stylesheet" href="//a.b/c.css">', "//a.b/c.css"),
        ('<img srcset="a.png 1x, https://a.b/c.png 2x">', "https://a.b/c.png"),
        ('<p style="background: url(https://a.b/c.png)">', "https://a.b/c.png"),
        ("<style>@import 'https://a.b/c.css';</style>", "https://a.b/c.css"),
        ('<pre class="mermaid"></pre>', "mermaid"),
    ],
)
def test_a_page_that_loads_from_the_network_is_found(tmp_path: Path, page: str, address: str) -> None:
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert list(script("offline").network_references(tmp_path)) == [("page.html", address)]


def test_links_and_local_files_load_nothing_from_the_network(tmp_path: Path) -> None:
    page = (
        '<a href="https://a.b">b</a><link rel="canonical" href="https://a.b"><p>url(//a.b)</p><img src="a//b.png">'
        '<img src="a.png"><img src="data:image/png;base64,AA//AA"><img src="data:image/png;base64,//AA">'
    )
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "style.css").write_text("p { background: url(a.png) }", encoding="utf-8")
    assert not list(script("offline").network_references(tmp_path))
    (tmp_path / "style.css").write_text('p { background: url("https://a.b/a.png") }', encoding="utf-8")
    assert list(script("offline").network_references(tmp_path)) == [("style.css", "https://a.b/a.png")]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_examples_of_the_quick_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tangovlm-demo").mkdir()
    right = dict(write_demo(tmp_path / "tangovlm-demo" / "clip.mp4"))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    space: dict[str, object] = {}
    outputs = []
    for block in blocks:
        exec(block, space)
        outputs.append(capsys.readouterr().out.splitlines())
    asked, several, attached, tensors = outputs
    assert asked == [right["What color is the bar?"], "1024 102"]
    assert several == [right["How many squares are there?"], right["Which way does the heart move?"]]
    assert attached[0].strip() == right["What color is the bar?"]
    assert "1024 -> 102" in attached[1]
    assert tensors == ["torch.Size([157]) torch.Size([157, 64])"]
