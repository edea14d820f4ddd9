import numpy as np
import pytest
from scipy import stats

from crystal_diffusion_jax.data.arrays import DatasetStatistics
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.sampling.request import (
    allowed_species,
    condition_arrays,
    draw_num_atoms,
    outside_training_range,
    parse_target,
    refuse_non_finite_weights,
)

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
)
GAP = DatasetStatistics(
    **{
        **vars(GAP_AND_DENSITY),
        **{
            field: getattr(GAP_AND_DENSITY, field)[:1]
            for field in vars(GAP_AND_DENSITY)
            if field.startswith("property_")
        },
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", {}),
        ("min", {"gap": 0.0}),
        ("max", {"gap": 4.0}),
        ("-1.5e-1", {"gap": -0.15}),
        ("gap=2", {"gap": 2.0}),
        ("gap=max", {"gap": 4.0}),
    ],
)
def test_a_target_is_an_end_of_the_training_range_or_a_number(text, expected):
    assert parse_target(text, GAP) == expected


def test_any_subset_of_several_properties_can_be_asked_for():
    assert parse_target("density=max", GAP_AND_DENSITY) == {"density": 9.0}
    both = parse_target("density=3,gap=min", GAP_AND_DENSITY)
    assert both == {"density": 3.0, "gap": 0.0}


@pytest.mark.parametrize("text", ["abc", "", "nan", "inf", "gap=", "gap=1e999", "1e300", "None"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(UserError, match="is not a number"):
        parse_target(text, GAP)


def test_an_unknown_or_missing_property_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="no property 'hardness', but gap"):
        parse_target("hardness=1", GAP)
    with pytest.raises(UserError, match="gap, density"):
        parse_target("min", GAP_AND_DENSITY)


@pytest.mark.parametrize(
    ("value", "warned"), [(-0.01, True), (0.0, False), (4.0, False), (4.1, True)]
)
def test_a_target_outside_the_training_range_is_named_with_that_range(value, warned):
    sentences = outside_training_range({"gap": value}, GAP)

    assert len(sentences) == warned
    if warned:
        assert "0 .. 4" in sentences[0]


def test_a_property_asked_for_twice_is_refused():
    with pytest.raises(UserError, match="gap is asked for twice"):
        parse_target("gap=1,density=3,gap=2", GAP_AND_DENSITY)


def test_conditions_are_z_scores_and_absent_properties_are_marked():
    condition = condition_arrays({"density": 9.0}, GAP_AND_DENSITY, batch_size=3)

    np.testing.assert_allclose(condition.values[:, 1], (9.0 - 5.0) / 2.0)
    np.testing.assert_array_equal(condition.present, [[False, True]] * 3)


def test_allowed_species_are_those_of_the_elements():
    np.testing.assert_array_equal(allowed_species([56, 8], GAP), [True, False, True])
    assert allowed_species(None, GAP).all()


def test_an_element_that_the_model_never_saw_is_refused():
    with pytest.raises(UserError, match=r"\[3, 92\]"):
        allowed_species([92, 8, 3], GAP)


def test_numbers_of_atoms_follow_the_training_histogram():
    drawn = draw_num_atoms(5000, seed=3, num_atoms=None, statistics=GAP)

    counts = [np.sum(drawn == size) for size in (2, 5, 8)]
    assert sum(counts) == 5000
    assert stats.chisquare(counts, [500, 3000, 1500]).pvalue > 1e-3


def test_numbers_of_atoms_can_be_fixed_within_the_training_range():
    np.testing.assert_array_equal(draw_num_atoms(4, 0, 7, GAP), [7, 7, 7, 7])
    for outside in (0, 1, 9):
        with pytest.raises(UserError, match=f"num_atoms={outside}.*2 to 8"):
            draw_num_atoms(4, 0, outside, GAP)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named_with_their_model(bad):
    kernel = np.zeros((2, 3))
    params = {"block": {"kernel": kernel, "bias": np.zeros(3)}, "head": np.ones(2)}
    refuse_non_finite_weights(params, "runs/mine")
    kernel[1, 2] = bad
    with pytest.raises(UserError, match=r"--model=runs/mine .* NaN or infinite, in block/kernel:"):
        refuse_non_finite_weights(params, "runs/mine")
