"""From the words of a request to a `Request` and its arrays, and back to a command."""

import dataclasses
import shlex
from pathlib import Path

import jax
import msgspec
import numpy as np
import pytest
from scipy import stats

from crystal_diffusion_jax import trained_model
from crystal_diffusion_jax.cli import sample
from crystal_diffusion_jax.cli.request_flags import requested
from crystal_diffusion_jax.data import profile
from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import Request, draw_values
from crystal_diffusion_jax.sampling.conditions import (
    allowed_species,
    condition_arrays,
)
from crystal_diffusion_jax.sampling.parse import parse_elements, parse_target
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.sampling.sizes import draw_num_atoms
from crystal_diffusion_jax.sampling.weights import check_weights

REQUEST = Request("m", "ab", {}, 3, 0, 0.0, "ancestral", 50, 1e-6, 0)
# Below it with another stream of random numbers: as seldom as five standard errors.
PVALUE = 6e-7

GAP_AND_DENSITY = DatasetStatistics(
    vocabulary=(8, 22, 56),
    property_names=("gap", "density"),
    property_mean=(1.0, 5.0),
    property_std=(0.5, 2.0),
    property_min=(0.0, 2.0),
    property_max=(4.0, 9.0),
    num_atoms_histogram=((2, 10), (5, 60), (8, 30)),
    lattice_scale=4.0,
    scale_by_num_atoms=False,
    property_quantiles=(
        tuple(np.linspace(0.0, 4.0, 101).tolist()),
        tuple(np.linspace(2.0, 9.0, 101).tolist()),
    ),
    num_atoms_by_property=2 * (20 * ((1, 6, 3),),),
)
GAP = DatasetStatistics(
    **{
        **vars(GAP_AND_DENSITY),
        **{
            field: getattr(GAP_AND_DENSITY, field)[:1]
            for field in vars(GAP_AND_DENSITY)
            if field.startswith("property_") or field == "num_atoms_by_property"
        },
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", {}),
        ("min", {"gap": (0.0, 0.0)}),
        ("max", {"gap": (4.0, 4.0)}),
        ("-1.5e-1", {"gap": (-0.15, -0.15)}),
        ("gap=2", {"gap": (2.0, 2.0)}),
        ("gap=max", {"gap": (4.0, 4.0)}),
        ("-2.5:-2.0", {"gap": (-2.5, -2.0)}),
        ("gap=1:max", {"gap": (1.0, 4.0)}),
        ("min:max", {"gap": (0.0, 4.0)}),
    ],
)
def test_a_target_is_an_end_of_the_training_range_or_a_number_or_a_range_of_them(text, expected):
    assert parse_target(text, GAP) == expected


def test_any_subset_of_several_properties_can_be_asked_for():
    assert parse_target("density=max", GAP_AND_DENSITY) == {"density": (9.0, 9.0)}
    both = parse_target("density=3:4,gap=min", GAP_AND_DENSITY)
    assert both == {"density": (3.0, 4.0), "gap": (0.0, 0.0)}


@pytest.mark.parametrize(
    "text", ["abc", "", "nan", "inf", "gap=", "gap=1e999", "1e300", "None", "1:", ":1", "1:2:3"]
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(UserError, match="is not a number"):
        parse_target(text, GAP)


def test_an_unknown_or_missing_property_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="no property 'hardness', only gap"):
        parse_target("hardness=1", GAP)
    with pytest.raises(UserError, match="gap, density"):
        parse_target("min", GAP_AND_DENSITY)


def test_a_range_upside_down_is_refused_with_the_right_one():
    with pytest.raises(UserError, match="LOWEST:HIGHEST, as in 1:2"):
        parse_target("2:1", GAP)


