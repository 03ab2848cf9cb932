"""What a student handed in: any notebook or Python file, whatever its name; the answers in it, by function name.

Nothing is run here. Of each cell the definitions are taken, that is functions, classes, imports, and the
assignments and settings in which nothing is called but ``LIBRARIES`` (``EPS = 10**-12``, ``mp.dps = 400``,
``A = torch.eye(2)``); what loops, trains, plots or downloads is left out, so it may fail as it likes.
"""

import ast
import hashlib
import hmac
import inspect
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pso_lib.course.assignment import Assignment
from pso_lib.errors import nearest

__all__ = ["Found", "Submission", "find_files", "read_submission", "stamp"]

LARGEST = 10 * 2**20  # bytes of a file
MOST_CODE = 2**20  # characters of code in it
LIBRARIES = set(
    "torch numpy math cmath fractions decimal mpmath sympy scipy itertools functools operator collections statistics "
    "random warnings builtins".split()
)
HARMLESS = set(
    "abs all any bool complex dict divmod enumerate float frozenset int len list map max min pow range reversed round "
    "set slice sorted str sum tuple zip".split()
)
GUESSED = "whose it is was guessed from the file's name"
STAMP = re.compile(r"pso-course (\S+) (\S*) ([0-9a-f]{16})\b")
VARIANTS = re.compile(r"pso-variants ([0-9a-f]{16})\b")


@dataclass(frozen=True)
class Found:
    """What a submission holds for one exercise: an answer, or why there is nothing to grade."""

    problem: str = ""
    blank: bool = False


@dataclass
class Submission:
    """A submission, read.

    Attributes:
        file: its path within the folder of submissions.
        digest: of its bytes.
        cells: (where, source) of code, each of them Python.
        problem: why nothing of it can be graded; "" if it can.
        broken: (where, source, why) of cells that are not Python.
        stamps: (assignment, student, signature) that it bears.
        variants: the signatures of the variants that its questions were written for.
    """

    file: str
    digest: str
    cells: list[tuple[str, str]] = field(default_factory=list)
    problem: str = ""
    broken: list[tuple[str, str, str]] = field(default_factory=list)
    stamps: list[tuple[str, str, str]] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._trees: dict[int, ast.Module] = {}

    def tree(self, cell: int) -> ast.Module:
        if cell not in self._trees:
            self._trees[cell] = ast.parse(self.cells[cell][1])
        return self._trees[cell]

    def definitions(self, names: Iterable[str]) -> tuple[dict[str, Found], list]:
        """The answers by name, and what the worker is to run: [where, source, numbers of the definitions].

        A blank beside an answer of the same name is passed over; two answers of one name that differ are a problem.
        """
        names = list(names)
        places: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
        run: list[tuple[int, int]] = []
        others = set()
        for cell, number, node in self._taken():
            bound = _bound(node)
            if len(bound) == 1 and bound[0] in places:
                places[bound[0]].append((cell, number))
            elif not places.keys() & bound:
                run.append((cell, number))
                if isinstance(node, ast.FunctionDef):
                    others.add(node.name)
        found = {}
        for name in names:
            written = [place for place in places[name] if not is_blank(self._node(place))]
            kinds = {ast.dump(self._node(place)) for place in written}
            if not places[name]:
                found[name] = Found(problem=self._missing(name, others - set(names)))
            elif not written:
                found[name] = Found(blank=True, problem="no answer yet: the starter is unchanged.")
            elif len(kinds) > 1:
                where = " and ".join(self._where(place) for place in written)
                found[name] = Found(problem=f"there are two answers, in {where}, and they differ: keep one of them.")
            else:
                found[name] = Found()
                run.append(written[-1])
        cells = [
            [where, source, [number for at, number in sorted(run) if at == cell]]
            for cell, (where, source) in enumerate(self.cells)
        ]
        return found, [cell for cell in cells if cell[2]]

    def node(self, name: str) -> ast.stmt | None:
        """The syntax tree of the answer, the last that is written; None if there is none."""
        nodes = [node for _, _, node in self._taken() if _bound(node) == [name]]
        written = [node for node in nodes if not is_blank(node)]
        return written[-1] if written else None

    def left_out(self) -> dict[str, str]:
        """The names that the file gives only in statements that are not taken, and where."""
        taken = list(self._taken())
        known = {name for _, _, node in taken for name in _bound(node)}
        kept = {(cell, number) for cell, number, _ in taken}
        places: dict[str, str] = {}
        for cell, (where, _) in enumerate(self.cells):
            for number, node in enumerate(self.tree(cell).body):
                if (cell, number) not in kept:
                    places |= {name: f"{where}, line {node.lineno}" for name in _bound(node) if name not in known}
        return places

    def names(self) -> set[str]:
        """What the statements that are run for grading give a name."""
        return {name for _, _, node in self._taken() for name in _bound(node)}

    def _taken(self) -> Iterator[tuple[int, int, ast.stmt]]:
        """The statements that are run for grading: cell, number in it, statement."""
        nodes = [
            (cell, number, node) for cell in range(len(self.cells)) for number, node in enumerate(self.tree(cell).body)
        ]
        sources = _sources(node for _, _, node in nodes)
        return (place for place in nodes if _is_definition(place[2], sources))

    def _node(self, place: tuple[int, int]) -> ast.stmt:
        return self.tree(place[0]).body[place[1]]

    def _where(self, place: tuple[int, int]) -> str:
        return f"{self.cells[place[0]][0]}, line {self._node(place).lineno}"

    def _missing(self, name: str, others: set[str]) -> str:
        pattern = re.compile(rf"^\s*(async\s+)?(def\s+{name}\b|{name}\s*=)", re.M)
        for where, source, why in self.broken:
            if pattern.search(source):
                return f"{where} is not Python: {why}."
        if any(pattern.search(source) for _, source in self.cells):
            return f"`{name}` must be defined with `def` at the left margin of a cell, not inside something else."
        return f"there is no function `{name}` in the file.{nearest(name, sorted(others))}"


