"""One version everywhere, and what docs/versions.md says about old paths."""

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import yaml

import tangovlm
from tangovlm._moved import MOVED

ROOT = Path(__file__).resolve().parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tracked() -> set[str]:
    """The files and folders of the root that belong to the project."""
    if not (ROOT / ".git").exists():
        # A source distribution.
        ignored = ["PKG-INFO", *(line.strip("/") for line in read(".gitignore").splitlines())]
        names = {path.name for path in ROOT.iterdir()}
        return {name for name in names if not any(fnmatch(name, each) for each in ignored)}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {Path(path).parts[0] for path in listed.split("\0") if path}


def test_the_version_is_stated_alike() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert tangovlm.__version__ == version
    newest = re.findall(r"^## \[?(\d+\.\d+\.\d+)\b", read("CHANGELOG.md"), re.MULTILINE)[0]
    assert newest == version
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version


def test_the_citation_names_the_software_and_the_paper() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["type"] == "software"
    assert citation["license"] == tomllib.loads(read("pyproject.toml"))["project"]["license"]
    (paper,) = citation["references"]
    assert paper["url"] == tangovlm.Tango.paper
    assert paper["title"] in re.sub(r"\s+", " ", read("README.md"))


def test_old_paths_are_listed() -> None:
    rows = re.findall(r"^\| `(tangovlm[\w.]+)` \| `(tangovlm[\w.]+)` \|$", read("docs/versions.md"), re.MULTILINE)
    assert dict(rows) == MOVED


def test_templates_ask_for_the_doctor() -> None:
    bug = yaml.safe_load(read(".github/ISSUE_TEMPLATE/bug.yml"))
    (doctor,) = [field for field in bug["body"] if field["id"] == "doctor"]
    assert "tangovlm doctor" in doctor["attributes"]["label"]
    assert doctor["validations"]["required"] is True
    assert "tangovlm doctor" in read(".github/pull_request_template.md")


def test_workflows_run_the_checks_of_the_repository_and_hold_no_secret() -> None:
    workflows = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").iterdir()}
    assert set(workflows) == {"ci.yml", "release.yml"}
    runs = [
        step["run"]
        for text in workflows.values()
        for job in yaml.safe_load(text)["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert {".ci/run", "make dist"} <= set(runs)
    assert not any("secrets." in text for text in workflows.values())
    # Only a tag is published.
    assert yaml.safe_load(workflows["release.yml"])["jobs"]["publish"]["if"] == "github.ref_type == 'tag'"


def test_the_source_distribution_has_every_file() -> None:
    """`make dist` builds the wheel from it, and its tests run in it."""
    included = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    # Hatch adds these itself.
    always = {"pyproject.toml", "README.md", "LICENSE", ".gitignore"}
    missing = {name for name in tracked() - always if not any(fnmatch(name, each.lstrip("/")) for each in included)}
    assert not missing