@pytest.mark.parametrize(
    ("low", "high", "warned"),
    [
        (-0.01, -0.01, True),
        (0.0, 0.0, False),
        (4.0, 4.0, False),
        (4.1, 4.1, True),
        (0.0, 4.0, False),
        (-1.0, 2.0, True),
        (2.0, 4.5, True),
    ],
)
def test_a_target_outside_the_training_range_is_named_with_that_range(
    tiny_model, low, high, warned
):
    model = dataclasses.replace(tiny_model, statistics=GAP)
    sentences = warnings(dataclasses.replace(REQUEST, target={"gap": (low, high)}), model)

    assert len(sentences) == warned
    if warned:
        assert "0 .. 4" in sentences[0]


def test_a_property_asked_for_twice_is_refused():
    with pytest.raises(UserError, match="gap is requested twice"):
        parse_target("gap=1,density=3,gap=2", GAP_AND_DENSITY)


def test_conditions_are_z_scores_and_absent_properties_are_marked():
    asked = {"density": np.array([9.0, 5.0, 4.0])}
    condition = condition_arrays(asked, GAP_AND_DENSITY, batch_size=3)

    np.testing.assert_allclose(condition.values[:, 1], [2.0, 0.0, -0.5])
    np.testing.assert_array_equal(condition.present, [[False, True]] * 3)


def test_allowed_species_are_those_of_the_elements():
    allowed = allowed_species(("Ba", "O"), GAP.vocabulary)
    np.testing.assert_array_equal(allowed, [True, False, True])
    assert allowed_species(None, GAP.vocabulary).all()


def test_elements_are_read_with_commas_and_a_chemical_system_with_dashes_too():
    assert parse_elements(None, GAP.vocabulary, "elements") is None
    assert parse_elements("O, Ba,O", GAP.vocabulary, "elements") == ("Ba", "O")
    for text in ("Ba-Ti-O", "Ti,Ba,O"):
        assert parse_elements(text, GAP.vocabulary, "chemical_system") == ("Ba", "O", "Ti")


@pytest.mark.parametrize("symbol", ["Xx", "", "ba", "Ba-O", "8"])
def test_what_is_not_an_element_is_refused(symbol):
    with pytest.raises(UserError, match=f"{symbol!r} is not an element symbol"):
        parse_elements(f"O,{symbol}", GAP.vocabulary, "elements")


def test_an_element_that_the_model_never_saw_is_refused():
    with pytest.raises(UserError, match="--elements=U,O: the model never saw U, only O,Ti,Ba"):
        parse_elements("U,O", GAP.vocabulary, "elements")


def test_numbers_of_atoms_follow_the_training_histogram():
    drawn = draw_num_atoms({}, 5000, seed=3, num_atoms=None, statistics=GAP)

    counts = [np.sum(drawn == size) for size in (2, 5, 8)]
    assert sum(counts) == 5000
    assert stats.chisquare(counts, [500, 3000, 1500]).pvalue > PVALUE


def profiled(gaps: np.ndarray, densities: np.ndarray, num_atoms: np.ndarray) -> DatasetStatistics:
    properties = np.stack([gaps, densities], axis=1)
    sizes, counts = np.unique(num_atoms, return_counts=True)
    return dataclasses.replace(
        GAP_AND_DENSITY,
        num_atoms_histogram=tuple(zip(sizes.tolist(), counts.tolist(), strict=True)),
        property_quantiles=profile.quantiles(properties),
        num_atoms_by_property=profile.size_counts(properties, num_atoms),
    )


@pytest.mark.parametrize("crystals", [9_990, 200_000])
def test_numbers_of_atoms_follow_the_training_crystals_with_the_requested_value(crystals):
    sizes = np.array([2, 5, 8])
    num_atoms = np.repeat(sizes, np.rint(crystals * np.array([0.2, 0.5, 0.3])).astype(int))
    # Given N both properties are normal, so Bayes' rule is exact; evenly spread instead of drawn,
    # so that the crystals in a bin are as many as they should be.
    rank = np.concatenate([(np.arange(n) + 0.5) / n for n in np.unique_counts(num_atoms).counts])
    gaps = stats.norm.ppf(rank, num_atoms, 3.0)
    densities = stats.norm.ppf(rank, -num_atoms, 2.0)
    statistics = profiled(gaps, densities, num_atoms)
    num = 40_000
    asked = {"gap": np.full(num, 2.0), "density": np.full(num, -6.0)}
    for names in (["gap"], ["density"], ["gap", "density"]):
        weight = np.array([0.2, 0.5, 0.3])
        if "gap" in names:
            weight = weight * stats.norm.pdf(2.0, sizes, 3.0)
        if "density" in names:
            weight = weight * stats.norm.pdf(-6.0, -sizes, 2.0)
        drawn = draw_num_atoms({n: asked[n] for n in names}, num, 1, None, statistics)
        shares = np.mean(drawn[:, None] == sizes, axis=0)
        # Five standard errors are 0.0125 at most; the bins, which are 5 or 1 % of the distribution
        # wide, make up to 0.016 more.
        np.testing.assert_allclose(shares, weight / weight.sum(), atol=0.029)


