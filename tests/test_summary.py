from pathlib import Path

from crystal_diffusion_jax.structures.summary import summary

# Formula, smallest distance, volume, number of atoms.
Row = tuple[str, float | str, float, int]


def table(tmp_path: Path, *rows: Row) -> Path:
    lines = ["formula,min_distance,volume,num_atoms"]
    lines += [",".join(map(str, row)) for row in rows]
    path = tmp_path / "samples.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_summary_counts_distances_compositions_and_volumes(tmp_path):
    crystals: list[Row] = [("BaTiO3", 1.9, 65.0, 5), ("BaTiO3", 0.5, 60.0, 5), ("C", "", 6.0, 1)]
    crystals.append(("LiF", 0.49, 20.0, 2))
    assert summary(table(tmp_path, *crystals)) == [
        "no pair of atoms closer than 0.5 A: 3 of 4",
        "3 unique compositions; most common: BaTiO3 2, C 1, LiF 1",
        "volume per atom: median 12.0 A^3, 6.0 to 13.0",
    ]


def test_without_crystals_there_is_nothing_to_summarise(tmp_path):
    assert summary(table(tmp_path)) == []
