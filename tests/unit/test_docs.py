"""The documentation without a cluster: links, examples, and what is not run."""

import ast
import pathlib
import re

import pytest
import yaml

from sglang_operator.api import names
from sglang_operator.cli import check_files
from sglang_operator.cli.pipeline import objects
from tests import roll_interface
from tests.builders import guide_spec
from tests.docs import pages
from tests.docs.pages import PAGES

BLOCKS = [block for path in PAGES for block in pages.blocks(path)]


def of(language):
    found = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", found, ids=[f"{b.page}:{b.line}" for b in found])


@pytest.mark.parametrize("path", PAGES, ids=pages.name)
def test_every_block_has_a_language_that_says_what_is_done_with_it(path):
    assert {block.language for block in pages.blocks(path)} <= pages.LANGUAGES
    lines = path.read_text().splitlines()
    assert sum(line.lstrip().startswith("```") for line in lines) == 2 * len(pages.blocks(path))


@pytest.mark.parametrize("path", PAGES, ids=pages.name)
def test_every_link_leads_somewhere(path):
    for target in pages.links(path):
        file, _, anchor = target.partition("#")
        found = path.parent / file
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found.read_text()), target


def anchors(text):
    titles = [line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")]
    kept = ("".join(c for c in title.lower() if c.isalnum() or c in " -_") for title in titles)
    return {title.replace(" ", "-") for title in kept}


ROOT = pathlib.Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("operator/sglang_operator", "operator/testkit", "generators", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "data" not in path.parts
)


def test_every_page_that_the_code_cites_is_there():
    """A reason that leads to a page which nobody has is no reason."""
    docs = ROOT / "operator" / "docs"
    missing = {
        (str(path.relative_to(ROOT)), cited)
        for path in SOURCES
        for cited in re.findall(r"\b(?:explanation|how-to|reference)/[a-z-]+\.md", path.read_text())
        if not (docs / cited).exists()
    }
    named = {path.name for path in [*docs.rglob("*.md"), *ROOT.glob("*.md")]}
    missing |= {
        (str(path.relative_to(ROOT)), cited)
        for path in SOURCES
        for cited in re.findall(r"(?<![\w/{}-])[a-z0-9-]+\.md\b", path.read_text())
        if cited not in named
    }
    assert not missing


def test_every_fault_and_promise_that_the_suite_names_is_explained():
    page = (ROOT / "operator/docs/explanation/faults.md").read_text()
    explained = set(re.findall(r"^\| ([FI]\d+) \|", page, re.MULTILINE))
    folders = ("tests/faults", "tests/mutants", "operator/testkit/sglang_operator/testing/faults")
    named = {
        name
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\b[FI][1-9]\d?\b", path.read_text())
    }
    assert named
    assert named <= explained


def test_what_is_not_run_is_still_there_and_little():
    unrun = [block for block in BLOCKS if block.not_run]
    for start in pages.NOT_RUN:
        assert any(block.text.startswith(start) for block in unrun), f"{start} is in no page"
    run = [block for block in BLOCKS if block.language == "sh" and not block.not_run]
    assert len(run) > 2 * len(unrun), (len(run), len(unrun))


@of("yaml")
def test_an_example_is_without_errors(block, tmp_path):
    for document in yaml.safe_load_all(block.text):
        is_part = set(document) == {"spec"}
        whole = pool(merged(guide_spec(), document["spec"])) if is_part else document
        if whole.get("kind") == names.KIND:
            wrong = (block.file or "").startswith("mistake")
            assert bool(errors_in(tmp_path, whole)) is wrong
        elif "actor_infer" in document:  # of a pipeline of ROLL's
            assert not errors_in(tmp_path, {"pretrain": "Qwen/Qwen2.5-7B", **document})
        else:  # judged by the API server, or by kustomize
            assert {"apiVersion", "kind"} <= document.keys()


def errors_in(tmp_path, document):
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(document))
    judged = check_files.lint([str(path)], None, objects.Options())
    return [finding.line() for finding in judged.findings if finding.is_error]


def pool(spec):
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "actor-infer"},
        "spec": spec,
    }


def merged(base, over):
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {key: merged(base.get(key), over.get(key, base.get(key))) for key in {**base, **over}}


@of("python")
def test_the_imports_of_an_example_are_there_and_the_rest_compiles(block, monkeypatch):
    roll_interface.make_importable(monkeypatch)
    tree = ast.parse(block.text)
    imports: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert imports
    exec(compile(ast.Module(body=imports, type_ignores=[]), block.page, "exec"), {})
    roll_interface.forget()


def of_section(page, title):
    _, found, after = (ROOT / page).read_text().partition(f"\n## {title}\n")
    assert found, f"{page} has no section {title}"
    return after.partition("\n## ")[0]


# Rows of tables and items of lists that lead through the code.
GUIDES = {
    "CONTRIBUTING": of_section("CONTRIBUTING.md", "Where does a change go?"),
    "glossary": of_section("operator/docs/explanation/glossary.md", "In the code"),
    "a commit": of_section("operator/docs/explanation/weights.md", "A commit, file by file"),
}
STEPS = [
    pytest.param(step, id=f"{name}: {step.strip('|-1234567. ')[:40]}")
    for name, text in GUIDES.items()
    for step in re.split(r"\n(?=[|-]|[0-9]+\. )", text)
    if "/" in step and ".py`" in step
]
KIT = "operator/testkit/sglang_operator/testing"
FOLDERS = ("", "operator/sglang_operator", KIT, "operator/docs")


@pytest.mark.parametrize("step", STEPS)
def test_what_a_step_through_the_code_names_stands_in_its_files(step):
    """Files are there, and what is named beside them stands in one of them."""
    quoted = [word for word in re.findall(r"`([^`]+)`", step) if not word.startswith("make ")]
    paths = [word for word in quoted if re.fullmatch(r"[\w./-]*(/|\.py|\.md|\.yaml|\.txt)", word)]
    sources = ""
    for path in paths:
        if re.search("[A-Z]{3}", path):
            continue  # a name that stands for any
        found = [f for folder in FOLDERS if (f := ROOT / folder / path).exists()]
        assert found, path
        files = [g for f in found for g in ([f] if f.is_file() else f.rglob("*.*"))]
        sources += "".join(f.read_text() for f in files if f.suffix in (".py", ".md", ".yaml"))
    for word in quoted:
        if word not in paths and re.fullmatch(r"[A-Za-z_][\w.]*", word):
            assert re.search(rf"\b{word.rpartition('.')[2]}\b", sources), word