@pytest.mark.parametrize(("crystals", "share"), [(9_999, 0.2), (10_000, 1.0)])
def test_with_10_000_crystals_the_sizes_are_those_of_the_nearest_percent(crystals, share):
    gaps = np.arange(float(crystals))
    statistics = profiled(gaps, gaps, np.where(gaps < crystals / 100, 2, 8))
    drawn = draw_num_atoms({"gap": np.zeros(2000)}, 2000, 0, None, statistics)
    margin = 5 * np.sqrt(share * (1 - share) / 2000)  # standard errors
    assert np.mean(drawn == 2) == pytest.approx(share, abs=margin + 1e-12)


@pytest.mark.parametrize(("crystals", "in_bin"), [(99, 10), (49, 10), (24, 12), (9, 9), (4, 4)])
def test_few_crystals_have_wide_bins_of_several(crystals, in_bin):
    gaps = np.arange(float(crystals))
    num_atoms = np.arange(crystals) + 1
    statistics = profiled(gaps, gaps, num_atoms)
    drawn = draw_num_atoms({"gap": np.zeros(2000)}, 2000, 0, None, statistics)
    # Each is missed with a probability below 1e-60.
    assert np.unique(drawn).tolist() == list(range(1, in_bin + 1))


def test_numbers_of_atoms_beyond_the_data_are_those_of_the_nearest_crystals():
    gaps = np.arange(100.0)
    num_atoms = np.where(gaps < 50, 2, 8)
    statistics = profiled(gaps, gaps, num_atoms)
    asked = {"gap": np.array([-1e9, 0.0, 49.0, 51.0, 99.0, 1e9])}
    drawn = draw_num_atoms(asked, 6, 0, None, statistics)
    np.testing.assert_array_equal(drawn, [2, 2, 2, 8, 8, 8])


def test_values_between_two_clusters_of_the_data_have_the_sizes_of_all():
    gaps = np.repeat([0.0, 1.0], 50)
    statistics = profiled(gaps, gaps, np.where(gaps < 1, 2, 8))
    drawn = draw_num_atoms({"gap": np.full(1000, 0.5)}, 1000, 0, None, statistics)
    assert 420 < np.sum(drawn == 2) < 580  # five standard errors


def test_contradicting_properties_fall_back_on_the_sizes_of_all():
    gaps = np.arange(100.0)
    num_atoms = np.where(gaps < 50, 2, 8)
    statistics = profiled(gaps, gaps, num_atoms)
    asked = {"gap": np.full(1000, 0.0), "density": np.full(1000, 99.0)}
    drawn = draw_num_atoms(asked, 1000, 0, None, statistics)
    assert 420 < np.sum(drawn == 2) < 580  # five standard errors


def test_values_of_a_range_are_uniform_and_of_their_own_stream():
    drawn = draw_values({"gap": (1.0, 3.0), "density": (1.0, 3.0), "mass": (2.0, 2.0)}, 5000, 7)
    assert (drawn["mass"] == 2.0).all()
    for name in ("gap", "density"):
        assert stats.kstest(drawn[name], stats.uniform(1.0, 2.0).cdf).pvalue > PVALUE
    assert abs(np.corrcoef(drawn["gap"], drawn["density"])[0, 1]) < 5 / np.sqrt(5000)
    again = draw_values({"gap": (1.0, 3.0)}, 5000, 7)["gap"]
    np.testing.assert_array_equal(again, drawn["gap"])
    assert (draw_values({"gap": (1.0, 3.0)}, 5000, 8)["gap"] != again).all()


