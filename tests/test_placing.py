"""Crystals that are placed again from templates after the model drew their composition."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax.config import ExperimentConfig, LossConfig, SamplingConfig
from crystal_diffusion_jax.data import training_crystals
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.request import Trajectory
from crystal_diffusion_jax.sampling.chains import (
    Chains,
    States,
    crystal_keys,
    crystal_streams,
    steps_of,
)
from crystal_diffusion_jax.sampling.generate import generate
from crystal_diffusion_jax.sampling.placing import MAX_DRAWS, Placing
from crystal_diffusion_jax.sampling.resolve import resolve, warnings
from crystal_diffusion_jax.structures.sampled_crystals import CrystalsInMemory
from tests.knowing_model import knowing
from tests.reverse_process import closed_form_model
from tests.test_generate_given import rock_salt

ROCK_SALT, PEROVSKITE = [8, 56], [8, 8, 8, 22, 56]


class Drawing:
    """Chains that draw what they are told to, and leave crystals where they start."""

    records = False

    def __init__(self, drawn: dict[int, list[list[int]]]) -> None:
        """Takes the atomic numbers of each draw of each crystal; the last is repeated."""
        self.drawn, self.rounds, self.placed = drawn, list[list[tuple[int, int]]](), list[Any]()

    def run(self, rows, size, shape, *, streams, given=None, cells=(), start=0, averaging_rounds=0):
        assert len(rows) == len(streams) <= shape
        if given is not None:
            self.placed = [rows.tolist(), streams.tolist(), given, cells, start, averaging_rounds]
            numbers = given
            sites = [cell.frac_coords for cell in cells]
        else:
            assert (start, averaging_rounds) == (0, 0)
            draws = streams - 1
            self.rounds.append(list(zip(rows.tolist(), draws.tolist(), strict=True)))
            numbers = [
                self.drawn[row][min(draw, len(self.drawn[row]) - 1)]
                for row, draw in self.rounds[-1]
            ]
            sites = [np.full((len(each), 3), 0.9) for each in numbers]
        return States(
            [
                Trajectory(np.zeros(1, int), np.eye(3)[None], where[None], np.array(each)[None])
                for each, where in zip(numbers, sites, strict=True)
            ],
            calls=100 if given is None else 7,
        )


def placed(
    drawn: dict[int, list[list[int]]], shape: int, model, charge_balance: bool = False
) -> tuple[States, Drawing]:
    chains: Any = Drawing(drawn)
    request = resolve(model, "m", num=1, start="template:5", averaging_rounds=3)
    placing = Placing(chains, request, rock_salt(), charge_balance)
    states = placing.run(np.array(list(drawn)), 5, shape)
    return states, chains


@pytest.fixture
def model(tiny_model, tmp_path):
    """It knows the best denoiser of crystals whose entries are independent."""
    known = closed_form_model(knowing(tiny_model, sizes=((2, 10),)))
    training_crystals.save(rock_salt(), tmp_path)
    return dataclasses.replace(known, folder=tmp_path)


def test_a_composition_with_a_template_is_drawn_once_and_starts_from_it(model):
    states, chains = placed({7: [[56, 8]], 9: [[38, 8]]}, 2, model)
    assert chains.rounds == [[(7, 0), (9, 0)]]
    rows, streams, given, cells, start, averaging_rounds = chains.placed
    assert (rows, streams, start, averaging_rounds) == ([7, 9], [0, 0], 5, 3)
    assert [numbers.tolist() for numbers in given] == [ROCK_SALT, [8, 38]]
    for cell, numbers in zip(cells, given, strict=True):
        np.testing.assert_array_equal(cell.lattice, rock_salt().lattice[0])
        np.testing.assert_array_equal(cell.atomic_numbers, numbers)
    # Oxygen is second in rock_salt().
    np.testing.assert_allclose(cells[0].frac_coords, [[0.6] * 3, [0.1] * 3])
    assert states.calls == 100 + 7


def test_others_are_drawn_again_together_until_one_has_a_template(model):
    """The first draw that has one counts, however many are made at once."""
    drawn = {
        1: [ROCK_SALT],
        2: [[8, 8], [8, 8], [8, 38], ROCK_SALT],
        3: [ROCK_SALT],
        4: [ROCK_SALT],
    }
    states, chains = placed(drawn, 4, model)
    assert chains.rounds == [[(1, 0), (2, 0), (3, 0), (4, 0)], [(2, 1), (2, 2), (2, 3), (2, 4)]]
    assert states.trajectories[1].atomic_numbers[-1].tolist() == [8, 38]
    assert states.calls == (1 + 4) * 100 + 7


def test_a_composition_without_a_template_is_placed_from_the_crystal_that_was_drawn(model):
    states, chains = placed({3: [[56, 8, 8], [8, 56, 8]]}, 1, model)
    assert chains.rounds == [[(3, draw)] for draw in range(MAX_DRAWS)]
    _, _, given, cells, *_ = chains.placed
    assert given[0].tolist() == [8, 8, 56]
    np.testing.assert_array_equal(cells[0].frac_coords, np.full((3, 3), 0.9))
    assert states.calls == MAX_DRAWS * 100 + 7


def test_a_template_of_other_elements_is_not_near(model):
    """Carbon monoxide is drawn again, though rock salt has as many atoms of each element."""
    _, chains = placed({3: [[6, 8], [38, 8]]}, 1, model)
    assert chains.rounds == [[(3, 0)], [(3, 1)]]
    assert chains.placed[2][0].tolist() == [8, 38]


def test_where_charges_balance_a_composition_that_does_not_is_drawn_again(model):
    # RbO has a near template; TiO2 is neutral and has none.
    rubidium, rutile = [8, 37], [8, 8, 22]
    _, chains = placed({3: [rubidium, [8, 38]]}, 1, model)
    assert chains.rounds == [[(3, 0)]]
    assert chains.placed[2][0].tolist() == rubidium
    _, chains = placed({3: [rubidium, [8, 38]]}, 1, model, charge_balance=True)
    assert chains.rounds == [[(3, 0)], [(3, 1)]]
    assert chains.placed[2][0].tolist() == [8, 38]
    # The last draws are no better than the second one.
    drawn = {3: [rubidium, rutile, rubidium]}
    _, chains = placed(drawn, 1, model, charge_balance=True)
    assert chains.rounds == [[(3, draw)] for draw in range(MAX_DRAWS)]
    assert chains.placed[2][0].tolist() == rutile


def sampled(model, **asked) -> CrystalsInMemory:
    request = resolve(model, "m", **{"num": 3, **asked})
    memory = CrystalsInMemory(request)
    generate(model, request, memory, 10, lambda line: None)
    return memory


def test_all_crystals_are_in_the_cell_of_the_template(model):
    """From time 1 nothing changes but by the noise of one step; from noise all does."""
    asked: dict[str, Any] = {"num_steps": model.config.noise.num_steps, "elements": "Ba,O"}
    crystals = sampled(model, start="template:1", **asked).crystals()
    assert len(crystals) == 3
    for crystal in crystals:
        np.testing.assert_allclose(crystal.lattice.matrix, rock_salt().lattice[0], atol=1.0)
        first, second = crystal.frac_coords
        np.testing.assert_allclose((first - second) % 1, 0.5, atol=0.1)
    apart = [
        (crystal.frac_coords[0] - crystal.frac_coords[1]) % 1
        for crystal in sampled(model, start="noise", **asked).crystals()
    ]
    assert not np.allclose(apart, 0.5, atol=0.2)


@pytest.mark.parametrize("charge_balance", [False, True])
def test_a_crystal_depends_on_its_index_alone(model, charge_balance):
    asked: dict[str, Any] = {"start": "template:5", "num_steps": 6}
    whole = sampled(model, num=4, charge_balance=charge_balance, **asked).crystals()

    class Rest(CrystalsInMemory):
        def remaining(self) -> list[int]:
            return [1, 3]

    rest = Rest(whole.request)
    generate(model, whole.request, rest, 10, lambda line: None)
    found = rest.crystals()
    for index, crystal in zip(found.indices, found, strict=True):
        same = whole[whole.indices.index(index)]
        assert same.formula == crystal.formula
        np.testing.assert_array_equal(same.frac_coords, crystal.frac_coords)


def test_charges_that_cannot_balance_change_nothing(model):
    asked: dict[str, Any] = {"start": "template:5", "num_steps": 6, "elements": "Ba"}
    free = sampled(model, **asked).crystals()
    balanced = sampled(model, charge_balance=True, **asked).crystals()
    for one, other in zip(free, balanced, strict=True):
        np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
        np.testing.assert_array_equal(one.frac_coords, other.frac_coords)


def test_a_trajectory_holds_the_draw_and_then_the_placing(model):
    request = resolve(model, "m", num=1, start="template:5", num_steps=10)
    batches: list[Any] = []

    class Sink(CrystalsInMemory):
        def add(self, batch) -> None:
            batches.append(batch)
            super().add(batch)

    generate(model, request, Sink(request), 10, lambda line: None, trajectory=4)
    (states,) = batches[0].trajectories
    steps = np.flatnonzero(np.diff(states.times) > 0)
    assert len(steps) == 1
    draw, placing = np.split(states.times, steps + 1)
    assert draw[[0, -1]].tolist() == [49, 0]
    assert placing[[0, -1]].tolist() == [5, 0]
    assert len(states.lattice) == len(states.times) == len(states.atomic_numbers)


def test_streams_are_neither_one_another_nor_those_of_the_chain():
    import jax

    keys = crystal_keys(np.uint32(3), np.arange(4, dtype=np.uint32))
    streams = [crystal_streams(keys, np.full(4, each, np.uint32)) for each in range(MAX_DRAWS + 1)]
    chain = [jax.vmap(jax.random.fold_in, (0, None))(keys, time) for time in range(1001)]
    data = np.concatenate([np.asarray(jax.random.key_data(each)) for each in [*streams, *chain]])
    assert len(np.unique(data, axis=0)) == len(data)


def test_a_model_says_where_its_crystals_start(model):
    sampling = SamplingConfig(start_time=7)
    config = dataclasses.replace(model.config, sampling=sampling)
    own = dataclasses.replace(model, config=config)

    def time(**asked: Any) -> int:
        return resolve(own, "m", num=1, **asked).start_time

    assert time() == time(start="template") == time(formula="BaO") == 7
    assert time(start="template:3") == time(sampler="paper", start="template:3") == 3
    assert time(start="noise") == time(sampler="paper") == 0
    assert resolve(model, "m", num=1).start_time == 0


def test_a_model_without_its_training_crystals_starts_from_noise_and_says_so(tiny_model, model):
    sampling = SamplingConfig(start_time=7)
    known = knowing(tiny_model)
    config = dataclasses.replace(known.config, sampling=sampling)
    bare = dataclasses.replace(known, config=config)
    request = resolve(bare, "m", num=1)
    assert request.start_time == 0
    (sentence,) = warnings(request, bare)
    assert sentence.startswith("m came without its training crystals (training_crystals.npz)")
    with pytest.raises(UserError, match="--start=template: m came without its training crystals"):
        resolve(bare, "m", num=1, start="template")
    whole = dataclasses.replace(model, config=config)
    assert warnings(resolve(whole, "m", num=1, start="noise"), whole) == []


def test_a_crystal_from_a_template_goes_through_two_chains(model):
    def steps(**asked: Any) -> list[int]:
        return steps_of(resolve(model, "m", num=1, **asked), model)

    assert steps(num_steps=10) == [10]
    assert steps(num_steps=10, start="template:5") == [10, 1]
    assert steps(num_steps=50, start="template:5") == [50, 5]


def test_a_start_needs_a_network_that_was_given_species(tiny_model):
    with pytest.raises(UserError, match="--start=template: m never saw a crystal's formula"):
        resolve(tiny_model, "m", num=1, start="template")
    with pytest.raises(ValueError, match=r"sampling.start_time=9 needs loss.species_given above 0"):
        ExperimentConfig(sampling=SamplingConfig(start_time=9))
    ExperimentConfig(sampling=SamplingConfig(start_time=9), loss=LossConfig(species_given=0.1))


def test_chains_keep_more_than_the_last_state_on_request(model):
    request = resolve(model, "m", num=1)
    assert not Chains(model, request, np.array([2])).records
    assert Chains(model, request, np.array([2]), 3).records
