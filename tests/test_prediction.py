"""Crystal structure prediction: displacements, answers, prediction, baseline, judging."""

import time
from collections.abc import Sequence

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from crystal_diffusion_jax.data.chosen_rows import chosen_rows
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.evaluation import displacements as module
from crystal_diffusion_jax.evaluation.answers import BY_COMPOSITION, BY_ID, assign
from crystal_diffusion_jax.evaluation.baseline import leakage, template_scores
from crystal_diffusion_jax.evaluation.displacements import displacements
from crystal_diffusion_jax.evaluation.intervals import Rate
from crystal_diffusion_jax.evaluation.judging import judge
from crystal_diffusion_jax.evaluation.prediction import Judged, PredictionScores, references, score
from crystal_diffusion_jax.potentials.relaxation import Relaxation, failed
from crystal_diffusion_jax.structures.comparing import STOL
from crystal_diffusion_jax.structures.reading import Inputs
from tests.crystal_sets import dataset

SITES = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
MATCHER = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)

pytestmark = pytest.mark.usefixtures("in_this_process")


def perovskite(corner: str, centre: str, length: float = 4.0) -> Structure:
    return Structure(Lattice.cubic(length), [corner, centre, "O", "O", "O"], SITES)


def rock_salt(length: float = 4.2) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(length), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()


def caesium_chloride(length: float = 2.7) -> Structure:
    return Structure(Lattice.cubic(length), ["Mg", "O"], SITES[:2])


def moved(structure: Structure, distance: float) -> Structure:
    """With its second atom moved along x."""
    copy = structure.copy()
    copy.translate_sites([1], [distance, 0, 0], frac_coords=False)
    return copy


BARIUM, SWAPPED = perovskite("Ba", "Ti"), perovskite("Ti", "Ba")
SALT, CHLORIDE = rock_salt(), caesium_chloride()


def value(scored: PredictionScores, name: str, k: int = 1) -> float:
    found = scored.scores[name][k].value
    assert found is not None
    return found


def test_copies_match_and_swapped_cations_do_not() -> None:
    known = Judged([BARIUM, SALT], 2)
    scored = score([BARIUM.copy(), SALT.copy()], [[0], [1]], known, [1], progress=False)
    for name in ("match", "match_valid", "match_polymorph", "tight", "metre"):
        assert scored.scores[name][1] == Rate(2, 2)
    for name in ("rmse", "crmse", "metre_rmse", "metre_crmse"):
        assert value(scored, name) == pytest.approx(0, abs=1e-6)
    assert scored.volume_error.value == pytest.approx(0, abs=1e-9)
    assert scored.composition == Rate(2, 2)
    swapped = score([SWAPPED, SALT], [[0], [1]], known, [1], progress=False)
    assert swapped.scores["match"][1] == Rate(1, 2)
    assert value(swapped, "crmse") == pytest.approx(STOL / 2)
    assert swapped.composition == Rate(2, 2)


def test_scaled_cells_match_and_only_the_volume_error_tells() -> None:
    # StructureMatcher's `scale` brings both cells to one volume before anything is compared.
    large = perovskite("Ba", "Ti", 4.0 * 1.3)
    scored = score([large], [[0]], Judged([BARIUM], 1), [1], progress=False)
    assert scored.scores["match"][1] == Rate(1, 1)
    assert value(scored, "rmse") == pytest.approx(0, abs=1e-6)
    assert scored.volume_error.value == pytest.approx(1.3**3 - 1)


def test_supercells_and_far_coordinates_match() -> None:
    far = Structure(BARIUM.lattice, BARIUM.species, BARIUM.frac_coords + 1e4)
    found = displacements([BARIUM * (2, 1, 1), far], [BARIUM], progress=False)
    assert set(found.rms) == {0, 1}


