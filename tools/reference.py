"""What the API reference needs of Sphinx beyond its own extensions; named in _config.yml."""

import re

from sphinx_codeautolink.extension.block import CodeBlockAnalyser


def plain(app, what, name, obj, options, lines):
    """Docstrings are plain text: bars and stars of a formula are no markup, and an indented part by itself is code."""
    found, code = [], False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and not code and number and not lines[number - 1].strip():
            found += ["::", ""]
            code = True
        elif line.strip() and not indented:
            code = False
        found.append(line if code else escaped(line))
    lines[:] = found


def escaped(line: str) -> str:
    """One line with what reStructuredText would read as markup escaped, but for ``code``."""
    parts = re.split(r"(``.*?``)", line)
    parts[::2] = [re.sub(r"[|*]|_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def depart_section(self, node):
    """A theorem is a section without a title, which the analyser of code does not expect."""
    if self.title_stack:
        self.title_stack.pop()


def setup(app):
    CodeBlockAnalyser.depart_section = depart_section
    app.connect("autodoc-process-docstring", plain, priority=400)  # before napoleon, which writes markup of its own
    return {"parallel_read_safe": True}
