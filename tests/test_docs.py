"""Every link, name, command and figure in the documentation leads to something that exists."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def found_in_pages(pattern: str) -> list[tuple[str, Any]]:
    """Name of the page, and what the groups of the pattern match."""
    return [(name(page), one) for page in PAGES for one in re.findall(pattern, page.read_text())]


def without_fences(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_links_lead_to_files():
    missing = [
        f"{name(page)}: {target}"
        for page in PAGES
        for _, target in LINK.findall(without_fences(page))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert missing == []


def test_names_of_code_are_defined_in_the_linked_file():
    missing = []
    for page in PAGES:
        for label, target in LINK.findall(page.read_text()):
            if label.startswith("`") and target.endswith(".py"):
                wanted = label.strip("`").split(".")[-1].removesuffix("()")
                body = ast.parse((page.parent / target).read_text()).body
                kinds = ast.FunctionDef | ast.ClassDef
                if wanted not in {node.name for node in body if isinstance(node, kinds)}:
                    missing.append(f"{name(page)}: {label} is not in {target}")
    assert missing == []


def test_commands_name_programs_and_configs_that_exist():
    named = found_in_pages(r"python -m ((?:experiments|studies|benchmarks)\.[a-z]\w*)")
    commands, configs = r"crystal-diffusion ([a-z]\w*)", r"configs/([a-z]\w*)\.py"
    named += [(page, f"experiments.{found}") for page, found in found_in_pages(commands)]
    named += [(page, f"configs.{found}") for page, found in found_in_pages(configs)]
    missing = [each for each in named if not (ROOT / f"{each[1].replace('.', '/')}.py").exists()]
    assert missing == []


def test_commands_have_flags_that_exist():
    unknown = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for program, rest in re.findall(r"python -m experiments\.([a-z]\w*)([^\n`|]*)", text):
            module = importlib.import_module(f"crystal_diffusion_jax.cli.{program}")
            known = {re.split("[= ]", flag)[0] for flag, _ in reference.rows(module)}
            given = re.findall(r"(?<=\s)--[A-Za-z]\w*", rest.split(" #")[0])
            lost = set(given) - known - {"--config"}
            unknown += [f"{name(page)}: {program} {flag}" for flag in lost]
    assert unknown == []


def test_models_named_in_commands_are_shipped():
    named = found_in_pages(r"--model=([a-z]\w*)(?=[\s`\"])")
    assert [each for each in named if each[1] not in trained_model.shipped_names()] == []


def test_config_fields_exist():
    def fields(sections: dict[str, Any], before: str = "") -> set[str]:
        below = [fields(x, f"{before}{n}.") for n, x in sections.items() if isinstance(x, dict)]
        return {f"{before}{each}" for each in sections}.union(*below)

    known = fields(perov5_cds.get_config().to_dict())
    named = found_in_pages(r"--config\.([\w.]+)=")
    assert [each for each in named if each[1] not in known] == []


def test_links_within_pages_lead_to_headings():
    missing = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            there = (page.parent / target) if target else page
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            titles = [re.sub(r"[^\w\- ]", "", title).lower() for title in headings]
            if anchor not in {title.replace(" ", "-") for title in titles}:
                missing.append(f"{name(page)}: {target}#{anchor}")
    assert missing == []


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