def _is_definition(node: ast.stmt, sources: dict[str, str]) -> bool:
    """Whether a statement is run for grading.

    Args:
        sources: where the file's names come from, as ``_sources`` has it.
    """
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return isinstance(node.value, ast.Lambda) or all(_plain(part, sources) for part in [*targets, node.value])
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _plain(node.value, sources)


def _plain(node: ast.AST, sources: dict[str, str]) -> bool:
    """Whether nothing is called in an expression but the libraries, and what Python itself has to make values."""
    for part in ast.walk(node):
        if isinstance(part, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr):
            return False
        if isinstance(part, ast.Call):
            root: ast.expr = part.func
            while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
                root = root.func if isinstance(root, ast.Call) else root.value
            source = "builtins"
            if isinstance(root, ast.Name) and (root.id in sources or root.id not in HARMLESS):
                source = sources.get(root.id, sources.get("*", ""))
            given = [n.id for one in [*part.args, *part.keywords] for n in ast.walk(one) if isinstance(n, ast.Name)]
            if source not in LIBRARIES or source != "functools" and any(sources.get(name) == "" for name in given):
                return False  # map(train, seeds) trains; functools.partial(mine, 3) runs nothing
    return True


def _sources(nodes: Iterable[ast.stmt]) -> dict[str, str]:
    """The library that each name of a file comes from, also by way of a plain assignment; "" for its own.

    Under "*", a library all of whose names are imported.
    """
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                library = (getattr(node, "module", None) or alias.name).split(".")[0]
                found[alias.asname or alias.name.split(".")[0]] = "" if getattr(node, "level", 0) else library
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found[node.name] = ""
        else:
            library = ""
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and not isinstance(node.value, ast.Lambda):
                used = {found.get(n.id, "builtins") for n in ast.walk(node.value) if isinstance(n, ast.Name)}
                if used <= LIBRARIES and _plain(node.value, found):
                    library = max(used, default="builtins")
            found = dict.fromkeys(_bound(node), library) | found
    return found


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement gives."""
    if isinstance(node, ast.Assign):
        parts = [part for target in node.targets for part in ast.walk(target)]
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        parts = list(ast.walk(node.target))
    elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        parts = [node]
    else:
        parts = list(ast.walk(node))
    names = []
    for part in parts:
        if isinstance(part, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.append(part.name)
        elif isinstance(part, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name.split(".")[0] for alias in part.names]
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            names.append(part.id)
    return list(dict.fromkeys(names))


def is_blank(node: ast.stmt) -> bool:
    """Whether a function's body is nothing but a docstring, ``...`` and ``pass``."""
    if not isinstance(node, ast.FunctionDef):
        return False
    body = [part.value if isinstance(part, ast.Expr | ast.Return) else part for part in node.body]
    return all(isinstance(part, ast.Pass) or part is None or _says_nothing(part) for part in body)


