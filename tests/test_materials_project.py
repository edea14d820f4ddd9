"""potentials/materials_project.py against a client that answers without a connection."""

import sys
import types
from typing import Any

import pytest

from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.potentials import hull, materials_project

LI, OX, TI, BA = 3, 8, 22, 56
TABLE = {
    "Li-O": [("Li2O", -2.0), ("Li2O2", -1.6)],
    "Ba-O": [("BaO", -2.8)],
    "Ba-O-Ti": [("BaTiO3", -3.4)],
}


class Client:
    """What `MPRester` of mp-api does here: `with`, and `materials.thermo.search`."""

    asked: list[dict[str, Any]]

    def __init__(self, api_key: str, **_: bool) -> None:
        if api_key != "right":
            raise ValueError(f"Invalid authentication credentials: {api_key}")
        self.materials = types.SimpleNamespace(thermo=self)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def search(self, **query: Any) -> list[dict[str, Any]]:
        self.asked.append(query)
        return [
            dict(zip(query["fields"], phase, strict=True))
            for system in query["chemsys"]
            for phase in TABLE.get(system, [])
        ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The queries; the package is a fake, the key is right."""
    package, module = types.ModuleType("mp_api"), types.ModuleType("mp_api.client")
    module.MPRester = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mp_api", package)
    monkeypatch.setitem(sys.modules, "mp_api.client", module)
    monkeypatch.setenv("MP_API_KEY", "right")
    Client.asked = []
    return Client.asked


def test_the_hull_is_that_of_all_systems_within_the_given_ones(asked):
    known = hull.from_materials_project([[BA, TI, OX, OX, OX], [LI, OX], [OX, LI]])
    (query,) = asked
    assert query["chemsys"] == ["Li-O", "O-Ti", "Ba-O-Ti", "Ba-O", "Ba-Ti"]
    assert query["thermo_types"] == ["GGA_GGA+U"]
    found = known.above([BA, TI, OX, OX, OX], -3.0)
    assert found is not None
    assert found.energy == pytest.approx(0.4)
    assert found.decomposition == pytest.approx({"BaTiO3": 1})
    left_out = known.above([BA, TI, OX, OX, OX], -3.0, leave_out_own_formula=True)
    assert left_out is not None
    assert left_out.decomposition == pytest.approx({"BaO": 0.4, "Ti": 0.2, "O2": 0.4})


def test_many_systems_are_asked_for_in_several_requests(asked):
    hull.from_materials_project([range(3, 11)])
    sizes = [len(query["chemsys"]) for query in asked]
    assert sum(sizes) == 2**8 - 1 - 8
    assert max(sizes) <= 50
    assert len({system for query in asked for system in query["chemsys"]}) == sum(sizes)


def test_a_system_of_very_many_elements_is_bounded(asked):
    hull.from_materials_project([range(3, 23)])
    systems = [system for query in asked for system in query["chemsys"]]
    assert {system.count("-") + 1 for system in systems} == {2, 3, 4}
    assert len(systems) == 190 + 1140 + 4845


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mp_api", None)
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(UserError, match=r"pip install 'mp-api>=0.45'"):
        materials_project.known_phases([[LI, OX]])


def test_without_a_key_one_sentence_says_where_it_is_from(asked, monkeypatch):
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(UserError, match="set MP_API_KEY"):
        materials_project.known_phases([[LI, OX]])
    assert asked == []


def test_a_refused_key_is_a_mistake_of_the_user_and_is_not_shown(asked, monkeypatch):
    monkeypatch.setenv("MP_API_KEY", "wrong-secret")
    with pytest.raises(UserError, match="check MP_API_KEY") as caught:
        materials_project.known_phases([[LI, OX]])
    assert "secret" not in str(caught.value)
    assert "Invalid authentication" in str(caught.value)
