"""Find what a folder of HTML pages and style sheets would load from the network."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

_LOADED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
"""Elements and their attributes that name what a browser loads with a page, unlike `href` of a link."""
_REMOTE = re.compile(r"(?:^|,)\s*((?:https?:)?//[^\s,]+)")
"""In the value of an attribute: an address, or several, with commas between them."""
_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s;]+)""")


class _Loaded(HTMLParser):
    """Collects what one page loads from the network."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if not (tag == "link" and given.get("rel") in ("canonical", "prev", "next")):
            for name in _LOADED.get(tag, ()):
                value = given.get(name, "").strip()
                self.found += [] if value.startswith("data:") else _REMOTE.findall(value)
        self.found += _STYLE.findall(given.get("style", ""))
        # The theme's script fetches Mermaid for these.
        if "mermaid" in given.get("class", "").split():
            self.found.append("mermaid")
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += _STYLE.findall(data)


def network_references(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file, relative to the folder, with each address that it loads from the network."""
    for path in sorted(folder.rglob("*")):
        found: list[str] = []
        if path.suffix in (".html", ".svg"):
            page = _Loaded()
            page.feed(path.read_text(encoding="utf-8"))
            found = page.found
        elif path.suffix == ".css":
            found = _STYLE.findall(path.read_text(encoding="utf-8"))
        for address in found:
            yield path.relative_to(folder).as_posix(), address