def test_numbers_of_atoms_can_be_fixed_within_the_training_range():
    np.testing.assert_array_equal(draw_num_atoms({}, 4, 0, 7, GAP), [7, 7, 7, 7])
    for outside in (0, 1, 9):
        with pytest.raises(UserError, match=f"num_atoms={outside}.*2 to 8"):
            draw_num_atoms({}, 4, 0, outside, GAP)


def test_weights_of_another_network_are_named_with_both_shapes():
    shipped = trained_model.load("perov5_cds")
    check_weights(shipped, "perov5_cds")
    small = dataclasses.replace(
        shipped.config.model, width=8, num_blocks=1, num_heads=2, pair_hidden_width=8
    )
    config = dataclasses.replace(shipped.config, model=small)
    with pytest.raises(UserError, match=r"--model=mine .*kernel is \(64, 8\) there and \(8, 2\)"):
        check_weights(dataclasses.replace(shipped, config=config), "mine")
    without = {name: part for name, part in shipped.params.items() if name != "block_1"}
    with pytest.raises(UserError, match=r"block_1/.* is missing there"):
        check_weights(dataclasses.replace(shipped, params=without), "mine")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named_with_their_model(tiny_model, bad):
    leaves, tree = jax.tree.flatten(tiny_model.params)
    leaves[3] = np.array(leaves[3])
    leaves[3].flat[-1] = bad
    broken = dataclasses.replace(tiny_model, params=jax.tree.unflatten(tree, leaves))
    with pytest.raises(UserError, match=r"--model=runs/mine .* NaN or infinite, in \w+/"):
        check_weights(broken, "runs/mine")


def test_a_request_comes_back_from_json():
    full = dataclasses.replace(
        REQUEST, target={"gap": (0.0, 1.5)}, chemical_system=("Ba", "O"), num_atoms=5
    )
    for request in (REQUEST, full):
        text = msgspec.json.encode(request)
        assert msgspec.json.decode(text, type=Request) == request


def test_a_request_of_a_version_without_averaging_has_none():
    stored = msgspec.to_builtins(REQUEST)
    del stored["averaging_rounds"]
    assert msgspec.convert(stored, Request).averaging_rounds == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5),
        ("target", []),
        ("target", {"gap": "a"}),
        ("target", {"gap": [0.0]}),
        ("guidance", "x"),
        ("guidance", True),
        ("num", 2.5),
        ("elements", 5),
        ("elements", ["Ba", 8]),
        ("solver", ["ancestral"]),
        ("charge_balance", 1),
    ],
)
def test_json_of_another_type_is_refused_with_the_field(field, value):
    sound = msgspec.to_builtins(REQUEST)
    with pytest.raises(ValueError, match=field):
        msgspec.convert(sound | {field: value}, Request)
    del sound["guidance"]
    with pytest.raises(ValueError, match="guidance"):
        msgspec.convert(sound, Request)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"target": "min", "guidance": 1.5, "solver": "second_order", "num_steps": 7},
        {"target": f"{1 / 3!r}:1", "elements": "Ba,Ti,O", "renoising_steps": 3},
        {"chemical_system": "Ba-Ti-O", "num_atoms": 5, "charge_balance": True, "symprec": 0.0},
        {"sampler": "paper", "averaging_rounds": 2},
    ],
)
def test_the_command_of_a_request_repeats_it(tiny_model, asked):
    request = resolve(tiny_model, "my model", **{"num": 3, "seed": 7, **asked})
    words = shlex.split(request.command(Path("an out")))
    assert words[:2] == ["crystal-diffusion", "sample"]
    flags = sample.parser().parse_args(words[2:])
    assert flags.out == Path("an out")
    assert resolve(tiny_model, str(flags.model), **requested(flags)) == request