@pytest.mark.parametrize("seed", range(3))
def test_displacements_are_those_of_pymatgen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    references_ = [BARIUM, SWAPPED, SALT * (1, 1, 2), CHLORIDE]
    predicted = []
    for each in references_ * 2:
        strain = np.eye(3) + rng.normal(scale=0.06, size=(3, 3))
        coords = each.frac_coords + rng.normal(scale=0.05, size=(len(each), 3))
        predicted.append(Structure(each.lattice.matrix @ strain, each.species, coords))
    found = displacements(predicted, references_, progress=False)
    matched = 0
    for i, one in enumerate(predicted):
        for j, other in enumerate(references_):
            expected = (
                MATCHER.get_rms_dist(one, other)
                if one.composition.reduced_formula == (other.composition.reduced_formula)
                else None
            )
            if expected is None:
                assert j not in found.rms.get(i, {})
            else:
                matched += 1
                assert found.rms[i][j] == pytest.approx(expected[0], abs=1e-6)
    assert matched >= 4


def test_polymorphs_and_metre_by_hand() -> None:
    # Rows: rock salt, caesium chloride, and a perovskite that nothing is predicted for well.
    known = Judged([SALT, CHLORIDE, BARIUM], 3)
    predicted = [SALT, SALT, SWAPPED]
    scored = score(predicted, [[0], [1], [2]], known, [1], progress=False)
    # Each row for itself: the first matches. Any polymorph: the second, too. METRe: rock salt only.
    assert scored.scores["match"][1] == Rate(1, 3)
    assert scored.scores["match_polymorph"][1] == Rate(2, 3)
    assert scored.scores["metre"][1] == Rate(1, 3)
    assert value(scored, "metre_crmse") == pytest.approx(2 * STOL / 3)
    # The right structures for the wrong rows: no match, but both are found.
    crossed = score([CHLORIDE, SALT, SWAPPED], [[0], [1], [2]], known, [1], progress=False)
    assert crossed.scores["match"][1] == Rate(0, 3)
    assert crossed.scores["match_polymorph"][1] == Rate(2, 3)
    assert crossed.scores["metre"][1] == Rate(2, 3)


def test_a_polymorph_beyond_the_judged_rows_counts_for_polymorphs_only() -> None:
    known = references(dataset([BARIUM, SALT, CHLORIDE]), [1])
    assert (known.num, len(known.structures)) == (1, 2)
    scored = score([CHLORIDE], [[0]], known, [1], progress=False)
    assert scored.scores["match"][1] == Rate(0, 1)
    assert scored.scores["match_polymorph"][1] == Rate(1, 1)
    assert scored.scores["metre"][1] == Rate(0, 1)


def test_the_best_of_k_and_its_displacement() -> None:
    known = Judged([BARIUM], 1)
    near, nearer = moved(BARIUM, 0.5), moved(BARIUM, 0.2)
    rms = [MATCHER.get_rms_dist(each, BARIUM)[0] for each in (near, nearer)]
    assert rms[1] < rms[0] < STOL
    scored = score([near, nearer, SWAPPED, None], [[0, 1, 2, 3]], known, [1, 2, 4], progress=False)
    assert value(scored, "match", 1) == pytest.approx(2 / 4)
    assert value(scored, "match", 2) == pytest.approx(5 / 6)  # of 6 pairs one has no match
    assert scored.scores["match"][4] == Rate(1, 1)
    assert value(scored, "rmse", 1) == pytest.approx(np.mean(rms))
    assert value(scored, "rmse", 2) == pytest.approx((3 * rms[1] + 2 * rms[0]) / 5)
    assert value(scored, "rmse", 4) == pytest.approx(rms[1])
    assert value(scored, "crmse", 1) == pytest.approx((sum(rms) + 2 * STOL) / 4)
    assert scored.composition == Rate(3, 4)
    ranked = score([SWAPPED, nearer, near], [[0, 1, 2]], known, [1, 3], True, progress=False)
    assert ranked.scores["match"] == {1: Rate(0, 1), 3: Rate(1, 1)}


def test_invalid_crystals_do_not_match_in_the_way_of_diffcsp() -> None:
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.55, 0.5, 0.5]])  # two atoms 0.25 A apart
    odd = Structure(Lattice.cubic(5), ["Ba", "Ti", "O"], sites)
    scored = score([odd, BARIUM], [[0], [1]], Judged([odd, BARIUM], 2), [1], progress=False)
    assert scored.scores["match"][1] == Rate(2, 2)
    assert scored.scores["match_valid"][1] == Rate(1, 2)