def _says_nothing(part: ast.AST) -> bool:
    if isinstance(part, ast.Raise):  # nbgrader's place for an answer
        return part.exc is not None and ast.unparse(part.exc) in ("NotImplementedError", "NotImplementedError()")
    return isinstance(part, ast.Constant) and (part.value is None or part.value is ... or isinstance(part.value, str))


# ---- files ----
def find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The notebooks and Python files below the folder, and the files of other kinds."""
    every = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    seen = [path for path in every if not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)]
    taken = [path for path in seen if path.suffix.lower() in (".ipynb", ".py")]
    return taken, [path for path in seen if path not in taken]


def read_submission(path: Path, folder: Path | None = None) -> Submission:
    """Read a file. What is wrong with it is its ``problem``, never an exception."""
    file = str(path.relative_to(folder)) if folder else path.name
    try:
        size = path.stat().st_size
        if size > LARGEST:
            most = LARGEST // 2**20
            problem = f"the file has {size / 2**20:.0f} MB, more than {most}: clear its outputs, then save it again."
            return Submission(file, f"{size} bytes", problem=problem)
        data = path.read_bytes()
    except OSError as error:
        return Submission(file, "", problem=f"the file cannot be read: {error.strerror}.")
    found = Submission(file, hashlib.sha256(data).hexdigest())
    try:
        text = data.decode("utf-8-sig")
        if not text.strip():
            found.problem = "the file is empty: save the notebook, then hand it in again."
        elif path.suffix.lower() == ".ipynb":
            _take_notebook(found, text)
        else:
            _take(found, "your file", text)
        code = sum(len(source) for _, source in found.cells)
        if code > MOST_CODE:
            found.cells, found.problem = [], f"the file holds {code} characters of code, more than {MOST_CODE}."
    except UnicodeDecodeError:
        found.problem = "the file is not text in UTF-8: save it as a notebook or as Python, then hand it in again."
    except (RecursionError, MemoryError):
        found.cells, found.problem = [], "the file nests its brackets too deeply to be read."
    return found


def _take_notebook(found: Submission, text: str) -> None:
    try:
        notebook = json.loads(text)
    except ValueError as error:
        found.problem = f"the file is no whole notebook ({error}): download it once more, then hand it in again."
        return
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if cells is None and isinstance(notebook, dict) and isinstance(notebook.get("worksheets"), list):
        cells = [cell for sheet in notebook["worksheets"] if isinstance(sheet, dict) for cell in sheet.get("cells", [])]
    if not isinstance(cells, list):
        found.problem = "the file is no notebook: it has no cells."
        return
    metadata = notebook.get("metadata")
    mark = metadata.get("pso_course") if isinstance(metadata, dict) else None
    found.stamps += STAMP.findall(str(mark))
    for number, cell in enumerate(cells, start=1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", cell.get("input", ""))
        source = "".join(map(str, source)) if isinstance(source, list) else str(source)
        _take(found, f"cell {number}", source)


def _take(found: Submission, where: str, source: str) -> None:
    found.stamps += STAMP.findall(source)
    found.variants += VARIANTS.findall(source)
    source = source.replace("\x00", "")
    try:
        ast.parse(source)
        found.cells.append((where, source))
        return
    except SyntaxError as error:
        why = f"{error.msg}, line {error.lineno}"
    plain = re.sub(r"^%%\w+.*", "", source) if re.match(r"%%(time|timeit|capture|prun)\b", source) else source
    plain = re.sub(
        r"^([ \t]*)(\w+[ \t]*=[ \t]*)?[%!?].*$|^([ \t]*)[\w.]+\?{1,2}[ \t]*$", r"\1\3pass", plain, flags=re.M
    )
    for part in _pieces(plain):
        try:
            ast.parse(part)
            found.cells.append((where, part))
        except SyntaxError:
            found.broken.append((where, part, why))


def _pieces(source: str) -> list[str]:
    """The whole, if it is Python; else cut before each definition, lines kept in their places."""
    try:
        ast.parse(source)
        return [source]
    except SyntaxError:
        pass
    lines = source.split("\n")
    starts = [
        n for n, line in enumerate(lines) if re.match(r"(@|def\b|class\b|async\b|import\b|from\b|# ?%%|# In\[)", line)
    ]
    starts = [n for n in starts if not (n and lines[n - 1].startswith("@"))]
    edges = [0, *starts, len(lines)]
    pieces = ["\n" * a + "\n".join(lines[a:b]) for a, b in zip(edges, edges[1:], strict=False) if a < b]
    return [piece for piece in pieces if piece.strip()]


def unseen(function: Callable, cells: Iterable[str]) -> list[str]:
    """The names that a function of a running notebook uses, and that grading will not have; for the public checks.

    Args:
        cells: the sources that have been run.
    """
    found = Submission("", "")
    for source in cells:
        _take(found, "", source)
    return sorted(inspect.getclosurevars(function).globals.keys() & found.left_out().keys())


# ---- whose it is ----
def stamp(assignment: str, student: str, secret: bytes) -> str:
    """The line that names the student in a notebook, signed."""
    return f"pso-course {assignment} {urllib.parse.quote(student, safe='')} {_signature(assignment, student, secret)}"


def _signature(assignment: str, student: str, secret: bytes) -> str:
    message = "\x00".join(("stamp", assignment, student)).encode("utf8", "surrogateescape")
    return hmac.new(secret, message, hashlib.sha256).hexdigest()[:16]


def variants_mark(variants: dict[str, dict], secret: bytes) -> str:
    """The line by which a notebook's variants are known again, though it does not show them."""
    return f"pso-variants {hmac.new(secret, repr(variants).encode(), hashlib.sha256).hexdigest()[:16]}"


