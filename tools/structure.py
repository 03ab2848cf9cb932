"""What every chapter must be: its shape, its lengths, its stored outputs, its figures.

Each check takes a notebook and returns a list of complaints in words; an empty list means that all is well.

    python tools/structure.py book/mirrors.ipynb      the complaints about one chapter (none named: about all)
"""

import ast
import re
import sys
from pathlib import Path

import labels

import book

LONGEST_CELL, SHORT_CELL, SHORT_SHARE = 25, 10, 0.6
WORDS = (1_500, 4_500)
EXERCISES = (3, 5)
HEADINGS = ("What we saw", "Where it breaks", "Exercises", "References")
SHOWING = {"print", "show", "display", "check"}
MACHINE = re.compile(
    r"(?<![\w.:/~])/(?:work|root|opt|home|tmp|Users|content|mnt|var)/[\w.-]+|[A-Z]:\\\\?Users|site-packages"
)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{6,}")
IMAGES = ("image/png", "image/svg+xml", "image/jpeg")

__all__ = ["CHECKS", "PAGE_CHECKS", "problems", "words"]


def code_cells(notebook) -> list:
    """The code cells that hold anything."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def prose(notebook) -> str:
    """All Markdown, joined."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def words(notebook) -> int:
    """Words of prose: a formula counts as one; code, the marks of directives, folded hints and solutions as none."""
    folded = r"^:::\{dropdown\} Hint.*?^:::$|^:::\{solution-start\}.*?^:::\{solution-end\}"
    text = re.sub(rf"<!--.*?-->|{folded}", " ", prose(notebook), flags=re.S | re.M)
    text = re.sub(r"(?ms)^[ \t]*(`{3,})(?!\{).*?^[ \t]*\1[ \t]*$", " ", text)
    text = re.sub(r"(?m)^[ \t]*(:{3,}|`{3,}).*$|^[ \t]*:[\w-]+:.*$|^\([\w:.-]+\)=\s*$", " ", text)
    text = re.sub(r"(?s)\$\$.*?\$\$|\$[^$]+\$", " formula ", text)
    return len(re.findall(r"\b[\w’'-]*\w\b", text))


def shape(notebook) -> list[str]:
    """Question, prediction, what we saw, where it breaks, exercises with solutions, references."""
    text, found = prose(notebook), []
    titles = re.findall(r"(?m)^# .+$", text)
    if len(titles) != 1:
        found.append(f"has {len(titles)} titles (`# …`); a chapter has one")
    if not re.search(r"(?m)^\(ch-[\w-]+\)=\s*\n# ", text):
        found.append("has no label (ch-…)= above its title")
    if not re.search(r"(?m)^> \*\*Question\.\*\*", text):
        found.append("has no block quote that starts with **Question.**")
    if "**Before you read on" not in text:
        found.append("asks for no prediction: a paragraph with **Before you read on:**")
    headings = re.findall(r"(?m)^##+ (.+?)\s*$", text)
    missing = [heading for heading in HEADINGS if heading not in headings]
    if missing:
        found.append(f"lacks the heading(s) {', '.join(missing)}")
    present = [headings.index(heading) for heading in HEADINGS if heading in headings]
    if present != sorted(present):
        found.append(f"has the headings {', '.join(HEADINGS)} in another order")
    return found


def exercises(notebook) -> list[str]:
    """Three to five exercises, each with one solution that holds an executed cell."""
    asked, solved, found = [], [], []
    executed, open_solution = set(), None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if open_solution and cell.source.strip():
                executed.add(open_solution)
            continue
        for kind, block in labels.blocks(cell.source.splitlines()):
            if kind != "directive":
                continue
            if block.name == "exercise":
                asked.append(block.options.get("label", ""))
            elif block.name in ("solution-start", "solution"):
                solved.append(block.argument)
                open_solution = block.argument if block.name == "solution-start" else None
                if "dropdown" not in block.options.get("class", ""):
                    found.append(f"the solution of {block.argument} is not collapsed (:class: dropdown)")
            elif block.name == "solution-end":
                open_solution = None
    if not EXERCISES[0] <= len(asked) <= EXERCISES[1]:
        found.append(f"has {len(asked)} exercises; {EXERCISES[0]} to {EXERCISES[1]} are wanted")
    if "" in asked:
        found.append("has an exercise without a :label:")
    found += [f"has no solution for the exercise {label}" for label in asked if label and label not in solved]
    found += [f"solves {label}, which is no exercise here" for label in solved if label not in asked]
    found += [f"has no executed cell in the solution of {label}" for label in solved if label not in executed]
    return found


