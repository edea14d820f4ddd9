"""Requests for formulas: what comes out of the sampler, in parts and from templates."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax.config import ANCESTRAL
from crystal_diffusion_jax.data import training_crystals
from crystal_diffusion_jax.data.arrays import CrystalDataset
from crystal_diffusion_jax.data.templates import Templates
from crystal_diffusion_jax.diffusion.schedules import cosine_alpha_bar
from crystal_diffusion_jax.sampling.compositions import compositions
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.sampling.given import starting_cells
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.structures.sampled_crystals import CrystalsInMemory
from tests.knowing_model import knowing
from tests.reverse_process import closed_form_model

UNITS = (((1, 1), ((1, 9), (2, 1))), ((1, 1, 3), ((1, 10),)))


def rock_salt() -> CrystalDataset:
    """BaO, the only template, far from what the network would make."""
    return CrystalDataset(
        lattice=np.diag([3.0, 4.0, 5.0])[None],
        num_atoms=np.array([2]),
        frac_coords=np.array([[0.1, 0.1, 0.1], [0.6, 0.6, 0.6]]),
        atomic_numbers=np.array([56, 8]),
        properties=np.zeros((1, 0)),
        property_names=(),
        material_ids=np.array(["a"]),
    )


@pytest.fixture
def model(tiny_model, tmp_path):
    """It knows the best denoiser of crystals whose entries are independent."""
    known = closed_form_model(knowing(tiny_model, UNITS, sizes=((2, 10), (4, 10), (5, 10))))
    training_crystals.save(rock_salt(), tmp_path)
    return dataclasses.replace(known, folder=tmp_path)


def sampled(model, batch_size: int = 10, **asked) -> CrystalsInMemory:
    """Crystals by index, with those that have no cell."""
    request = resolve(model, "m", **{"num": 3, "num_steps": 6, "renoising_steps": 1, **asked})
    memory = CrystalsInMemory(request)
    generate(model, request, memory, batch_size, lambda line: None)
    return memory


@pytest.mark.parametrize("solver", [ANCESTRAL, None])
def test_each_crystal_has_the_composition_that_was_asked_for(model, solver):
    memory = sampled(model, formula="SrTiO3,BaO", solver=solver, target="min", guidance=0.5)
    request = memory.crystals().request
    wanted = compositions(request, model)
    assert wanted is not None
    assert [len(numbers) for numbers in wanted[:3]] == [5, 5, 5]
    crystals = memory.crystals()
    assert len(crystals) > 3
    for index, crystal in zip(crystals.indices, crystals, strict=True):
        np.testing.assert_array_equal(sorted(crystal.atomic_numbers), wanted[index])


def test_a_chemical_system_is_complete_in_each_crystal(model):
    crystals = sampled(model, chemical_system="Ba-Ti-O", num=6).crystals()
    assert all("lacks" not in reason for reason in crystals.rejected.values())
    assert len(crystals) > 3
    for crystal in crystals:
        assert {site.specie.symbol for site in crystal} == {"Ba", "Ti", "O"}


def test_crystals_start_from_templates_where_there_are_any(model):
    """From time 1 nothing changes but by the noise of one step; from noise all does."""
    asked: dict[str, Any] = {"formula": "SrO,SrTiO3", "formula_units": "1", "num": 2}
    asked |= {"num_steps": model.config.noise.num_steps}
    started = sampled(model, start="template:1", **asked).crystals()
    free = sampled(model, **asked).crystals()
    of_template = [crystal for crystal in started if len(crystal) == 2]
    assert len(of_template) == 2
    alpha_bar = cosine_alpha_bar(model.config.noise.num_steps, model.config.noise.cosine_offset)
    noise = np.sqrt(1 - alpha_bar[1]) * model.statistics.lattice_unit(np.array([2]))[0]
    assert noise < 0.3  # Angstrom
    for crystal in of_template:
        np.testing.assert_allclose(crystal.lattice.matrix, rock_salt().lattice[0], atol=5 * noise)
        sites = {site.specie.symbol: site.frac_coords for site in crystal}
        apart = (sites["Sr"] - sites["O"] + 0.0) % 1
        np.testing.assert_allclose(apart, 0.5, atol=0.1)
    # SrTiO3 has no template: the same crystals as from noise.
    others = {i: c for i, c in zip(started.indices, started, strict=True) if len(c) == 5}
    same = {i: c for i, c in zip(free.indices, free, strict=True) if len(c) == 5}
    assert others.keys() == same.keys()
    for index, crystal in others.items():
        np.testing.assert_allclose(crystal.frac_coords, same[index].frac_coords, atol=1e-5)


def test_templates_are_searched_for_what_is_left_and_are_those_of_the_whole(model, monkeypatch):
    asked: dict[str, Any] = {"formula": "SrO,BaO,SrTiO3", "formula_units": "1"}
    request = resolve(model, "m", num=3, start="template:5", **asked)
    wanted = compositions(request, model)
    assert wanted is not None
    started, cells = starting_cells(request, model, wanted, range(9))
    assert started.tolist() == [True] * 6 + [False] * 3
    assert list(cells) == list(range(6))
    searched: list[list[int]] = []
    find = Templates.find

    def counted(self: Templates, numbers: Any, k: int) -> Any:
        searched.append(list(numbers))
        return find(self, numbers, k)

    monkeypatch.setattr(Templates, "find", counted)
    same, rest = starting_cells(request, model, wanted, [4, 8])
    assert searched == [[8, 56]]
    np.testing.assert_array_equal(same, started)
    assert list(rest) == [4]
    np.testing.assert_array_equal(rest[4].frac_coords, cells[4].frac_coords)
    assert starting_cells(request, model, wanted, [])[1] == {}


def test_compositions_of_a_chemical_system_start_from_templates_too(model):
    asked: dict[str, Any] = {"chemical_system": "O-Sr", "num": 4, "num_atoms": 2}
    asked |= {"num_steps": model.config.noise.num_steps, "start": "template:1"}
    crystals = sampled(model, **asked).crystals()
    assert crystals.formulas == ["SrO"] * 4
    for crystal in crystals:
        sites = {site.specie.symbol: site.frac_coords for site in crystal}
        np.testing.assert_allclose((sites["Sr"] - sites["O"]) % 1, 0.5, atol=0.1)


def test_a_property_of_some_formulas_alone_is_absent_in_the_others(model, tmp_path):
    name = model.statistics.property_names[0]
    table = tmp_path / "t.csv"
    table.write_text(f"formula,{name}\nBaO,1.5\nSrO,\n")
    with_value = sampled(model, formula=str(table), formula_units="1").crystals()
    without = sampled(model, formula="BaO,SrO", formula_units="1").crystals()
    changed = [
        not np.allclose(one.lattice.matrix, other.lattice.matrix, atol=1e-4)
        for one, other in zip(with_value, without, strict=True)
    ]
    assert changed == [True] * 3 + [False] * 3


def test_a_request_is_the_same_in_parts(model):
    """The noise of a crystal depends on its index alone, in batches of any order."""
    whole = sampled(model, formula="BaO,SrTiO3", formula_units="1", num=4).crystals()

    class Rest(CrystalsInMemory):
        def remaining(self) -> list[int]:
            return [1, 6]

    rest = Rest(whole.request)
    generate(model, whole.request, rest, 10, lambda line: None)
    found = rest.crystals()
    assert found.indices == (1, 6)
    at = [whole.indices.index(index) for index in found.indices]
    for place, crystal in zip(at, found, strict=True):
        np.testing.assert_array_equal(crystal.frac_coords, whole[place].frac_coords)
        np.testing.assert_array_equal(crystal.lattice.matrix, whole[place].lattice.matrix)


def test_the_flag_reaches_the_network(tiny_model):
    """Another vector for given species makes other crystals."""
    model = knowing(tiny_model, UNITS)
    asked: dict[str, Any] = {"formula": "BaO", "formula_units": "1", "renoising_steps": 0}
    plain = sampled(model, **asked).crystals()
    vector = {"species_given": np.full_like(model.params["species_given"], 0.5)}
    told = dataclasses.replace(model, params={**model.params, **vector})
    other = sampled(told, **asked).crystals()
    assert not np.allclose(plain[0].lattice.matrix, other[0].lattice.matrix, atol=1e-3)


def test_crystals_that_start_from_noise_for_want_of_a_template_are_told(model):
    """Rock salt is the only one, of two atoms."""

    def told(**asked):
        return warnings(resolve(model, "m", num=2, **asked), model)

    assert told(formula="SrO,CaO", formula_units="1", start="template") == []
    assert told(formula="SrTiO3", formula_units="1") == []
    (sentence,) = told(formula="SrO,SrTiO3,BaTiO3", formula_units="1", start="template")
    assert sentence == (
        "--start=template: no training crystal has as many atoms of each element in the cell as "
        "SrTiO3, BaTiO3: 4 of 6 crystals start from noise"
    )
    (sentence,) = told(formula="Sr2O2,Ca2O2,Mg2O2,Sr4,Ba4,Ti4", formula_units="1", start="template")
    assert "Sr4, Ba4, 1 more: 12 of 12 crystals" in sentence
