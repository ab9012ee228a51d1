"""The package, the README and the documents are written in standard technical English."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for pattern in ("src/**/*.py", "src/**/*.css", "src/**/*.js", "scripts/**/*", "docs/**/*.md", "*.md", "Makefile")
    for path in ROOT.glob(pattern)
    if path.is_file() and "__pycache__" not in path.parts
)
# Each of them has a standard word: fix, given, forwarded, "is chosen by", available, unmeasured.
PRIVATE = {
    "mend": r"\bmend(s|ed|ing)?\b",
    "told": r"\btold\b",
    "handed on": r"\bhand(s|ed|ing)?[ _](on|over|through)\b",
    "is its own business": r"\bown business\b",
    "to be had": r"\b(to|can(not)?) be had\b",
    "nobody has looked": r"\bnobody has looked\b",
}
# A file that needs one of these words, and why.
ALLOWED: dict[str, set[str]] = {
    # It names classes of earlier versions.
    "CHANGELOG.md": {"told"},
}


@pytest.mark.parametrize("word", PRIVATE)
def test_no_private_words(word: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in PAGES
        if word not in ALLOWED.get(str(path.relative_to(ROOT)), set())
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        # A phrase may be broken across lines of a paragraph: see the test below.
        if re.search(PRIVATE[word], line, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("word", PRIVATE)
def test_no_private_words_across_lines(word: str) -> None:
    pattern = PRIVATE[word].replace("[ _]", r"[\s#_]+").replace(" ", r"[\s#]+")
    found = [
        str(path.relative_to(ROOT))
        for path in PAGES
        if word not in ALLOWED.get(str(path.relative_to(ROOT)), set())
        and re.search(pattern, path.read_text(encoding="utf-8"), re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


def test_the_words_are_noticed() -> None:
    assert re.search(PRIVATE["mend"], "how to mend it")
    assert re.search(PRIVATE["handed on"], "features handed on by stock code")
    assert re.search(PRIVATE["told"], "None where the caller told nothing")
    assert not re.search(PRIVATE["mend"], "recommended")
    for name, words in ALLOWED.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for word in words:
            assert re.search(PRIVATE[word], text, re.IGNORECASE), f"{name} no longer needs {word!r}: take it out"
