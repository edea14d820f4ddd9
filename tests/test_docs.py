"""Every link and every name in the documentation leads to something that exists."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from configs import perov5_cds
from crystal_diffusion_jax import trained_model
from studies import reference

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *(
            ROOT / name
            for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
        ),
        *(ROOT / "docs").glob("*.md"),
    ]
)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_have_flags_that_exist(page):
    text = page.read_text().replace("\\\n", " ")
    for program, rest in re.findall(r"python -m experiments\.(\w+)([^\n`|]*)", text):
        module = importlib.import_module(f"crystal_diffusion_jax.cli.{program}")
        known = {re.split("[= ]", flag)[0] for flag, _ in reference.rows(module)}
        given = re.findall(r"(?<=\s)--[A-Za-z]\w*", rest.split(" #")[0])
        assert {flag for flag in given if flag != "--config"} <= known, f"{program}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_config_fields_exist(page):
    sections = perov5_cds.get_config().to_dict()
    for path in re.findall(r"--config\.([\w.]+)=", page.read_text()):
        value = sections
        for name in path.split("."):
            assert name in value, path
            value = value[name]


def test_every_page_is_in_the_table_of_contents():
    listed = {target for _, target in LINK.findall((ROOT / "docs" / "README.md").read_text())}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_within_pages_lead_to_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        there = (page.parent / target) if target else page
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in headings}
        assert anchor in anchors, f"{page.name}: #{anchor}"


def test_every_shipped_model_is_on_its_page_with_the_figures_of_its_folder():
    text = (ROOT / "docs" / "models.md").read_text()
    for name in trained_model.shipped_names():
        model = trained_model.load(name)
        assert f"`{name}`" in text
        assert f"{model.num_parameters:,}" in text
        assert model.training["time"] in text