def whose(
    found: Submission, assignment: Assignment, secret: bytes, roster: Iterable[str] | None
) -> tuple[str, str, list[str]]:
    """The student, whose variant the questions are, and remarks.

    By the signed stamp of the notebook; else by the roster's ID in the file's path; else the file's own name, which is
    as good as nobody where there is a roster.
    """
    remarks = []
    students = None if roster is None else list(roster)
    genuine = []
    for name, quoted, signature in dict.fromkeys(found.stamps):
        student = urllib.parse.unquote(quoted)
        if not hmac.compare_digest(signature, _signature(name, student, secret)):
            remarks.append("its stamp was not made with this secret")
        elif name != assignment.name:
            remarks.append(f"is a notebook of assignment {name}")
        else:
            genuine.append(student)
    named = _in_name(found.file, students or [])
    if len(set(genuine)) > 1:
        remarks.append(f"bears the stamps of {', '.join(sorted(set(genuine)))}")
    owner = next((student for student in genuine if student), "")
    if owner:
        if students is not None and owner not in students:
            remarks.append(f"{owner} is not on the roster")
        if named and named != owner:
            remarks.append(f"named for {named}, but made for {owner}")
        return owner, owner, remarks
    if named:
        return named, "" if genuine else named, remarks
    if students is not None or not genuine:
        remarks.append(GUESSED)
    return Path(found.file).stem, "", remarks


def _in_name(file: str, students: list[str]) -> str:
    """The one student whose ID stands in the path, with neither a letter nor a digit next to it; the longest counts."""
    hits = [s for s in students if s and re.search(rf"(?<![A-Za-z0-9]){re.escape(s)}(?![A-Za-z0-9])", file, re.I)]
    hits = [s for s in hits if not any(s != other and s.lower() in other.lower() for other in hits)]
    return hits[0] if len(hits) == 1 else ""