def lengths(notebook) -> list[str]:
    """Code cells short enough to be read as sentences, imports apart; a chapter of 1,500 to 4,500 words."""
    sizes = [len(cell.source.strip("\n").splitlines()) - import_lines(cell.source) for cell in code_cells(notebook)]
    found = [
        f"code cell {number} has {size} lines; at most {LONGEST_CELL} are allowed"
        for number, size in enumerate(sizes, 1)
        if size > LONGEST_CELL
    ]
    short = sum(size <= SHORT_CELL for size in sizes)
    if sizes and short < SHORT_SHARE * len(sizes):
        found.append(f"only {short} of {len(sizes)} code cells have at most {SHORT_CELL} lines; most should")
    count = words(notebook)
    if not WORDS[0] <= count <= WORDS[1]:
        found.append(f"has {count} words; {WORDS[0]:,} to {WORDS[1]:,} are wanted")
    return found


def import_lines(source: str) -> int:
    """The lines that import: a list of names is no sentence."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic
        return 0
    found = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return sum(node.end_lineno - node.lineno + 1 for node in found)


def shows(source: str) -> bool:
    """Whether a cell certainly shows something: it prints, draws, checks, or ends in a value."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic; lint and execution look at it
        return False
    calls = (node.func for statement in tree.body for node in walk_run(statement) if isinstance(node, ast.Call))
    if any((getattr(call, "id", None) or getattr(call, "attr", None)) in SHOWING for call in calls):
        return True
    last = tree.body[-1] if tree.body else None
    quiet = source.rstrip().endswith(";")
    silent = isinstance(last, ast.Expr) and isinstance(last.value, ast.Call | ast.Await)
    return isinstance(last, ast.Expr) and not quiet and not silent and not is_constant(last.value)


