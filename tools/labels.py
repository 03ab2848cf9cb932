"""Where every label of the book points: theorem boxes, exercises, equations, figures, headings, pages.

The numbers are those Sphinx gives (chapter.count, one count for each kind); a test compares them with the built book.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

import book

__all__ = ["BOXES", "Directive", "Target", "blocks", "cell_figure", "collect", "options_of", "page_cells"]

BOXES = (
    "theorem lemma corollary proposition definition example remark conjecture axiom property observation "
    "assumption criterion algorithm notation"
).split()
FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>:{3,}|`{3,}|~{3,})\{(?P<name>[\w:.-]+)\}[ \t]*(?P<argument>.*)$")
CODE = re.compile(r"^[ \t]*(?P<mark>`{3,}|~{3,})[^{`]*$")
DISPLAY = re.compile(r"^[ \t]*\$\$(?P<rest>.*)$")
DISPLAY_END = re.compile(r"\$\$[ \t]*(?:\((?P<label>[\w:.-]+)\))?[ \t]*$")
TARGET = re.compile(r"^\((?P<label>[\w:.-]+)\)=[ \t]*$")
HEADING = re.compile(r"^(?P<level>#{1,6})[ \t]+(?P<text>.+?)[ \t]*#*[ \t]*$")


@dataclass
class Directive:
    """A fenced block: its name, what stands behind the name, its options and the lines inside."""

    name: str
    argument: str
    options: dict
    body: list[str]


@dataclass
class Target:
    """What a label means: the kind, its number such as "3.1" (or ""), its page's name and title, its anchor."""

    kind: str
    number: str
    title: str
    page: str
    anchor: str


def options_of(lines: list[str]) -> tuple[dict, list[str]]:
    """Split a directive's lines into its options (``:key: value`` or a YAML block) and its body."""
    if lines and lines[0].strip() == "---":
        end = next((i for i in range(1, len(lines)) if lines[i].strip() == "---"), None)
        if end is not None:
            return yaml.safe_load("\n".join(lines[1:end])) or {}, lines[end + 1 :]
    options = {}
    for number, line in enumerate(lines):
        match = re.match(r"^[ \t]*:([\w-]+):[ \t]*(.*)$", line)
        if not match:
            return options, lines[number:]
        options[match[1]] = match[2].strip()
    return options, []


def blocks(lines: list[str]):
    """Yield ("directive", Directive), ("code", lines), ("math", (lines, label or None)) and ("line", text) in order."""
    at = 0
    while at < len(lines):
        line = lines[at]
        if match := FENCE.match(line):
            mark = match["mark"]
            closing = re.compile(rf"^[ \t]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$")
            end = next((i for i in range(at + 1, len(lines)) if closing.match(lines[i])), None)
            if end is None:
                raise ValueError(f"The block {line.strip()!r} is never closed by {mark!r}.")
            inside = [text.removeprefix(match["indent"]) for text in lines[at + 1 : end]]
            options, body = options_of(inside)
            yield "directive", Directive(match["name"], match["argument"].strip(), options, body)
            at = end + 1
        elif match := CODE.match(line):
            mark = match["mark"]
            end = next((i for i in range(at + 1, len(lines)) if lines[i].strip().startswith(mark)), len(lines) - 1)
            yield "code", lines[at : end + 1]
            at = end + 1
        elif match := DISPLAY.match(line):
            end = at
            if not DISPLAY_END.search(match["rest"]):
                later = (i for i in range(at + 1, len(lines)) if DISPLAY_END.search(lines[i]))
                end = next(later, None)
                if end is None:
                    raise ValueError(f"The formula that starts {line.strip()!r} is never closed by $$.")
            label = DISPLAY_END.search(lines[end])["label"]
            yield "math", (lines[at : end + 1], label)
            at = end + 1
        else:
            yield "line", line
            at += 1


def page_cells(path: Path) -> list:
    """The cells of a page; a Markdown page is one Markdown cell."""
    if path.suffix == ".ipynb":
        return book.read(path).cells
    import nbformat

    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf8"), flags=re.S)
    return [nbformat.v4.new_markdown_cell(text)]


