"""Makes the documentation a site: `make docs`.

The source is the whole repository, so that a link of one page to another, or to a file of code, is the same
here as on a code host. The tables of docs/index.md are the table of contents; the pages under docs/api/ are
written from the docstrings of the public names each time.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from types import FunctionType
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import dpvision

ROOT = Path(__file__).parents[1]
PARTS = [
    "api",
    "images",
    "testing",
    "training",
    "gradients",
    "views",
    "priors",
    "privacy",
    "methods",
    "evaluation",
    "networks",
]
"""The packages whose names are documented, beside those of dpvision itself."""

project, author, release = "dpvision", "the authors of dpvision", dpvision.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
exclude_patterns = [".*", "build", "src", "tests"]
highlight_language = "text"
myst_heading_anchors = 4
nitpicky = True

python_maximum_signature_line_length = 100
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_custom_sections = [("Guarantee", "notes_style")]
default_role = "py:obj"
nitpick_ignore_regex = [("py:.*", r"(?!dpvision\.).*")]  # names of other libraries

html_theme = "furo"
html_title = f"dpvision {release}"
html_extra_path = ["site"]
html_copy_source = False


def write_api(app: Sphinx) -> None:
    """Write a page for dpvision and each of its public parts, which name what is documented on it."""
    folder = ROOT / "docs" / "api"
    folder.mkdir(exist_ok=True)
    names = ["dpvision", *(f"dpvision.{part}" for part in PARTS)]
    contents = "\n".join(f"   {name}" for name in names)
    pages = {"index": f"From the docstrings\n===================\n\n.. toctree::\n\n{contents}\n"}
    told: set[int] = set()
    for name in names:
        found = {one: getattr(import_module(name), one) for one in import_module(name).__all__}
        new = {one: value for one, value in found.items() if _kind(value) and id(value) not in told}
        told |= {id(value) for value in new.values()}
        entries = [f".. auto{_kind(value)}:: {name}.{one}" for one, value in new.items()]
        pages[name] = "\n\n".join([f"{name}\n{'=' * len(name)}", f".. module:: {name}", *entries, ""])
    for name, text in pages.items():
        page = folder / f"{name}.rst"
        if not page.exists() or page.read_text() != text:  # what has not changed is not built again
            page.write_text(text)


def _kind(value: Any) -> str:
    """Return what autodoc calls a value; nothing where it has no docstring of its own."""
    if isinstance(value, type):
        return "exception" if issubclass(value, Exception) else "class"
    return "function" if isinstance(value, FunctionType) else ""


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Append to the first page, unseen, the tables of contents that its own tables are."""
    if name != root_doc:
        return
    for section in source[0].split("\n## ")[1:]:
        pages = re.findall(r"^\| \[[^]]+\]\(([^)]+)\.md\)", section, re.MULTILINE)
        title = section.partition("\n")[0]
        if title == "Reference":
            pages.append("api/index")
        if pages:
            source[0] += _contents(title, pages)
    source[0] += _contents("The house", ["house", "/CONTRIBUTING", "/SECURITY", "/CHANGELOG", "/README"])


def _contents(title: str, pages: list[str]) -> str:
    return f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(pages) + "\n```\n"


def show_files(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Let a link to a file that is no page show it, where Sphinx would have it saved."""
    for link in list(doctree.findall(addnodes.download_reference)):
        up = "../" * name.count("/")
        shown = nodes.reference("", "", *link.children, refuri=f"{up}_downloads/{link['filename']}")
        link.replace_self(shown)


def leave_unlinked(app: Sphinx, env: Any, node: Any, shown: nodes.Element) -> nodes.Element | None:
    """Return what is shown of a name that is on no page but in the code; others are mistakes."""
    try:
        resolve_name(node["reftarget"])
    except (AttributeError, ImportError, ValueError):
        return None
    return shown


def leave_out(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out methods that scikit-learn has put into an estimator: it documents them itself."""
    return True if str(getattr(value, "__module__", "")).startswith("sklearn.") else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", leave_out)
    app.connect("builder-inited", write_api)
    app.connect("source-read", add_contents)
    app.connect("missing-reference", leave_unlinked)
    app.connect("doctree-resolved", show_files)
