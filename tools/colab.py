"""Write the plain edition: every chapter as a notebook for Colab, JupyterLab and GitHub, which know no directives.

    python tools/colab.py                 writes _build/colab/book/*.ipynb
    python tools/colab.py --out FOLDER    writes FOLDER/book/*.ipynb

Boxes become bold paragraphs, references and citations become links into the published book, solutions fold away, and a
set-up cell stands in front, which installs the commit that the notebook was made from. The workflow publishes the
folder as the branch that the book's Colab button opens; as a Sphinx extension (in _config.yml) this file also puts the
plain edition where the download button of a page looks for its notebook.
"""

import argparse
import copy
import re
import subprocess
import sys
from pathlib import Path

import labels
import nbformat

import book

SETUP = """\
# @title Set-up: takes pso_lib from this clone or installation; elsewhere (Colab) fetches it. torch stays as it is.
def _set_up():
    import importlib.util, subprocess, sys
    from pathlib import Path

    class Stop(Exception):
        def _render_traceback_(self):  # one sentence in place of a traceback
            return [f"Stopped: {self}"]

    def missing(*names):
        importlib.invalidate_caches()
        return [name for name in names if importlib.util.find_spec(name) is None]

    def install(*what):
        run = [sys.executable, "-m", "pip", "install", "-q", *what]
        done = subprocess.run(run, capture_output=True, text=True)
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it gives no reason"]
            why = next((line for start in ("fatal:", "ERROR:") for line in said if line.startswith(start)), said[-1])
            raise Stop(f"pip could not install {what[-1]} ({why}). Is there a network? Then run this cell again.")

    clones = [p for p in [Path.cwd(), *Path.cwd().parents] if (p / "pso_lib" / "__init__.py").is_file()]
    sys.path[:0] = [str(p) for p in clones[:1]]
    if large := missing("torch", "torchvision", "numpy", "matplotlib", "sklearn"):
        raise Stop(f"{', '.join(large)} missing. pip install torch torchvision numpy matplotlib scikit-learn")
    if missing("pso_lib"):
        install("--no-deps", "git+{repository}@{commit}")
        if small := missing("pooch", "sympy", "tqdm"):
            install(*small)
        importlib.invalidate_caches()
    import pso_lib, torch

    try:
        scale = pso_lib.scale.scale()
    except ValueError as error:
        raise Stop(error)
    gpu = torch.cuda.get_device_name().split()[-1] if torch.cuda.is_available() else "CPU"
    print(f"pso_lib {pso_lib.__version__} · torch {torch.__version__.split('+')[0]} · {gpu} · scale {scale}")


_set_up()
del _set_up"""

LONG = 10  # seconds; a cell that takes longer says so

BANNER = """\
*The runnable edition of [{title}]({url}), a chapter of [Folded Space]({home}). Run the cells from top to
bottom; change a line and run it again. The next cell sets up the library.{runtime}
Cells of solutions run too, and take the place of your answer: run yours again.*"""

RUNTIME = " It trains networks: on Colab, *Runtime › Change runtime type* offers a GPU, which this notebook asks for."

TRAINS = re.compile(r"\bcuda\b|\blive\(")  # what a chapter says that uses a GPU where there is one

ROLE = re.compile(r"\{(?P<name>[a-zA-Z][\w:.-]*)\}(?P<ticks>`+)(?P<text>.+?)(?P=ticks)(?!`)", re.S)
LEFTOVER = re.compile(
    r"^[ \t]*:{3,}|^[ \t]*(`{3,}|~{3,})\{|\{[a-zA-Z][\w:.-]*\}`|^\([\w:.-]+\)=[ \t]*$|\$\$[ \t]*\([\w:.-]+\)[ \t]*$",
    re.M,
)
NOTES = ("note", "tip", "hint", "important", "warning", "caution", "attention", "danger", "error", "seealso")


