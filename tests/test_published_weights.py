"""published_weights.py: tensors are read, and nothing in a file is ever executed."""

import builtins
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crystal_diffusion_jax import published_weights
from crystal_diffusion_jax.errors import UserError

NUMBERS = np.arange(12, dtype="<f4")


def archive(pickled: bytes, storages: dict[str, bytes] | None = None) -> io.BytesIO:
    """A file in PyTorch's format."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        target.writestr("name/data.pkl", pickled)
        for key, content in (storages or {"0": NUMBERS.tobytes()}).items():
            target.writestr(f"name/data/{key}", content)
    return file


def text(value: str) -> bytes:
    """Opcode for a string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(offset: int, shape: tuple[int, ...], stride: tuple[int, ...], size: int = 12) -> bytes:
    """Opcodes that build a tensor on storage "0", as `torch.save` writes them."""
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
        + b"K" + bytes([size]) + b"tQ"
    )  # fmt: skip
    numbers = [b"(" + b"".join(b"K" + bytes([n]) for n in ns) + b"t" for ns in (shape, stride)]
    layout = b"K" + bytes([offset]) + numbers[0] + numbers[1]
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + layout + hooks + b"tR"


def test_numbers_of_double_precision_are_read_as_such() -> None:
    pickled = b"\x80\x02" + tensor(1, (2,), (1,)).replace(b"FloatStorage", b"DoubleStorage") + b"."
    read = published_weights.read(archive(pickled, {"0": NUMBERS.astype("<f8").tobytes()}), "file")
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, [1.0, 2.0])


def test_tensors_are_read_with_their_shape_and_offset() -> None:
    pickled = b"\x80\x02}(" + text("a") + tensor(2, (2, 3), (3, 1)) + text("b") + tensor(0, (), ())
    read = published_weights.read(archive(pickled + b"u."), "file")
    np.testing.assert_array_equal(read["a"], NUMBERS[2:8].reshape(2, 3))
    assert read["b"].shape == ()
    assert read["a"].dtype == np.float32


def test_objects_of_the_training_program_are_inert() -> None:
    callback = b"cpytorch_lightning.callbacks.early_stopping\nEarlyStopping\n"
    built = callback + b")\x81}" + text("patience") + b"K\x05sb"
    file = archive(b"\x80\x02](" + callback + built + b"e.")
    inert = {("pytorch_lightning.callbacks.early_stopping", "EarlyStopping")}
    read = published_weights.read(file, "file", inert)
    assert issubclass(read[0], published_weights.Inert)
    assert read[1].state == {"patience": 5}


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


FUNCTIONS = [os.mkdir, builtins.exec, builtins.eval, builtins.getattr, builtins.__import__, io.open]


@pytest.mark.parametrize(
    ("function", "protocol"),
    # PyTorch's own protocol is 2.
    [*((each, 2) for each in FUNCTIONS), *((os.mkdir, number) for number in (0, 1, 3, 4, 5))],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_file_that_calls_anything_else_is_refused_and_not_executed(
    tmp_path: Any, function: Callable[..., Any], protocol: int
) -> None:
    mark = tmp_path / "executed"
    arguments = {
        os.mkdir: (str(mark),),
        builtins.exec: (f"import os; os.mkdir({str(mark)!r})",),
        builtins.eval: (f"__import__('os').mkdir({str(mark)!r})",),
        builtins.getattr: ("text", "upper"),
        builtins.__import__: ("os",),
        io.open: (str(mark), "w"),
    }[function]
    pickled = pickle.dumps({"state_dict": Calls(function, *arguments)}, protocol=protocol)
    with pytest.raises(UserError, match=f"names .*{function.__name__}"):
        published_weights.read(archive(pickled), "file")
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "torch\nHalfStorage",
        "torch._utils\n_rebuild_qtensor",
        "collections\nCounter",
        "typing\ncast",
    ],
)
def test_names_beside_the_known_ones_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=name.replace("\n", ".")):
        published_weights.read(archive(b"\x80\x02c" + name.encode() + b"\n."), "file")


def test_the_older_opcode_for_instances_is_refused_as_well() -> None:
    with pytest.raises(UserError, match=r"os\.getcwd"):
        published_weights.read(archive(b"(ios\ngetcwd\n."), "file")


@pytest.mark.parametrize(
    "file",
    [
        io.BytesIO(b""),
        io.BytesIO(b"no archive"),
        archive(b""),
        archive(b"\x80\x02}"),
        archive(b"\x80\x02" + tensor(0, (3,), (1,), size=13) + b"."),
        archive(b"\x80\x02" + tensor(11, (3,), (1,)) + b"."),
        archive(b"\x80\x02" + tensor(0, (2, 3), (1, 2)) + b"."),
        archive(b"\x80\x02" + tensor(0, (3,), (1,)) + b".", {"1": b""}),
    ],
    ids=[
        "empty",
        "not a zip",
        "no pickle",
        "truncated",
        "size",
        "offset",
        "strides",
        "missing storage",
    ],
)
def test_a_damaged_file_is_one_sentence(file: io.BytesIO) -> None:
    with pytest.raises(UserError, match=r"^checkpoint is not a readable file of tensors"):
        published_weights.read(file, "checkpoint")


def test_a_small_file_cannot_ask_for_endless_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_weights, "_MAX_TENSORS", 1000)
    few, many = (b"\x80\x02](" + count * tensor(0, (12,), (1,)) + b"e." for count in (20, 21))
    # Each has 48 bytes as a storage and as a tensor.
    assert len(published_weights.read(archive(few), "file")) == 20
    with pytest.raises(UserError, match="more than 1000 bytes of tensors"):
        published_weights.read(archive(many), "file")
