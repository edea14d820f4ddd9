"""evaluation/report.py, summary.py and experiments/evaluate.py: one set of crystals, scored."""

import dataclasses
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifWriter

from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.datasets import KNOWN_DATASETS
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation.coverage import Fingerprint
from crystal_diffusion_jax.evaluation.inputs import Inputs
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.report import Report, evaluate
from crystal_diffusion_jax.evaluation.summary import to_json, to_table
from experiments import cli
from experiments import evaluate as program

SPEC = KNOWN_DATASETS["perov5"]
SITES = 0.5 * np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])


@dataclasses.dataclass(frozen=True)
class Judgement:
    values: np.ndarray
    failures: dict[int, str]


def judge(structures: Sequence[Structure], oracle: str = "perov5") -> Judgement:
    """A judge that takes the first atom's number, in hundredths, and knows 94 elements."""
    numbers = [max(s.atomic_numbers) for s in structures]
    unknown = {i: "an element beyond Pu" for i, z in enumerate(numbers) if z > 94}
    values = [s.atomic_numbers[0] / 100 for s in structures]
    return Judgement(
        np.array([np.nan if i in unknown else v for i, v in enumerate(values)]), unknown
    )


def perovskite(a: str, b: str = "Ti", edge: float = 4.0) -> Structure:
    return Structure(Lattice.cubic(edge), [a, b, "O", "O", "O"], SITES)


def dataset(structures: Sequence[Structure]) -> CrystalDataset:
    return CrystalDataset(
        lattice=np.array([s.lattice.matrix for s in structures]),
        num_atoms=np.array([len(s) for s in structures]),
        frac_coords=np.concatenate([s.frac_coords for s in structures]),
        atomic_numbers=np.array([z for s in structures for z in s.atomic_numbers]),
        properties=np.zeros((len(structures), 1)),
        property_names=(SPEC.property_name,),
        material_ids=np.array([str(i) for i in range(len(structures))]),
    )


TRAIN = dataset([perovskite("Ba"), perovskite("Mg")])
TEST = dataset([perovskite("Sr"), perovskite("Pb")])
OVERLAP = Structure(Lattice.cubic(4.0), ["Mg", "O"], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.02]])
# Predictions 0.20, 0.20, 0.56, 0.18, 0.12, 0.12, 0.95 (fails) and a missing crystal; the
# thresholds are 0.439, 0.612 and 0.736.
SET: list[Structure | None] = [
    perovskite("Ca"),
    perovskite("Ca", edge=4.1),  # the same as the first
    perovskite("Ba"),  # known
    perovskite("Ar"),  # no oxidation states
    perovskite("Mg"),  # known
    OVERLAP,
    perovskite("Am"),
    None,
]
INPUTS = Inputs(SET, [f"{i}.cif" for i in range(8)], {7: "empty file"})


def report(inputs: Inputs = INPUTS, **options: Any) -> Report:
    return evaluate(inputs, SPEC, TRAIN, TEST, judge, progress=False, **options)


def test_every_score_of_a_small_set_is_that_worked_out_by_hand() -> None:
    scores = report()
    assert (scores.num, scores.num_read, scores.num_predicted) == (8, 7, 6)
    assert (scores.num_train, scores.num_test) == (2, 2)
    assert scores.success["single"]["SR5"] == Rate(5, 8)
    assert scores.success["single"]["SR10"] == Rate(6, 8)
    assert scores.success["single_valid"]["SR5"] == Rate(3, 8)
    assert scores.success["best_of_10"]["SR5"] == Rate(0, 0)
    assert scores.validity["structure"] == Rate(6, 8)
    assert scores.validity["composition"] == Rate(6, 8)
    assert scores.validity["both"] == Rate(5, 8)
    assert scores.diversity["unique"] == Rate(6, 8)
    assert scores.diversity["novel"] == Rate(5, 8)
    assert scores.diversity["unique_compositions"] == Rate(6, 8)
    assert scores.diversity["novel_compositions"] == Rate(5, 8)
    assert scores.useful == Rate(1, 8)  # CaTiO3, once
    assert scores.property_mean.value == pytest.approx((0.20 + 0.20 + 0.56 + 0.18 + 0.12 * 2) / 6)
    assert scores.property_median.value == pytest.approx((0.18 + 0.20) / 2)
    assert scores.coverage is None
    # The valid and predicted ones, 0.12 0.20 0.20 0.56, against twice 0.38 and twice 0.82.
    assert scores.distances["property"].sizes == (4, 2)
    assert scores.distances["property"].value == pytest.approx((0.26 + 0.18 + 0.62 + 0.26) / 4)


