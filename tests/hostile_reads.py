"""Reads hostile files one after another; prints how each ended and the memory that it took.

A program of its own, so that nothing else allocates meanwhile:

    python -m tests.hostile_reads EMPTY_FOLDER
"""

import functools
import gzip
import json
import os
import sqlite3
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crystal_diffusion_jax import published_weights, trained_model
from crystal_diffusion_jax.data.locate import Source
from crystal_diffusion_jax.data.prepared import read_folder
from crystal_diffusion_jax.data.read import read
from crystal_diffusion_jax.errors import UserError
from crystal_diffusion_jax.runtime.archives import read_arrays
from crystal_diffusion_jax.runtime.lock import OWNER, exclusive
from crystal_diffusion_jax.structures.csv_tables import read_rows
from crystal_diffusion_jax.structures.reading import read_structures
from crystal_diffusion_jax.structures.store import Samples
from crystal_diffusion_jax.training import checkpoint_files
from crystal_diffusion_jax.training.workdir import open_workdir
from tests.cif_cells import cell_of
from tests.smoke_run import CONFIG
from tests.test_store import REQUEST
from tests.time_limit import processor_time_limit

SECONDS = 10.0
HUGE = 2 * 2**30  # bytes of a file that is nearly all hole
CELL = "".join(f"_cell_length_{a} 9\n" for a in "abc") + "".join(
    f"_cell_angle_{a} 90\n" for a in ("alpha", "beta", "gamma")
)
ATOMS = "loop_\n" + "".join(f"_atom_site_{c}\n" for c in ("label", "fract_x", "fract_y", "fract_z"))


def sparse(path: Path, start: str) -> Path:
    """A file of 2 GB, one endless line after its start."""
    with path.open("w") as file:
        file.write(start)
        file.truncate(HUGE)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(shape: str, content: bytes = b"") -> bytes:
    """An array that says of itself what it likes."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def bomb(path: Path, member: bytes) -> Path:
    """The same 16 MB again and again: gzip members follow one another."""
    path.write_bytes(gzip.compress(b"cif,energy\n") + 64 * member)
    return path


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and read of each."""
    million = f"data_x\n{CELL}{ATOMS}" + "C 0.1 0.1 0.1\n" * 1_000_000

    def cif(path: Path) -> Callable[[], Any]:
        return lambda: read_structures(path)

    yield "cif line", cif(sparse(folder / "line.cif", "data_x\n"))
    yield "cif atoms", cif(write(folder / "million.cif", million))
    yield "cif atoms as text", lambda: cell_of(million)
    images = f"data_x\n{CELL}loop_\n_space_group_symop_operation_xyz\n" + "x,y,z\n" * 4_000
    images += ATOMS + "".join(f"C {i / 900} 0 0\n" for i in range(900))
    yield "cif images", lambda: cell_of(images)
    cifs = folder / "cifs"
    cifs.mkdir()
    sparse(cifs / "line.cif", "data_x\n")
    yield "cif in a folder", lambda: _reasons(read_structures(cifs).failures)
    rows = write(folder / "rows.csv", f'cif,energy\n"{million[: 2**20]}",1\n')
    yield "csv cif", lambda: _reasons(read_structures(rows).failures)
    beside = write(cifs / "values.csv", "file,energy\nline,1\n")
    yield "csv beside cif", lambda: str(list(read(Source((beside,), cifs), ["energy"], 0, False)))
    yield "csv line", lambda: list(read_rows(sparse(folder / "line.csv", "cif,energy\n"))[1])
    zeros, commas = (gzip.compress(text * 2**23, 1) for text in (b"00", b",\n"))
    yield "csv.gz line", lambda: list(read_rows(bomb(folder / "zeros.csv.gz", zeros))[1])
    yield "csv.gz rows", lambda: read_structures(bomb(folder / "rows.csv.gz", commas))
    hole = sparse(folder / "hole.db", "SQLite format 3\0")
    yield "db hole", lambda: read_structures(hole)
    for name, change in (
        ("num", "UPDATE information SET value = replace(value, '\"num\": 8', '\"num\": 1' || "
         "'000000000000') WHERE name = 'metadata'"),
        ("depth", "UPDATE information SET value = replace(hex(zeroblob(500000)), '0', '[') "
         "WHERE name = 'metadata'"),
        ("value", "UPDATE information SET value = hex(zeroblob(50000000)) "
         "WHERE name = 'metadata'"),
        ("reason", "INSERT INTO rejected VALUES (0, hex(zeroblob(50000000)))"),
    ):  # fmt: skip
        database = changed_samples(folder / f"db_{name}", change)
        yield f"db {name}", functools.partial(read_structures, database)
    line = sparse(folder / "line.extxyz", "2\n")
    yield "extxyz line", lambda: read_structures(line)
    endless = write(folder / "endless.extxyz", "1000000000000\n\nC 0 0 0\n")
    yield "extxyz count", lambda: read_structures(endless)
    frame = write(folder / "million.extxyz", "1000000\n\n" + "C 0 0 0\n" * 1_000_000)
    yield "extxyz atoms", lambda: _reasons(read_structures(frame).failures)
    columns = 'Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:999999999'
    wide = write(folder / "wide.extxyz", f"1\n{columns}\nC 0 0 0\n")
    yield "extxyz columns", lambda: _reasons(read_structures(wide).failures)
    yield from cases_of_other_kinds(folder)
    packed = {"a.npy": npy("(12500000,)", bytes(100_000_000))}
    squeezed = zipped(folder / "bomb.npz", packed, zipfile.ZIP_DEFLATED)
    yield "npz bomb", lambda: read_arrays(squeezed)
    absurd = zipped(folder / "shape.npz", {"a.npy": npy("(1000000000000,)", bytes(8))})
    yield "npz shape", lambda: read_arrays(absurd)
    empty = zipped(folder / "axis.npz", {"a.npy": npy("(1000000000000, 0)")})
    yield "npz axis", lambda: read_arrays(empty)
    memo = zipped(folder / "memo.pt", {"x/data.pkl": b"\x80\x02]r\xff\xff\xff\x7f."})
    yield "torch memo", lambda: published_weights.read(memo, "memo.pt")
    long = zipped(folder / "long.pt", {"x/data.pkl": bytes(2**25)}, zipfile.ZIP_DEFLATED)
    yield "torch description", lambda: published_weights.read(long, "long.pt")
    model = folder / "model"
    model.mkdir()
    sparse(model / "model.json", "{")
    yield "model.json", lambda: trained_model.load(model)
    yield from cases_of_own_files(folder)


