"""Every link and every name in the documentation leads to something that exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"])
LINK = re.compile(r"\[([^\]]*)\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    links = [target for _, target in LINK.findall(page.read_text()) if "://" not in target]
    missing = [target for target in links if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_names_of_code_are_defined_in_the_linked_file(page):
    for label, target in LINK.findall(page.read_text()):
        if label.startswith("`") and target.endswith(".py"):
            name = label.strip("`").split(".")[-1].removesuffix("()")
            tree = ast.parse((page.parent / target).read_text())
            defined = {
                node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
            }
            assert name in defined, f"{page.name}: {label} is not in {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_name_programs_and_configs_that_exist(page):
    text = page.read_text()
    for package, program in re.findall(r"python -m (experiments|benchmarks)\.(\w+)", text):
        assert (ROOT / package / f"{program}.py").exists(), program
    for config in re.findall(r"configs/(\w+\.py)", text):
        assert (ROOT / "configs" / config).exists(), config
