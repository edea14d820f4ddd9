import pytest
from crystal_diffusion_jax.sampling.summary import summary


def entry(formula: str, min_distance: float | None, volume: float, num_atoms: int) -> dict:
    return {
        "formula": formula,
        "min_distance": min_distance,
        "volume": volume,
        "atomic_numbers": [1] * num_atoms,
    }


def test_the_summary_counts_valid_structures_and_compositions():
    entries = [
        entry("BaTiO3", 1.9, 60.0, 5),
        entry("BaTiO3", 0.49, 50.0, 5),
        entry("Po", None, 37.0, 1),
    ]

    validity, compositions, volumes = summary(entries)

    assert "2 of 3" in validity
    assert compositions.startswith("2 distinct")
    assert "BaTiO3 2, Po 1" in compositions
    assert "median 12.0" in volumes
    assert "10.0 to 37.0" in volumes


@pytest.mark.parametrize(("distance", "valid"), [(0.5, 1), (0.499, 0)])
def test_a_pair_at_half_an_angstrom_is_still_valid(distance, valid):
    assert f"{valid} of 1" in summary([entry("H2", distance, 20.0, 2)])[0]


def test_no_structures_give_no_lines():
    assert summary([]) == []