class Unknown(ValueError):
    """A chapter uses a directive, a role or a label that the Colab edition cannot write."""


class Converter:
    """Turns the Markdown of one chapter into plain Markdown."""

    def __init__(self, page: str, targets: dict, titles: dict, root: Path = book.ROOT):
        self.page, self.targets, self.titles, self.root = page, targets, titles, root
        self.home = book.published_url(root)
        self.references = bibliography(root)
        self.solution: str | None = None  # the exercise whose gated solution is open
        self.in_details = False

    def url(self, page: str, anchor: str = "") -> str:
        return f"{self.home}/book/{page}.html" + (f"#{anchor}" if anchor else "")

    # ---- blocks ----
    def markdown(self, source: str) -> str:
        """One Markdown cell, plain."""
        source = re.sub(r"<!--.*?-->", "", source, flags=re.S)
        text = "\n".join(self.lines(source.splitlines()))
        return re.sub(r"\n{3,}", "\n\n", text).strip()

    def lines(self, lines: list[str]) -> list[str]:
        out: list[str] = []
        pending: list[str] = []  # ordinary lines: a role may run over a line's end

        def flush():
            if pending:
                out.extend(self.inline("\n".join(pending)).split("\n"))
                pending.clear()

        for kind, value in labels.blocks(lines):
            if kind == "line":
                if not (labels.TARGET.match(value) or value.startswith("% ") or value.strip() == "+++"):
                    pending.append(value)
                continue
            flush()
            if kind == "code":
                out.extend(value)
            elif kind == "math":
                out.extend(self.formula(*value))
            else:
                out.extend(["", *self.directive(value), ""])
        flush()
        return out

    def formula(self, lines: list[str], label: str | None) -> list[str]:
        if not label:
            return lines
        text = "\n".join(lines).strip()
        body = text[2 : text.rindex("$$")].strip()
        return ["$$", f"{body} \\tag{{{self.targets[label].number}}}", "$$"]

    def directive(self, block: labels.Directive) -> list[str]:
        family, _, kind = block.name.rpartition(":")
        label = block.options.get("label") or block.options.get("name")
        if family == "prf" and kind == "proof":
            return self.titled("*Proof.*", block.body, end=" ∎")
        if (family == "prf" and kind in labels.BOXES) or block.name == "exercise":
            name = self.targets[label] if label in self.targets else None
            head = f"{kind.capitalize()} {name.number if name else ''}".strip()
            title = f" ({self.inline(block.argument)})" if block.argument else ""
            return self.titled(f"**{head}{title}.**", block.body)
        if block.name == "solution-start":
            self.solution = self.reference_name(block.argument)
            return []
        if block.name == "solution-end":
            self.solution = None
            return []
        if block.name == "solution":
            return self.details(f"Solution of {self.reference_name(block.argument)}", block.body)
        if block.name in ("dropdown", "admonition", *NOTES):
            title = block.argument or block.name.capitalize()
            title = "See also" if block.name == "seealso" and not block.argument else title
            body = block.body
            if block.name in NOTES and block.argument:  # the argument is the first line of the text
                title, body = block.name.capitalize(), [block.argument, *block.body]
            if block.name == "dropdown" or "dropdown" in block.options.get("class", ""):
                return self.details(title, body)
            return self.titled(f"**{self.inline(title)}.**", body)
        if block.name == "math":
            return self.formula(["$$", *block.body, "$$"], label)
        if block.name in ("code", "code-block"):
            return [f"```{block.argument}", *block.body, "```"]
        if block.name in ("figure", "image"):
            return self.picture(block, label)
        if block.name in ("bibliography", "tableofcontents"):
            return [f"[{self.titles.get('bibliography', 'Bibliography')}]({self.url('bibliography')})"]
        raise Unknown(
            f"{self.page}: the directive {{{block.name}}} has no plain form. "
            "Use another one, or teach tools/colab.py this one."
        )

    def titled(self, title: str, body: list[str], end: str = "") -> list[str]:
        text = "\n".join(self.lines(body)).strip()
        gap = "\n\n" if re.match(r"[-*+>|#$<]|\d+\.", text) and not re.match(r"\$[^$]|\*\*?\w", text) else " "
        end = f"\n\n{end.strip()}" if end and text.endswith("$$") else end
        return f"{title}{gap}{text}{end}".split("\n")

    def details(self, title: str, body: list[str]) -> list[str]:
        return [f"<details><summary>{title}</summary>", "", *self.lines(body), "", "</details>"]

    def picture(self, block: labels.Directive, label: str | None) -> list[str]:
        path = (self.root / "book" / block.argument).resolve().relative_to(self.root.resolve())
        source = (
            f"{book.repository_url(self.root)}/raw/{book.config(self.root)['repository']['branch']}/{path.as_posix()}"
        )
        picture = f"![{block.options.get('alt', '')}]({source})"
        caption = self.inline("\n".join(block.body)).strip()
        if block.name == "image":
            return [picture]
        return [picture, "", f"**Fig. {self.targets[label].number}.** {caption}" if label else caption]

    # ---- inside a line ----
    def inline(self, text: str) -> str:
        """Roles, links to pages and footnotes; code between backticks stays."""
        text = ROLE.sub(lambda match: self.role(match["name"], match["text"]), text)
        text = re.sub(r"\]\((?:\./)?([\w-]+)\.(?:ipynb|md)(#[\w:.-]+)?\)", self.page_link, text)
        text = re.sub(r"^\[\^([\w-]+)\]:", r"<sup>\1</sup>", text, flags=re.M)
        text = re.sub(r"\[\^([\w-]+)\]", r"<sup>\1</sup>", text)
        return text

    def page_link(self, match) -> str:
        name, anchor = match[1], (match[2] or "").removeprefix("#")
        target = self.targets.get(anchor)
        return f"]({self.url(name, target.anchor if target else anchor)})"

    def role(self, name: str, text: str) -> str:
        if name == "math":
            return f"${text}$"
        if name in ("prf:ref", "ref", "numref", "eq"):
            return self.reference(name, text)
        if name == "doc":
            shown, page = split_reference(text)
            page = Path(page).stem
            if page not in self.titles:
                raise Unknown(f"{self.page}: {{doc}}`{text}` names no page of the book.")
            return f"[{shown or self.titles[page]}]({self.url(page)})"
        if name.startswith("cite"):
            return self.citation(name, text)
        if name in ("term", "abbr", "guilabel", "kbd", "dfn"):
            return text
        if name in ("sub", "sup", "subscript", "superscript"):
            return f"<{name[:3]}>{text}</{name[:3]}>"
        raise Unknown(
            f"{self.page}: the role {{{name}}} has no plain form. Use another one, or teach tools/colab.py this one."
        )

    def find(self, label: str):
        if label not in self.targets:
            raise Unknown(f"{self.page}: a reference to {label!r}, which no page defines.")
        return self.targets[label]

    def reference_name(self, label: str) -> str:
        target = self.find(label.strip())
        return f"{target.kind} {target.number}".strip()

    def reference(self, role: str, text: str) -> str:
        shown, label = split_reference(text)
        target = self.find(label)
        if role == "eq":
            default = f"({target.number})"
        elif target.kind == "Section" or not target.number:
            default = self.inline(target.title) or target.kind
        else:
            default = f"{target.kind} {target.number}"
        if shown:
            shown = (
                shown.replace("%s", target.number).replace("{number}", target.number).replace("{name}", target.title)
            )
        return f"[{shown or default}]({self.url(target.page, target.anchor)})"

    def citation(self, role: str, text: str) -> str:
        parts = []
        for key in (key.strip() for key in text.split(",")):
            if key not in self.references:
                raise Unknown(f"{self.page}: {{{role}}}`{key}` is not in book/references.bib.")
            names, year = self.references[key]
            shown = f"{names} ({year})" if role in ("cite:t", "cite:ct") else f"{names}, {year}"
            parts.append(f"[{shown.replace(' ()', '').rstrip(', ')}]({self.url('bibliography')})")
        joined = ", ".join(parts) if role in ("cite:t", "cite:ct") else "; ".join(parts)
        return joined if role in ("cite:t", "cite:ct") else f"({joined})"

    # ---- cells ----
    def cells(self, cells: list, seconds: dict | None = None) -> list:
        """All cells of a chapter, captions under their figures, solutions folded away; a long cell says how long.

        ``seconds``: of the cells by their id, as recorded.
        """
        out = []
        for cell in cells:
            if cell.cell_type == "code":
                if (taken := (seconds or {}).get(cell.get("id"), 0)) >= LONG:
                    out.append(nbformat.v4.new_markdown_cell(f"*The next cell takes {spoken(taken)} on one CPU core.*"))
                out.append(self.code(cell))
                figure = labels.cell_figure(cell)
                if figure["caption"]:
                    number = self.targets[figure["name"]].number if figure["name"] else ""
                    alternative = f"\n\n<small>In words: {figure['alt']}</small>" if figure["alt"] else ""
                    text = f"**Fig. {number}.** {self.inline(figure['caption'])}{alternative}"
                    out.append(nbformat.v4.new_markdown_cell(text))
            else:
                out.extend(self.prose(cell.source))
        return out

    def prose(self, source: str) -> list:
        """A Markdown cell; the parts that stand inside a gated solution become folded parts."""
        out = []
        for part in re.split(r"(?m)^(?=[:`]{3,}\{solution-(?:start|end)\})", source):
            gate = re.match(r"[:`]{3,}\{solution-(start|end)\}", part)
            if gate:  # the gate itself ends with its closing fence, the rest is prose
                lines = part.splitlines()
                mark = re.match(r"[:`]+", part)[0]
                end = next((i for i in range(1, len(lines)) if lines[i].strip() == mark), len(lines) - 1)
                self.markdown("\n".join(lines[: end + 1]))
                part = "\n".join(lines[end + 1 :])
            text = self.markdown(part)
            if text and self.solution:
                text = f"<details><summary>Solution of {self.solution}</summary>\n\n{text}\n\n</details>"
            if text:
                out.append(nbformat.v4.new_markdown_cell(text))
        return out

    def code(self, cell):
        new = copy.deepcopy(cell)
        tags = cell.metadata.get("tags", [])
        new.metadata = {}
        if self.solution:
            new.source = f"# @title Solution of {self.solution}\n{cell.source}"
            new.outputs, new.execution_count = [], None
        if (
            self.solution
            or "hide-input" in tags
            or "hide-cell" in tags
            or "remove-input" in tags
            or "remove-cell" in tags
        ):
            new.metadata = {"cellView": "form", "jupyter": {"source_hidden": True}}
        return new


