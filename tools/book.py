"""What the book's tools and tests share: its settings, its pages, the fingerprint of a chapter."""

import hashlib
import os
import re
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
RECORD_KEY = "folded_space"  # notebook metadata: where the scale and the fingerprint stand

__all__ = [
    "RECORD_KEY",
    "ROOT",
    "chapters",
    "colab_branch",
    "config",
    "default_scale",
    "fingerprint",
    "is_stale",
    "name_of",
    "pages",
    "published_url",
    "read",
    "repository_url",
    "write",
]


def config(root: Path = ROOT) -> dict:
    """The book's configuration, ``_config.yml``."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))


def repository_url(root: Path = ROOT) -> str:
    """The project's address, without a slash at its end."""
    return config(root)["repository"]["url"].rstrip("/")


def published_url(root: Path = ROOT) -> str:
    """Where the HTML book stands on the web: GitHub's address for the pages of the repository."""
    owner, name = repository_url(root).split("/")[-2:]
    return f"https://{owner}.github.io/{name}"


def colab_branch(root: Path = ROOT) -> str:
    """The branch that holds the Colab edition, the one the launch button opens."""
    return config(root)["sphinx"]["config"]["html_theme_options"]["repository_branch"]


def pages(root: Path = ROOT) -> list[Path]:
    """Every page of the book in reading order, as a path with its suffix."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf8"))
    names = [toc["root"]]

    def walk(node):
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            if "file" in node:
                names.append(node["file"])
            for key in ("parts", "chapters", "sections"):
                walk(node.get(key, []))

    walk({key: value for key, value in toc.items() if key != "root"})
    found = []
    for name in names:
        matches = [root / f"{name}{suffix}" for suffix in ("", ".ipynb", ".md")]
        existing = [path for path in matches if path.is_file()]
        if not existing:
            raise FileNotFoundError(f"_toc.yml names {name}, but neither {name}.ipynb nor {name}.md exists.")
        found.append(existing[0])
    return found


def name_of(page: Path) -> str:
    """A page as its address names it, below the book's folder and without suffix: ``mirrors``, ``api/nn``."""
    return page.relative_to(ROOT / "book").with_suffix("").as_posix()


def chapters(root: Path = ROOT) -> list[Path]:
    """The notebooks among the pages, in reading order."""
    return [path for path in pages(root) if path.suffix == ".ipynb"]


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook as nbformat 4."""
    return nbformat.read(path, as_version=4)


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook in one stroke, so that a crash leaves either the old file or the new one."""
    nbformat.validate(notebook)
    part = path.with_name(path.name + ".part")
    part.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf8")
    os.replace(part, path)


def default_scale() -> str:
    """The scale at which outputs are recorded unless PSO_SCALE says otherwise."""
    return os.environ.get("PSO_SCALE", "quick")


def fingerprint(notebook: nbformat.NotebookNode, scale: str) -> str:
    """SHA-256 of the code cells, in order, and of the scale at which they ran."""
    digest = hashlib.sha256(f"scale={scale}\n".encode())
    for cell in notebook.cells:
        if cell.cell_type == "code":
            lines = re.sub(r"[ \t]+$", "", cell.source, flags=re.M).strip("\n")
            digest.update(f"{len(lines)}\n{lines}\n".encode())
    return digest.hexdigest()


def is_stale(notebook: nbformat.NotebookNode) -> str | None:
    """Why the stored outputs do not belong to the code cells, or ``None`` when they do."""
    record = notebook.metadata.get(RECORD_KEY)
    if not record:
        return "was never recorded"
    if record.get("sha256") != fingerprint(notebook, record.get("scale", "")):
        return "has code cells that changed since its outputs were recorded"
    return None