def test_another_composition_answers_nothing() -> None:
    known = Judged([BARIUM, SALT], 2)
    scored = score([SALT, None], [[0], [1]], known, [1], progress=False)
    assert scored.composition == Rate(0, 2)
    assert scored.scores["match_polymorph"][1] == Rate(0, 2)
    assert scored.scores["metre"][1] == Rate(1, 2)  # where everyone is compared
    assert scored.volume_error.value is None
    assert scored.scores["rmse"][1].value is None


def slow_rms(cells, references_, pair):
    while pair[0] == 0:
        time.sleep(1)
    return 0.25


@pytest.mark.slow
def test_a_comparison_that_takes_too_long_is_no_match_and_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_rms", slow_rms)
    found = displacements([BARIUM, BARIUM], [BARIUM], progress=False, time_limit=20.0)
    assert found.failures == {0: "comparison failed: no result after 20 s"}
    assert found.rms == {1: {0: 0.25}}


def raise_on_first(cells, references_, pair):
    return "ValueError" if pair[0] == 0 else 0.25


def test_a_comparison_that_fails_is_no_match_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_rms", raise_on_first)
    scored = score([BARIUM, BARIUM], [[0], [1]], Judged([BARIUM, BARIUM], 2), [1], False, False)
    assert scored.failures == {0: "comparison failed: ValueError"}
    assert scored.scores["match"][1] == Rate(1, 2)


def test_the_interval_of_a_share_is_one_of_shares() -> None:
    # All references but one are matched by both of two predictions, and that one by one of them.
    judged = Judged([BARIUM] * 20, 20)
    pools = [[2 * row, 2 * row + 1] for row in range(20)]
    predicted = [BARIUM] * 39 + [SALT]
    found = score(predicted, pools, judged, [1], progress=False).scores["match"][1]
    assert found.value == pytest.approx(39 / 40)
    assert found.interval is not None
    assert found.interval[0] < found.interval[1] == 1.0


def inputs(structures: Sequence[Structure | None], ids: Sequence[str] = ()) -> Inputs:
    names = [f"crystal {index}" for index in range(len(structures))]
    return Inputs(list(structures), names, {}, list(ids))


def test_ids_assign_predictions_to_rows() -> None:
    data = dataset([BARIUM, SALT, CHLORIDE])
    answers = assign(
        inputs([SALT, None, BARIUM], ["id-1", "id-1", "id-0"]), data, range(3), "the test"
    )
    assert answers.by == BY_ID
    assert dict(zip(answers.rows, answers.indices, strict=True)) == {0: [2], 1: [0, 1]}
    chosen = assign(inputs([SALT, BARIUM], ["id-1", "id-0"]), data, [1], "the test")
    assert (chosen.rows, sum(chosen.left_out.values())) == ([1], 1)


def test_compositions_assign_predictions_without_ids() -> None:
    data = dataset([BARIUM, SALT, CHLORIDE])
    answers = assign(inputs([SALT, SALT, None, perovskite("Sr", "Ti")]), data, range(3), "the test")
    assert (answers.by, answers.rows) == (BY_COMPOSITION, [1, 2])
    assert answers.indices == [[0, 1], [0, 1]]
    assert sum(answers.left_out.values()) == 2
    # Two predictions are one pool for both polymorphs: k = 1 finds one of them.
    known = references(data, answers.rows)
    scored = score([SALT, SALT], answers.indices, known, [1, 2], progress=False)
    assert scored.scores["metre"][1] == Rate(1, 2)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["id-0", "id-11"], "row 2 of the predictions: material_id id-11 is not in the test"),
        (["id-0", ""], r"row 2 of the predictions \(crystal 1\) has no material_id"),
    ],
)
def test_wrong_ids_are_refused_with_their_row(ids: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign(inputs([BARIUM, BARIUM], ids), dataset([BARIUM]), [0], "the test")


def test_other_mistakes_of_assignments_are_refused() -> None:
    with pytest.raises(UserError, match="more than one row with material_id a"):
        assign(inputs([BARIUM], ["a"]), dataset([BARIUM, SALT], ids=["a", "a"]), [0], "the test")
    with pytest.raises(UserError, match="none of the 1 crystals answers one of the 1 rows"):
        assign(inputs([SALT]), dataset([BARIUM]), [0], "the test")


def test_the_chosen_rows_are_the_first_of_one_permutation() -> None:
    assert chosen_rows(5, 0) == [0, 1, 2, 3, 4]
    many = chosen_rows(50, 20)
    assert len(set(many)) == 20
    assert many[:7] == chosen_rows(50, 7)
    assert sorted(chosen_rows(4, 9)) == [0, 1, 2, 3]


def test_leakage_by_hand() -> None:
    train = dataset([SWAPPED, SALT * (2, 1, 1), perovskite("Ca", "Ti")])
    known = Judged([BARIUM, SALT, Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])], 3)
    found = leakage(known, train)
    # BaTiO3 and MgO are known; both have known anonymous formulas; MgO only in a cell of four.
    assert (found.composition, found.anonymous) == (Rate(2, 3), Rate(2, 3))
    assert found.template == Rate(1, 3)