def test_predictions_below_every_training_label_are_counted() -> None:
    # The labels of the training set are 0.15; the two crystals with Mg in front are below.
    train = dataclasses.replace(TRAIN, properties=np.full((2, 1), 0.15))
    scores = evaluate(INPUTS, SPEC, train, TEST, judge, progress=False)
    assert scores.below_training_range == Rate(2, 6)


def test_the_table_lists_ten_reasons_and_counts_the_others() -> None:
    reasons = {i: f"reason {i}" for i in range(13)}
    scores = report(Inputs([None] * 13, [str(i) for i in range(13)], reasons))
    table = to_table(scores, SPEC)
    assert table.count("reading: ") == 10
    assert "and 3 rarer reasons" in table


def test_every_failure_is_named_with_its_stage() -> None:
    failures = {(f.index, f.name, f.stage): f.reason for f in report().failures}
    assert failures == {
        (3, "3.cif", "composition"): "an element without oxidation states in SMACT",
        (5, "5.cif", "structure"): "two atoms closer than 0.5 A",
        (6, "6.cif", "property"): "an element beyond Pu",
        (7, "7.cif", "reading"): "empty file",
    }


def test_scoring_the_test_set_itself_gives_distances_of_zero() -> None:
    crystals: list[Structure | None] = [perovskite("Pb"), perovskite("Sr")]
    scores = report(Inputs(crystals, ["a", "b"], {}))
    assert [estimate.value for estimate in scores.distances.values()] == [0.0, 0.0, 0.0]


def test_coverage_counts_a_crystal_without_fingerprint_as_a_miss() -> None:
    def make(structures: Sequence[Structure | None]) -> list[Fingerprint | None]:
        return [
            None
            if s is None or s.atomic_numbers[0] == 56
            else Fingerprint(np.zeros(1), np.zeros(1))
            for s in structures
        ]

    scores = report(make_fingerprints=make)
    assert scores.coverage is not None
    assert scores.coverage.recall == Rate(2, 2)
    assert scores.coverage.precision == Rate(6, 8)
    assert [f.index for f in scores.failures if f.stage == "fingerprint"] == [2]


def test_a_set_in_which_nothing_can_be_read_still_has_a_report() -> None:
    scores = report(Inputs([None] * 12, [str(i) for i in range(12)], dict.fromkeys(range(12), "x")))
    content = json.loads(json.dumps(to_json(scores, "set", SPEC), allow_nan=False))
    assert content["success_rate"]["best_of_10"]["SR15"]["k"] == 0
    assert content["success_rate"]["best_of_10"]["SR15"]["n"] == 1
    assert content["distances"]["density"]["value"] is None
    assert content["failures"]["by_reason"] == {"reading: x": 12}
    assert "12  reading: x" in to_table(scores, SPEC)


def test_the_table_and_the_file_tell_the_same_numbers() -> None:
    scores = report()
    content = to_json(scores, "set", SPEC)
    table = to_table(scores, SPEC)
    single = content["success_rate"]["single"]["SR5"]
    row = next(line for line in table.splitlines() if line.startswith("SR5 single "))
    assert row.split()[2:] == [
        f"{single['rate']:.4f}", f"{single['low']:.4f}", "..", f"{single['high']:.4f}",
        "5", "of", "8",
    ]  # fmt: skip
    assert content["thresholds"] == {"SR5": 0.43924842, "SR10": 0.61202443, "SR15": 0.7364607}
    assert content["versions"]["smact"] in table


def cif(structure: Structure) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        return str(CifWriter(structure))