def split_reference(text: str) -> tuple[str, str]:
    """``shown <label>`` or ``label``, as (shown, label)."""
    match = re.match(r"^(.*?)\s*<([^<>]+)>$", text, re.S)
    return (match[1], match[2].strip()) if match else ("", text.strip())


def spoken(seconds: float) -> str:
    """A time as one says it: nobody's machine is ours."""
    return f"about {round(seconds, -1):.0f} s" if seconds < 95 else f"about {seconds / 60:.0f} minutes"


def bibliography(root: Path = book.ROOT) -> dict[str, tuple[str, str]]:
    """Key to (names as a text cites them, year) for every entry of the bibliography."""
    from pybtex.database import parse_file

    found = {}
    for name in book.config(root).get("bibtex_bibfiles", []):
        for key, entry in parse_file(str(root / name)).entries.items():
            family = [" ".join(person.prelast_names + person.last_names) for person in entry.persons.get("author", [])]
            names = (
                family[0] if len(family) == 1 else " and ".join(family) if len(family) == 2 else f"{family[0]} et al."
            )
            found[key] = (re.sub(r"[{}]", "", names), entry.fields.get("year", ""))
    return found


def commit_of(root: Path = book.ROOT) -> str:
    """What the set-up cell installs: the commit of the checkout, the branch where git knows none."""
    git = ["git", "-C", str(root), "rev-parse", "--verify", "-q", "HEAD"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    return found or book.config(root)["repository"]["branch"]


def setup_source(root: Path = book.ROOT) -> str:
    """The set-up cell, with the project's address and the commit in it."""
    return SETUP.replace("{repository}", book.repository_url(root)).replace("{commit}", commit_of(root))


def uses_gpu(notebook) -> bool:
    """Whether a chapter trains on a GPU where there is one."""
    return any(TRAINS.search(cell.source) for cell in notebook.cells if cell.cell_type == "code")


def convert(path: Path, targets: dict, titles: dict, root: Path = book.ROOT):
    """The Colab edition of one chapter, as a notebook."""
    notebook = book.read(path)
    converter = Converter(path.stem, targets, titles, root)
    title = converter.inline(titles[path.stem])
    gpu = uses_gpu(notebook)
    runtime = RUNTIME if gpu else ""
    banner = BANNER.format(title=title, url=converter.url(path.stem), home=converter.home, runtime=runtime)
    hidden = {"cellView": "form", "jupyter": {"source_hidden": True}}
    front = [nbformat.v4.new_markdown_cell(banner), nbformat.v4.new_code_cell(setup_source(root), metadata=hidden)]
    cells = front + converter.cells(notebook.cells, notebook.metadata.get(book.RECORD_KEY, {}).get("seconds"))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:03d}"  # a copy made by a machine: count, so that the same input gives the same file
    metadata = {
        **({"accelerator": "GPU"} if gpu else {}),
        "colab": {**({"gpuType": "T4"} if gpu else {}), "provenance": [], "toc_visible": True},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def leftovers(notebook) -> list[str]:
    """Marks of a directive, a role or a label that are left in the Markdown of a notebook: none in a clean edition."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown":
            continue
        text = re.sub(
            r"(?ms)^[ \t]*(`{3,})(?!\{).*?^[ \t]*\1[ \t]*$", "", cell.source
        )  # code shown as code may hold anything
        found += [f"cell {number}: {match[0].strip()!r}" for match in LEFTOVER.finditer(text)]
    return found


def write_edition(out: Path, root: Path = book.ROOT) -> list[Path]:
    """Write every chapter into ``out``/book; return the files. Raises ``Unknown`` where a chapter cannot be written."""
    targets, titles = labels.collect(root)
    (out / "book").mkdir(parents=True, exist_ok=True)
    written = []
    for path in book.chapters(root):
        notebook = convert(path, targets, titles, root)
        if left := leftovers(notebook):
            raise Unknown(f"{path.name}: not plain, {'; '.join(left)}")
        target = out / "book" / path.name
        book.write(notebook, target)
        written.append(target)
    return written


def write_downloads(app, exception) -> None:
    """After a build: the download button of a chapter hands out its plain edition."""
    sources = Path(app.outdir) / "_sources"
    if exception is None and app.builder.format == "html" and sources.is_dir():
        write_edition(sources, Path(app.srcdir))


def setup(app):
    """As a Sphinx extension."""
    app.connect("build-finished", write_downloads)
    return {"parallel_read_safe": True}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=book.ROOT / "_build" / "colab")
    options = parser.parse_args(arguments)
    try:
        written = write_edition(options.out)
    except ValueError as error:
        print(f"The plain edition was not written. {error}")
        return 1
    print(f"{len(written)} chapter(s) in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