def test_templates_find_a_crystal_of_the_same_kind() -> None:
    train = dataset([perovskite("Sr", "Ti", 3.9), perovskite("Ca", "Zr", 4.1), CHLORIDE])
    known = Judged([BARIUM, Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])], 2)
    scored = template_scores(known, train, [1, 4], progress=False)
    assert scored.scores["match"] == {1: Rate(1, 2), 4: Rate(1, 2)}
    assert scored.predictions == (1, 4)


def relaxation(structure: Structure, energy_per_atom: float) -> Relaxation:
    return Relaxation(structure, energy_per_atom, energy_per_atom, 0, True, np.zeros(0), None)


def test_relaxed_predictions_are_ranked_by_energy() -> None:
    # Four predictions of one row; the third relaxes to the reference.
    ids = ["id-0"] * 4
    predicted = inputs([SWAPPED] * 4, ids)

    def best(*energies: float, k: int = 1) -> Rate | None:
        relaxed = [
            failed("the cell exploded"),
            relaxation(SWAPPED, energies[0]),
            relaxation(BARIUM, energies[1]),
            relaxation(SWAPPED, energies[2]),
        ]
        outcome = judge(
            predicted, dataset([BARIUM]), None, "", ks=[k], progress=False, relaxed=relaxed
        )
        assert outcome.predictions is not None
        assert outcome.predictions.scores["match"][k] == Rate(0, 1)
        assert outcome.relaxed is not None
        found = outcome.relaxed.scores["match"][k]
        assert isinstance(found, Rate)
        return found

    assert best(-1.0, -2.0, -1.5) == Rate(1, 1)
    assert best(-3.0, -2.0, -1.5) == Rate(0, 1)
    assert best(-3.0, -2.0, -1.5, k=2) == Rate(1, 1)
    # The failure is the last of the four, though it is the first prediction.
    assert best(-3.0, 2.0, -1.5, k=2) == Rate(0, 1)
    assert best(-3.0, 2.0, -1.5, k=3) == Rate(1, 1)
    # An energy of another composition says nothing about this one.
    other = [relaxation(SALT, -9.0), *[relaxation(BARIUM, -1.0)] * 3]
    outcome = judge(predicted, dataset([BARIUM]), None, "", progress=False, relaxed=other)
    assert outcome.relaxed is not None
    assert outcome.relaxed.scores["match"][1] == Rate(1, 1)
    unrelaxed = judge(predicted, dataset([BARIUM]), None, "", progress=False)
    assert unrelaxed.relaxed is None


def test_all_together() -> None:
    train = dataset([perovskite("Sr", "Ti", 3.9), CHLORIDE])
    data = dataset([BARIUM, SALT, perovskite("Ca", "Ti")])
    outcome = judge(
        inputs([BARIUM, SALT], ["id-0", "id-1"]), data, train, "the test", progress=False
    )
    assert outcome.predictions is not None
    assert outcome.templates is not None
    assert outcome.predictions.scores["match"][1] == Rate(2, 2)
    assert outcome.templates.scores["match"][1] == Rate(1, 2)  # rock salt is not caesium chloride
    assert outcome.counts["unanswered"] == 1
    alone = judge(None, data, train, "the test", num=2, progress=False)
    assert alone.predictions is None
    assert alone.counts["references"] == 2
    assert judge(inputs([BARIUM]), data, None, "the test", progress=False).templates is None