def cell_figure(cell) -> dict:
    """Caption, name and alternative text of a cell's figure; empty texts where they are missing."""
    settings = cell.metadata.get("mystnb", {})
    figure = settings.get("figure", {})
    return {
        "caption": str(figure.get("caption", "")).strip(),
        "name": str(figure.get("name", "")).strip(),
        "alt": str(settings.get("image", {}).get("alt", "")).strip(),
    }


def chapter_numbers(root: Path = book.ROOT) -> dict[str, str]:
    """Page name to chapter number, counted through all numbered parts."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf8"))
    numbers: dict[str, str] = {}
    for part in toc.get("parts", [toc]):
        if part.get("numbered"):
            for entry in part.get("chapters", []):
                numbers[Path(entry["file"]).stem] = str(len(numbers) + 1)
    return numbers


class Page:
    """Walks one page in order and counts what Sphinx numbers."""

    def __init__(self, path: Path, number: str):
        self.name, self.number, self.title = path.stem, number, path.stem
        self.counts: dict[str, int] = {}
        self.found: dict[str, Target] = {}
        self.repeated: list[str] = []
        self.waiting: list[str] = []
        for cell in page_cells(path):
            if cell.cell_type == "markdown":
                self.walk(cell.source.splitlines())
            elif cell.cell_type == "code" and (name := cell_figure(cell)["name"]):
                self.add(name, "Fig.", self.count("figure"), "")

    def count(self, kind: str) -> str:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return f"{self.number}.{self.counts[kind]}" if self.number else str(self.counts[kind])

    def add(self, label: str, kind: str, number: str, title: str, anchor: str | None = None) -> None:
        if label in self.found:
            self.repeated.append(label)
        self.found[label] = Target(kind, number, title, self.name, anchor or label.lower())

    def walk(self, lines: list[str]) -> None:
        for kind, value in blocks(lines):
            if kind == "directive":
                self.directive(value)
            elif kind == "math" and value[1]:
                self.add(value[1], "Equation", self.count("equation"), "", f"equation-{value[1].lower()}")
            elif kind == "line" and (match := TARGET.match(value)):
                self.waiting.append(match["label"])
            elif kind == "line" and (match := HEADING.match(value)):
                if len(match["level"]) == 1 and self.title == self.name:
                    self.title = match["text"]
                for label in self.waiting:
                    self.add(label, "Section", "", match["text"])
                self.waiting = []

    def directive(self, block: Directive) -> None:
        label = block.options.get("label") or block.options.get("name")
        family, _, kind = block.name.rpartition(":")
        if family == "prf" and kind in BOXES:
            number = "" if "nonumber" in block.options else self.count(kind)
            self.add(label or f"{kind}-{self.name}-{number}", kind.capitalize(), number, block.argument)
        elif block.name == "exercise":
            number = "" if "nonumber" in block.options else self.count("exercise")
            self.add(label or f"exercise-{self.name}-{number}", "Exercise", number, block.argument)
        elif block.name in ("solution", "solution-start") and label:
            self.add(label, "Solution", "", block.argument)
        elif block.name == "math" and label:
            self.add(label, "Equation", self.count("equation"), "", f"equation-{label.lower()}")
            return
        elif block.name == "figure":
            self.add(label or f"figure-{self.name}", "Fig.", self.count("figure"), "")
        self.walk(block.body)


def collect(root: Path = book.ROOT) -> tuple[dict[str, Target], dict[str, str]]:
    """Every label of the book with its target, and every page's title. Raises ``ValueError`` for a label used twice."""
    targets: dict[str, Target] = {}
    titles: dict[str, str] = {}
    numbers = chapter_numbers(root)
    for path in book.pages(root):
        page = Page(path, numbers.get(path.stem, ""))
        titles[path.stem] = page.title
        again = page.repeated + sorted(set(targets) & set(page.found))
        if again:
            raise ValueError(f"{path.name} uses a label that exists already: {', '.join(again)}. Labels are unique.")
        targets |= page.found
    return targets, titles
