"""Every link, name, command and figure in the documentation leads to something that exists."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs import perov5_cds
from crystal_diffusion_jax import trained_model
from studies import reference

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *(
            ROOT / name
            for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
        ),
        *DOCS.rglob("*.md"),
    ]
)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#]+)(?:#[^)]*)?\)")
each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def without_fences(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@each_page
def test_links_lead_to_files(page):
    links = [target for _, target in LINK.findall(without_fences(page)) if "://" not in target]
    missing = [target for target in links if not (page.parent / target).exists()]
    assert missing == []


@each_page
def test_names_of_code_are_defined_in_the_linked_file(page):
    for label, target in LINK.findall(page.read_text()):
        if label.startswith("`") and target.endswith(".py"):
            name = label.strip("`").split(".")[-1].removesuffix("()")
            tree = ast.parse((page.parent / target).read_text())
            defined = {
                node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
            }
            assert name in defined, f"{page.name}: {label} is not in {target}"


@each_page
def test_commands_name_programs_and_configs_that_exist(page):
    text = page.read_text()
    for package, program in re.findall(
        r"python -m (experiments|studies|benchmarks)\.([a-z]\w*)", text
    ):
        assert (ROOT / package / f"{program}.py").exists(), program
    for program in re.findall(r"crystal-diffusion ([a-z]\w*)", text):
        assert (ROOT / "experiments" / f"{program}.py").exists(), program
    for config in re.findall(r"configs/([a-z]\w*)\.py", text):
        assert (ROOT / "configs" / f"{config}.py").exists(), config


@each_page
def test_commands_have_flags_that_exist(page):
    text = page.read_text().replace("\\\n", " ")
    for program, rest in re.findall(r"python -m experiments\.([a-z]\w*)([^\n`|]*)", text):
        module = importlib.import_module(f"crystal_diffusion_jax.cli.{program}")
        known = {re.split("[= ]", flag)[0] for flag, _ in reference.rows(module)}
        given = re.findall(r"(?<=\s)--[A-Za-z]\w*", rest.split(" #")[0])
        assert {flag for flag in given if flag != "--config"} <= known, f"{program}{rest}"


@each_page
def test_models_named_in_commands_are_shipped(page):
    for name in re.findall(r"--model=([a-z]\w*)(?=[\s`\"])", page.read_text()):
        assert name in trained_model.shipped_names(), name


@each_page
def test_config_fields_exist(page):
    sections = perov5_cds.get_config().to_dict()
    for path in re.findall(r"--config\.([\w.]+)=", page.read_text()):
        value = sections
        for name in path.split("."):
            assert name in value, path
            value = value[name]


@each_page
def test_links_within_pages_lead_to_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        there = (page.parent / target) if target else page
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in headings}
        assert anchor in anchors, f"{page.name}: #{anchor}"


def test_the_config_reference_is_what_the_dataclasses_say():
    written = (DOCS / "config.md").read_text()
    assert written == reference.config_page(), "python -m studies.reference --out=docs"


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_every_guide_is_in_the_map_of_pages():
    listed = {target for _, target in LINK.findall((DOCS / "index.md").read_text())}
    guides = {page.name for page in DOCS.glob("*.md")}
    assert guides - {"index.md"} <= listed


def test_every_picture_is_shown_somewhere():
    shown = "\n".join(page.read_text() for page in PAGES)
    assert [path.name for path in (DOCS / "images").iterdir() if path.name not in shown] == []


def test_every_shipped_model_is_on_its_page_with_the_figures_of_its_folder():
    text = (DOCS / "choose_model.md").read_text()
    for name in trained_model.shipped_names():
        model = trained_model.load(name)
        assert f"`{name}`" in text
        assert f"{model.num_parameters:,}" in text
        assert model.training["time"] in text


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "architecture" / "index.html").is_file()
