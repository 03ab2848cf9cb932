"""One setting for the project's address, one list of requirements, a built book that is complete without a network."""

import re
import subprocess
import tomllib

import colab
import pytest
import yaml
from pybtex.database import parse_file

import book

ROOT = book.ROOT
NAMING = ["README.md", "CITATION.cff", "pyproject.toml", ".github/workflows/book.yml", "tools", "book", "pso_lib"]


def texts():
    for name in NAMING:
        path = ROOT / name
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
        for file in files:
            if file.suffix in (".md", ".cff", ".toml", ".yml", ".py", ".ipynb", ".bib") and "_static" not in file.parts:
                yield file, file.read_text(encoding="utf8")


def test_every_mention_of_the_address_is_the_setting():
    owner = book.repository_url().split("/")[-2]
    wrong = []
    for file, text in texts():
        for match in re.finditer(rf"https?://(?:www\.)?github\.com/{re.escape(owner)}/[\w-]+", text):
            if match[0] != book.repository_url():
                wrong.append(f"{file.relative_to(ROOT)}: {match[0]}")
        for match in re.finditer(rf"https?://{re.escape(owner)}\.github\.io/[\w-]*", text):
            if match[0] != book.published_url():
                wrong.append(f"{file.relative_to(ROOT)}: {match[0]}")
    assert not wrong, "; ".join(wrong)


@pytest.mark.parametrize("name", ["README.md", "CITATION.cff", "pyproject.toml"])
def test_address_is_named_where_it_must_be(name):
    assert book.repository_url() in (ROOT / name).read_text(encoding="utf8")


def test_colab_button_opens_the_branch_that_is_published():
    workflow = (ROOT / ".github/workflows/book.yml").read_text(encoding="utf8")
    assert f"HEAD:{book.colab_branch()}" in workflow
    assert "tools/colab.py" in workflow
    assert book.config()["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert book.repository_url() in colab.setup_source()


def test_requirements_hold_what_the_package_needs():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    lines = [line for line in lines if line]
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert lines[-1] == "-e ."
    assert set(needed) <= set(lines)
    for owner_fixed in ("jupyter-book", "torch", "torchvision", "numpy", "sympy", "matplotlib", "nbval"):
        assert any(re.match(rf"{owner_fixed}\b(?!-)", line) for line in lines), owner_fixed


def test_what_a_hosted_notebook_preinstalls_has_lower_bounds_only():
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", line), line


def test_mathematics_is_served_by_the_book():
    static = ROOT / "book" / "_static"
    settings = book.config()["sphinx"]["config"]
    assert (static / settings["mathjax_path"]).is_file()
    assert len(list((static / "mathjax/output/chtml/fonts/woff-v2").glob("*.woff"))) == 23
    assert (static / "mathjax/LICENSE").is_file()
    for name in settings["html_css_files"]:
        assert "url(" not in (static / name).read_text(), f"{name} asks for another file"
    assert "sphinx_thebe" not in settings["extensions"]


def test_root_is_tidy():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout, so what belongs to the project is not known")
    allowed = (
        "README.md requirements.txt pyproject.toml _config.yml _toc.yml book pso_lib results tests tools benchmarks "
        "assignments LICENSE MANIFEST.in CITATION.cff CHANGELOG.md CONTRIBUTING.md conftest.py .ci .github .gitignore "
        ".pre-commit-config.yaml"
    ).split()
    assert {name.split("/")[0] for name in listed.stdout.splitlines()} <= set(allowed)


def test_front_matter_agrees():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    released = re.findall(r"(?m)^## (\d\S*)", changes)[0]
    assert citation["version"] == settings["tool"]["setuptools_scm"]["fallback_version"] == released
    assert citation["title"] == citation["preferred-citation"]["title"] == book.config()["title"]
    assert citation["license"] == settings["project"]["license"] == "BSD-3-Clause"
    assert citation["url"] == settings["project"]["urls"]["Homepage"] == book.published_url()


def test_citation_names_the_two_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    entries = parse_file(str(ROOT / "book/references.bib")).entries
    for key, cited in zip(("massucco_persistent", "cao_curse"), citation["references"], strict=True):
        fields = entries[key].fields
        assert (cited["title"], str(cited["year"])) == (fields["title"], fields["year"])
        assert cited["identifiers"][0]["value"] == f"arXiv:{fields['eprint']}"
        names = [" ".join(person.last_names) for person in entries[key].persons["author"]]
        assert [author["family-names"] for author in cited["authors"]] == [
            name.replace('{\\"o}', "ö") for name in names
        ]


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.stem)
def test_what_github_reads_is_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf8")), dict)


def test_workflow_publishes_the_colab_edition_before_the_pages_that_link_to_it():
    jobs = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text(encoding="utf8"))["jobs"]
    assert jobs["pages"]["needs"] == "colab-edition" and jobs["colab-edition"]["needs"] == "test"


def test_bibliography_is_complete():
    entries = parse_file(str(ROOT / "book/references.bib")).entries
    assert len({entry.fields["title"].lower() for entry in entries.values()}) == len(entries)
    for key, entry in entries.items():
        assert entry.persons.get("author"), f"{key} has no author"


def test_every_citation_is_in_the_bibliography():
    import labels

    known, wanted = colab.bibliography(), set()
    for path in book.pages():
        for cell in labels.page_cells(path):
            if cell.cell_type == "markdown":
                for match in re.finditer(r"\{cite[:\w]*\}`([^`]+)`", cell.source):
                    wanted |= {key.strip() for key in match[1].split(",")}
    assert wanted <= set(known)


def test_readme_leads_with_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf8")
    first = text.index("pip install -r requirements.txt && jupyter-book build .")
    second = text.index("pip install -r requirements.txt && pytest")
    assert first < second < text.index("\n## ")