def cases_of_other_kinds(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Of formats that pymatgen and ASE write."""

    def crystals(path: Path) -> Callable[[], Any]:
        return lambda: _reasons(read_structures(path).failures)

    cell = "x\n1\n5 0 0\n0 5 0\n0 0 5\n"
    counts = f"{cell}C H\n1 999999999\nDirect\n0 0 0\n"
    yield "poscar count", crystals(write(folder / "POSCAR", counts))
    yield "poscar line", crystals(sparse(folder / "line.vasp", cell))
    yield "json depth", crystals(write(folder / "depth.json", "[" * 10_000_000))
    yield "json values", crystals(write(folder / "values.json", "[1" + ",1" * 20_000_000 + "]"))
    array = '{"__ndarray__": [[1], "S1000000000", ["a"]]}'
    row = f'{{"numbers": {array}, "positions": {array}, "cell": {array}, "pbc": {array}}}'
    yield "json type", crystals(write(folder / "type.json", row))
    squeezed = folder / "bomb.json.gz"
    squeezed.write_bytes(gzip.compress(b" " * 2**27))
    yield "json.gz bomb", crystals(squeezed)
    step = "CRYSTAL\nPRIMVEC\n5 0 0\n0 5 0\n0 0 5\nPRIMCOORD\n999999999 1\n6 0 0 0\n"
    yield "xsf count", crystals(write(folder / "count.xsf", step))
    shape = '{"ndarray": [[1000000000, 3], "float64", 0]}'
    text = f'{{"pbc": [1, 1, 1], "numbers.": {shape}, "positions.": {shape}}}'.encode()
    for name, num_frames, size in (
        ("frames", 10**12, len(text)),
        ("size", 1, 2**60),
        ("array", 1, len(text)),
    ):
        path = folder / f"{name}.traj"
        # The place of the places of the frames, and that of the only frame, stand behind.
        numbers = b"".join(number.to_bytes(8, "little") for number in (3, num_frames, 48, 56, size))
        path.write_bytes(b"- of Ulm" + b"ASE-Trajectory".ljust(16) + numbers + text)
        yield f"traj {name}", crystals(path)


def cases_of_own_files(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Of formats that only this package writes: folders of runs, samples, the caches."""
    prepared = folder / "prepared"
    prepared.mkdir()
    sparse(prepared / "meta.json", "{")
    yield "prepared meta", lambda: read_folder(prepared)
    run = folder / "run"
    run.mkdir()
    sparse(run / OWNER, "{")
    yield "owner", lambda: list(owner_of(run))
    sparse(run / "config.json", "{")
    data: Any = Data()
    yield (
        "config",
        lambda: open_workdir(run, CONFIG, {"train": data, "val": data}, 1.0, print).__enter__(),
    )
    write(run / checkpoint_files.CHECKSUMS, "[" * 1_000_000)
    yield "checkpoint checksums", lambda: checkpoint_files.verify(run)


class Data:
    """A split of which only the checksum is asked."""

    def checksum(self) -> str:
        return ""


def changed_samples(out: Path, change: str) -> Path:
    """A folder of samples whose database was changed by a statement."""
    Samples(out, REQUEST)
    with sqlite3.connect(out / "samples.db") as connection:
        connection.execute(change)
    connection.close()
    return out


def owner_of(run: Path) -> Iterator[str]:
    """What is said of the run that was killed there."""
    lines: list[str] = []
    with exclusive(run, "--workdir", lines.append):
        yield from lines


def _reasons(failures: dict[int, str]) -> str:
    return "; ".join(failures.values())


def main(folder: Path) -> None:
    """Prints an object of JSON."""
    found = {name: in_a_child(read) for name, read in cases(folder)}
    ends = {name: end for name, (end, _) in found.items()}
    print(json.dumps({"ends": ends, "growth_mb": {name: mb for name, (_, mb) in found.items()}}))


def in_a_child(read: Callable[[], Any]) -> tuple[str, float]:
    """How a read ends, and the MB by which it makes a process grow that holds no freed memory."""
    answer, to_parent = os.pipe()
    if child := os.fork():
        os.close(to_parent)
        with os.fdopen(answer) as file:
            text = file.read()
        os.waitpid(child, 0)
        end, growth = json.loads(text)
        return end, growth
    before = peak_mb()
    try:
        with processor_time_limit(SECONDS):
            end = f"read: {read()}"
    except (UserError, ValueError) as error:
        end = f"{type(error).__name__}: {error}"
    except BaseException as error:
        end = f"not foreseen: {error!r}"
    with os.fdopen(to_parent, "w") as file:
        json.dump([end, peak_mb() - before], file)
    os._exit(0)


def peak_mb() -> float:
    """The most memory that was resident (proc(5)); a child begins with what it got."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
