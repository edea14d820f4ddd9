"""shortlist.csv, and shortlist/ with each crystal for other programs.

00042_BaTiO3/generated.cif, relaxed.cif     symmetrised
             POSCAR, espresso.in, MPRelaxSet/, MPScanRelaxSet/   see `calculations`
shortlist.db                                ASE database of the relaxed crystals
"""

import math
import shutil
from pathlib import Path
from typing import Any

import ase.db
from pymatgen.core import Structure

from crystal_diffusion_jax.discovery.calculations import (
    VASP_SETS,
    in_cell,
    unknown_elements,
    write_inputs,
)
from crystal_diffusion_jax.discovery.folder import (
    generated_structures,
    relaxed_structures,
    values,
)
from crystal_diffusion_jax.discovery.plan import Plan
from crystal_diffusion_jax.discovery.rank import TERMS
from crystal_diffusion_jax.discovery.screen import SUFFIX
from crystal_diffusion_jax.runtime.files import replace_pieces, replace_text, writing_to
from crystal_diffusion_jax.structures.cif_writer import to_cif
from crystal_diffusion_jax.structures.compositions import reduced_formula
from crystal_diffusion_jax.structures.conversion import minimum_distance, to_ase
from crystal_diffusion_jax.structures.export import cif_name, csv_line
from crystal_diffusion_jax.structures.space_groups import space_group

CSV = "shortlist.csv"
FOLDER = "shortlist"
ASE_DATABASE = "shortlist.db"
_RELAXED = ("energy_gain", "rmsd", "energy_above_hull", "decomposition")


def is_there(out: Path) -> bool:
    """Whether both outputs exist."""
    return (out / CSV).is_file() and (out / FOLDER).is_dir()


def records(plan: Plan, out: Path) -> list[dict[str, Any]]:
    """What is known of each crystal on the shortlist, by rank; None where it is unknown.

    Energies are in eV/atom, lengths in Angstrom, volumes in Angstrom^3, predictions in the unit of
    the property; `folder` is relative to the folder of `discover`.
    """
    rows = values(out)
    chosen = sorted((i for i, row in rows.items() if "rank" in row), key=lambda i: rows[i]["rank"])
    crystals = relaxed_structures(out, chosen)
    found = []
    for index in chosen:
        row, crystal = rows[index], crystals[index]
        distance = minimum_distance(crystal)
        group = space_group(crystal, plan.request.symprec)
        record = {
            "rank": row["rank"],
            "index": index,
            "formula": reduced_formula(crystal.atomic_numbers),
            "num_atoms": len(crystal),
            "space_group": group[0] if group else None,
            "volume_per_atom": crystal.volume / len(crystal),
            "min_distance": distance if math.isfinite(distance) else None,
            **{name: value for name, value in row.items() if name.startswith("target_")},
        }
        if plan.spec is not None:
            name = f"predicted_{plan.spec.property_name}"
            record |= {key: row.get(key) for key in (name, f"{name}{SUFFIX}")}
        record |= {name: row.get(f"relaxed_{name}") for name in _RELAXED}
        record |= {name: row.get(name) for name in ("new", f"new{SUFFIX}", "score", *TERMS)}
        # Elements without a pseudopotential in a set, whose inputs are therefore missing.
        for kind in VASP_SETS:
            name = f"not_in_{kind.__name__}"
            record[name] = " ".join(unknown_elements(kind, crystal)) or None
        record["folder"] = f"{FOLDER}/{_folder_name(index, crystal)}"
        found.append(record)
    return found


def structures(
    out: Path, found: list[dict[str, Any]]
) -> tuple[dict[int, Structure], dict[int, Structure]]:
    """Index -> crystal of some records, as generated and relaxed."""
    indices = [record["index"] for record in found]
    return generated_structures(out, indices), relaxed_structures(out, indices)


def export(plan: Plan, out: Path) -> None:
    """Writes both outputs; of an earlier shortlist nothing stays.

    Raises:
      UserError: they cannot be written.
    """
    found = records(plan, out)
    generated, relaxed = structures(out, found)
    new, symprec = out / f".{FOLDER}.new", plan.request.symprec
    with writing_to(out):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        with ase.db.connect(new / ASE_DATABASE, type="db", use_lock_file=False) as db:
            for record in found:
                index = record["index"]
                folder = new / Path(record["folder"]).name
                folder.mkdir()
                replace_text(folder / "generated.cif", to_cif(generated[index], symprec))
                replace_text(folder / "relaxed.cif", to_cif(relaxed[index], symprec))
                crystal = in_cell(relaxed[index], plan.settings.cell, symprec)
                write_inputs(folder, crystal)
                # ASE has the formula, and reserves its name.
                known = {k: x for k, x in record.items() if x is not None and k != "formula"}
                db.write(to_ase(crystal), **known)
        replace_pieces(out / CSV, _lines(found))
        shutil.rmtree(out / FOLDER, ignore_errors=True)
        new.rename(out / FOLDER)


def _lines(found: list[dict[str, Any]]) -> list[str]:
    header = list(found[0]) if found else ["rank", "index", "formula"]
    return [csv_line(header), *(csv_line([_cell(x) for x in row.values()]) for row in found)]


def _cell(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float) else value


def _folder_name(index: int, crystal: Structure) -> str:
    return cif_name(index, crystal).removesuffix(".cif")