HOSTILE: dict[str, tuple[Structure | str, str]] = {
    "overlap": (OVERLAP, "structure: two atoms closer"),
    "same_site": (Structure(Lattice.cubic(4), ["Mg", "O"], [[0, 0, 0]] * 2), "two atoms at one"),
    "tiny": (Structure(Lattice.cubic(0.2154), ["Fe"], [[0, 0, 0]]), "reading: volume below"),
    "americium": (perovskite("Am"), "property: an element beyond Pu"),
    "oganesson": (Structure(Lattice.cubic(5), ["Og", "O"], SITES[:2]), "unknown to SMACT"),
    "nan": (cif(perovskite("Ca")).replace("0.50000000", "nan", 1), "not a number"),
    "empty": ("", "reading: empty file"),
    "noise": ("\x00\x01 data_", "reading: unparsable CIF"),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int | str | None]:
    """Runs the program with the small data set and the judge above; gives its exit status."""
    monkeypatch.setattr(program, "load", lambda config: {"train": TRAIN, "test": TEST})
    monkeypatch.setattr(program, "predict", judge)

    def start(*arguments: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
        try:
            cli.run(program.main)
        except SystemExit as stop:
            return stop.code
        return 0

    return start


def read_strictly(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return content


def test_hostile_and_odd_crystals_are_counted_and_named_beside_good_ones(
    tmp_path: Path, run: Callable[..., int | str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, (hostile, _) in HOSTILE.items():
        text = hostile if isinstance(hostile, str) else cif(hostile)
        (folder / f"{name}.cif").write_text(text)
    rng = np.random.default_rng(0)
    big = Structure(Lattice.cubic(30), ["Mg", "O"] * 250, rng.random((500, 3)))
    (folder / "big.cif").write_text(cif(big))
    (folder / "one_atom.cif").write_text(cif(Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])))
    (folder / "good.cif").write_text(cif(perovskite("Ca")))
    out = tmp_path / "metrics.json"
    assert run(f"--structures={folder}", "--dataset=perov5", f"--out={out}") == 0
    content = read_strictly(out)
    failures = content["failures"]["list"]
    named: dict[str, list[str]] = {}
    for failure in failures:
        named.setdefault(failure["name"], []).append(f"{failure['stage']}: {failure['reason']}")
    for name, (_, reason) in HOSTILE.items():
        assert any(reason in text for text in named[f"{name}.cif"]), named
    assert "good.cif" not in named
    assert "one_atom.cif" not in named
    assert content["counts"]["asked_for"] == len(HOSTILE) + 3
    assert content["success_rate"]["single_valid"]["SR5"]["n"] == len(HOSTILE) + 3
    by_reason = Counter(f"{f['stage']}: {f['reason']}" for f in failures)
    assert content["failures"]["by_reason"] == by_reason
    assert str(out) in capsys.readouterr().out


def test_not_a_number_in_an_extxyz_is_a_named_failure(
    tmp_path: Path, run: Callable[..., int | str | None]
) -> None:
    atoms = [AseAtomsAdaptor.get_atoms(perovskite(a)) for a in ("Ca", "Ca", "Sr")]
    atoms[1].positions[2, 0] = np.nan
    ase.io.write(tmp_path / "set.extxyz", atoms, format="extxyz")
    out = tmp_path / "m.json"
    assert run(f"--structures={tmp_path / 'set.extxyz'}", "--dataset=perov5", f"--out={out}") == 0
    content = read_strictly(out)
    assert content["failures"]["by_reason"] == {"reading: non-finite numbers": 1}
    assert content["validity"]["both"]["k"] == 2
    assert content["validity"]["both"]["n"] == 3


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--structures={}/absent", "--out={}/m.json"], "absent does not exist"),
        (["--structures={}/no.cif", "--out={}/m.json"], "no.cif is no CIF"),
        (["--structures={}", "--out={}/no/m.json"], "must be a file in a folder that exists"),
        (["--structures={}", "--out={}"], "must be a file"),
    ],
)
def test_a_users_mistake_ends_with_status_2_and_one_sentence(
    tmp_path: Path,
    run: Callable[..., int | str | None],
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    sentence: str,
) -> None:
    (tmp_path / "no.cif").write_text("hello")
    assert run(*[flag.format(tmp_path) for flag in flags], "--dataset=perov5") == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert sentence in message
    assert message.count("\n") == 1


def test_coverage_without_its_extra_is_refused_before_any_work(
    tmp_path: Path,
    run: Callable[..., int | str | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse() -> None:
        raise UserError("matminer is missing")

    monkeypatch.setattr(program, "require_matminer", refuse)
    monkeypatch.setattr(program, "load", None)
    flags = [f"--structures={tmp_path}", "--dataset=perov5", f"--out={tmp_path / 'm.json'}"]
    assert run(*flags, "--coverage") == 2
    assert "matminer is missing" in capsys.readouterr().err
