"""Hooks of MkDocs: what the site has beside the pages of docs/, and what is checked after a build.

Pages link to files outside docs/, as a code host shows them. Each of these files becomes a page of the site: Markdown
as it is, notebooks with their outputs, other text as a block of code. The page of every registered method is added to
the navigation. A page that loads something from the network is a warning, which fails a strict build.
"""

import json
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from offline import network_references

ROOT = Path(__file__).resolve().parent.parent.parent
CATALOG = ROOT / "src" / "tangovlm" / "cli" / "catalog.json"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the root and the addresses of their pages. The home page stands in for the README."""
STAGES = {"pre-llm": "Before the language model", "in-llm": "Inside the language model"}

_log = logging.getLogger("mkdocs.hooks.site")
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?\)")
_origins: dict[str, str] = {}


def address(path: str) -> str:
    """The address in the site, relative to docs/, of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in PAGES:
        return PAGES[path]
    return path if path.endswith(".md") else f"{path}.md"


def linked(markdown: str, origin: str) -> set[str]:
    """The files outside docs/ that a page links to, as paths in the repository."""
    targets = {_resolve(match[2], origin) for match in _LINK.finditer(markdown)}
    return {path for path in targets if path is not None and not path.startswith("docs/")}


def with_links(markdown: str, origin: str) -> str:
    """The page with the addresses of the site in place of paths in the repository."""

    def link(match: re.Match[str]) -> str:
        path = _resolve(match[2], origin)
        if path is None:
            return match[0]
        relative = posixpath.relpath(address(path), posixpath.dirname(address(origin)) or ".")
        return f"{match[1]}{relative}{match[3] or ''})"

    return _LINK.sub(link, markdown)


def _resolve(target: str, origin: str) -> str | None:
    """The path in the repository of the target of a link; None if it is no file there."""
    if ":" in target or target.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    return path if (ROOT / path).is_file() else None


def as_page(path: str) -> str:
    """The Markdown of a page that shows a file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    if path.endswith(".ipynb"):
        return _as_notebook(json.loads(text))
    language = "python" if path.endswith(".py") else "text"
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n{_as_code(text, language)}\n"


def _as_notebook(notebook: dict[str, Any]) -> str:
    """The cells of a notebook, with what they printed or returned; of a picture with a text the picture."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else _as_code(source, "python"))
        for output in cell.get("outputs", []):
            data = {kind: "".join(value) for kind, value in output.get("data", {}).items()}
            pictures = [f"data:{kind};base64,{data[kind].strip()}" for kind in data if kind.startswith("image/")]
            if pictures:
                parts.append(f'<img alt="Output of the cell above" src="{pictures[0]}">')
            else:
                parts.append(_as_code("".join(output.get("text", [])) or data["text/plain"], "text"))
    return "\n\n".join(parts) + "\n"


def _as_code(text: str, language: str) -> str:
    fence = "`" * (max([2, *(len(run) for run in re.findall("`+", text))]) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of files outside docs/, and of those that they link to."""
    _origins.clear()
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + sorted(set(PAGES) - {"README.md"})
    seen = set(waiting) | {"README.md"}
    while waiting:
        origin = waiting.pop()
        is_page = origin.endswith(".md")
        text = as_page(origin)
        _origins[address(origin)] = origin
        if not origin.startswith("docs/"):
            in_nav = InclusionLevel.INCLUDED if origin in PAGES else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, address(origin), content=text, inclusion=in_nav))
        new = linked(text, origin) - seen if is_page else set()
        seen |= new
        waiting += sorted(new)
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the registered methods to the navigation, below their index."""
    cards = json.loads(CATALOG.read_text(encoding="utf-8"))["methods"]
    nav: list[dict[str, Any]] = config.nav or []
    for entry in nav:
        if entry.get("Methods") == "methods/README.md":
            stages = [
                {title: [{card["name"]: f"methods/{card['name']}.md"} for card in cards if card["stage"] == stage]}
                for stage, title in STAGES.items()
            ]
            stages[1][STAGES["in-llm"]].insert(0, {"Overview": "methods/inside.md"})
            entry["Methods"] = [{"All methods": "methods/README.md"}, *stages]
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Replace paths in the repository by addresses of the site."""
    origin = _origins[page.file.src_uri]
    return with_links(markdown, origin) if origin.endswith(".md") else markdown


def on_post_build(config: MkDocsConfig) -> None:
    """Check that the site works offline."""
    for path, reference in network_references(Path(config.site_dir)):
        _log.warning("%s loads %s from the network", path, reference)