def walk_run(statement):
    """The nodes that run when the statement runs: not the bodies of functions and classes it defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If):
        return []
    return ast.walk(statement)


def is_constant(node) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def outputs(notebook) -> list[str]:
    """Stored outputs: there where the cell shows something, none an error, nothing of this run or this machine."""
    found = []
    if not any(cell.execution_count for cell in code_cells(notebook)):
        return ["was never executed; run tools/record.py"] if code_cells(notebook) else []
    for number, cell in enumerate(code_cells(notebook), 1):
        name = f"code cell {number}"
        if cell.execution_count is None:
            found.append(f"{name} was never executed")
        if not cell.outputs and shows(cell.source):
            found.append(f"{name} shows something, but no output is stored")
        if not cell.outputs and "nbval-check-output" in cell.metadata.get("tags", []):
            found.append(f"{name} is tagged nbval-check-output, but has no output to compare with")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{name} stores an error: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"{name} stores a message on stderr: {output.text.strip()[:80]!r}")
            data = output.get("data", {})
            if any("widget" in kind for kind in data):
                found.append(f"{name} stores a widget, which is invisible offline")
            texts = [output.get("text", "")] + [str(value) for kind, value in data.items() if kind not in IMAGES]
            for text in texts:
                if match := MACHINE.search(text):
                    found.append(f"{name} shows a path of a machine: {match[0]!r}")
                if match := ADDRESS.search(text):
                    found.append(f"{name} shows a memory address:{match[0]!r}")
    return found


def figures(notebook) -> list[str]:
    """Every figure has a caption, a name and its own alternative text; one figure a cell."""
    found, seen = [], set()
    for number, cell in enumerate(code_cells(notebook), 1):
        drawn = sum(any(kind in output.get("data", {}) for kind in IMAGES) for output in cell.outputs)
        figure, name = labels.cell_figure(cell), f"code cell {number}"
        if drawn:
            for part in ("caption", "name", "alt"):
                if not figure[part]:
                    found.append(f"{name} draws a figure without {part} (cell metadata mystnb)")
            if drawn > 1:
                found.append(f"{name} draws {drawn} figures; one a cell")
            if figure["name"] and not figure["name"].startswith("fig-"):
                found.append(f"{name}: the name {figure['name']!r} does not start with fig-")
            if figure["alt"] and len(figure["alt"].split()) < 6:
                found.append(f"{name}: the alternative text {figure['alt']!r} is too short to stand for the picture")
            if figure["alt"] and figure["alt"] in seen:
                found.append(f"{name}: another figure has the same alternative text")
            seen.add(figure["alt"])
        elif figure["caption"]:
            found.append(f"{name} has a caption, but no figure is stored")
    for match in re.finditer(r"!\[(.*?)\]\(", prose(notebook)):
        if not match[1].strip():
            found.append("a Markdown picture has no alternative text")
    return found


def sources(notebook) -> list[str]:
    """Boxes in colon fences, labelled; no macro that Colab does not know; no path of a machine."""
    found, text = [], prose(notebook)
    plain = re.sub(r"(?ms)^[ \t]*(`{3,})(?!\{).*?^[ \t]*\1[ \t]*$", "", text)
    for match in re.finditer(r"(?m)^[ \t]*(?:`{3,}|~{3,})\{([\w:.-]+)\}", plain):
        found.append(
            f"writes {{{match[1]}}} in a backtick fence; use a colon fence, ::: (Colab shows a backtick as code)"
        )
    for kind, block in labels.blocks(text.splitlines()):
        family, _, box = block.name.rpartition(":") if kind == "directive" else ("", "", "")
        if family == "prf" and box in labels.BOXES and "label" not in block.options:
            found.append(f"has a {box} without a :label:")
    if match := re.search(r"\\(?:R|N|Z|E|norm|abs|bm|vec|tr|diag|rank)(?![a-zA-Z])", re.sub(r"\\vec\{", "", text)):
        found.append(f"uses the macro {match[0]}, which is not defined; write it out, such as \\mathbb{{R}}")
    for cell in notebook.cells:
        if match := MACHINE.search(cell.source):
            found.append(f"names a path of a machine: {match[0]!r}")
    return found


def staleness(notebook) -> list[str]:
    """The stored outputs belong to the code: scale and hash agree with what tools/record.py wrote."""
    reason = book.is_stale(notebook)
    found = [f"{reason}; run tools/record.py"] if reason else []
    kept = {"kernelspec", "language_info", book.RECORD_KEY}
    if extra := sorted(set(notebook.metadata) - kept):
        found.append(f"has metadata {', '.join(extra)} that tools/record.py would drop; run it")
    if any("execution" in cell.metadata for cell in notebook.cells):
        found.append("stores times of execution; run tools/record.py")
    return found


PAGE_CHECKS = {"outputs": outputs, "figures": figures, "sources": sources, "staleness": staleness}  # every notebook
CHECKS = {"shape": shape, "exercises": exercises, "lengths": lengths, **PAGE_CHECKS}  # a chapter


def problems(path: Path) -> list[str]:
    """All complaints about one chapter."""
    notebook = book.read(path)
    return [complaint for check in CHECKS.values() for complaint in check(notebook)]


def main(arguments: list[str] | None = None) -> int:
    chosen = [Path(name) for name in (sys.argv[1:] if arguments is None else arguments)] or book.chapters()
    failed = False
    for path in chosen:
        for complaint in problems(path):
            failed = True
            print(f"{path.name} {complaint}")
        print(f"{path.name}: {words(book.read(path)):,} words, {len(code_cells(book.read(path)))} code cells")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
