"""The programs as a GPU or a TPU would get them, lowered here, without either.

Nothing is compiled or run. What an accelerator would stumble over shows in the lowered program:
calls into Python or into a library, of which we need none on any platform, and 64-bit numbers,
which most GPUs compute at a small fraction of their speed and TPUs do not have.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.extend.mlir import ir
from jax.interpreters import mlir

from crystal_diffusion_jax.config import (
    ADAM,
    CONDITIONINGS,
    MUON,
    OPTIMIZERS,
    SECOND_ORDER,
    SOLVERS,
    DenoiserConfig,
    LossConfig,
    NoiseConfig,
    TrainingConfig,
)
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.diffusion.schedules import noise_schedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.oracles import dimenet
from crystal_diffusion_jax.oracles.batching import BatchShape, CrystalGraph, pad
from crystal_diffusion_jax.runtime import devices
from crystal_diffusion_jax.sampling.sampler import make_sampler
from crystal_diffusion_jax.sampling.trajectory import recording
from crystal_diffusion_jax.training.optimizer import make_optimizer
from crystal_diffusion_jax.training.step import (
    initial_state,
    make_evaluation_step,
    make_train_steps,
)

# JAX counts the numbers that it draws in 64 bits and halves the counter at once, on every platform.
COUNTER = "iota_2x32_shape"

MESH = devices.data_mesh()
ROWS = 2 * MESH.size
NUM_SPECIES = 4
NUM_PROPERTIES = 2
NOISE = NoiseConfig(num_steps=10)
STEPS_PER_CALL = 2
# Beyond the paper's network.
EXTRAS = {"num_radial_features": 2, "num_rank_features": 2}
OXIDATION_STATES = ((1,), (2, 3), (-2,), (-1, 1))


def problems(program: Callable[..., Any], *arguments: Any) -> list[str]:
    """What in a program a GPU or a TPU cannot run, or cannot run fast.

    Raises:
      NotImplementedError: it calls back into Python.
    """
    jitted: Any = program
    # One module for both: where they differ it has a branch for each.
    module = export.export(jitted, platforms=("cuda", "tpu"))(*arguments).mlir_module()
    found = []

    def look(operation: Any) -> Any:
        # Types of values alone: in attributes, shapes and lists of devices are 64-bit integers.
        for value in operation.results:
            # A single 64-bit integer counts the turns of a loop, in which jax 0.11 sums up.
            wide = re.search(r"(?:[<x](?=f)|x)(f64|u?i64)>", str(value.type))
            # What is computed with a constant shows by itself; the constant's origin is not kept.
            counts = operation.name == "stablehlo.constant" or COUNTER in str(operation.location)
            if wide and not (wide[1] == "ui64" and counts):
                found.append(f"{operation.name} gives {wide[1]}")
        if operation.name == "stablehlo.custom_call":
            found.append(f"calls {operation.attributes['call_target_name']}")
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        ir.Module.parse(module).operation.walk(look)
    return found


def network(conditioning: str, **more: Any) -> Denoiser:
    """The smallest one with a layer of each kind."""
    config = DenoiserConfig(
        conditioning,
        width=8,
        num_blocks=1,
        num_heads=2,
        num_frequencies=2,
        pair_hidden_width=8,
        **more,
    )
    return Denoiser(config, NUM_SPECIES, ((-1.0, 0.0, 1.0),) * NUM_PROPERTIES)


def keys(*shape: int) -> Any:
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), shape))


def shapes(num_atoms: int, *leading: int) -> tuple[Crystals, Any, Any]:
    """Those of crystals, of their properties and of one flag for each property."""

    def of(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((*leading, *shape), dtype)

    crystals = Crystals(
        lattice=of(jnp.float32, 3, 3),
        frac_coords=of(jnp.float32, num_atoms, 3),
        species=of(jnp.int32, num_atoms),
        mask=of(bool, num_atoms),
    )
    return crystals, of(jnp.float32, NUM_PROPERTIES), of(bool, NUM_PROPERTIES)


def initialisation(denoiser: Denoiser) -> tuple[Any, ...]:
    """The program that draws fresh weights, and its arguments."""
    crystals, values, present = shapes(2, 1)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.jit(denoiser.init), keys(), crystals, t, Condition(values, present)


def weights(denoiser: Denoiser) -> Any:
    """Zeros of their shapes."""
    init, *arguments = initialisation(denoiser)
    like = jax.eval_shape(init, *arguments)["params"]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)


def test_fresh_weights() -> None:
    assert problems(*initialisation(network("cds", **EXTRAS))) == []


# Each conditioning, optimizer and form of the attention, which depends on the number of atoms.
TRAINED = [
    ("cdi", MUON, 5, {}),
    ("cds", MUON, 12, EXTRAS),
    ("none", ADAM, 50, {"mean_free_score": False}),
    ("cds", ADAM, 5, {"dtype": "bfloat16", **EXTRAS}),
]


@pytest.mark.parametrize(("conditioning", "optimizer", "num_atoms", "more"), TRAINED)
def test_training(conditioning: str, optimizer: str, num_atoms: int, more: dict[str, Any]) -> None:
    denoiser = network(conditioning, **more)
    vector, unflatten = jax.flatten_util.ravel_pytree(weights(denoiser))
    made = make_optimizer(TrainingConfig(optimizer=optimizer), unflatten)
    state = jax.eval_shape(lambda params: initial_state(params, made), vector)
    schedule, loss = noise_schedule(NOISE), LossConfig()
    steps = make_train_steps(denoiser, unflatten, schedule, loss, made, 0.999, MESH)

    def batch(*leading: int) -> tuple[Any, ...]:
        crystals, properties, _ = shapes(num_atoms, *leading)
        return crystals, properties, jax.ShapeDtypeStruct(leading, jnp.float32)

    assert problems(steps, state, batch(STEPS_PER_CALL, ROWS), keys()) == []
    evaluation = make_evaluation_step(denoiser, unflatten, schedule, loss, MESH)
    assert problems(evaluation, state, batch(ROWS), keys()) == []


def test_no_way_to_train_is_left_out() -> None:
    conditionings, optimizers, *_ = zip(*TRAINED, strict=True)
    assert set(conditionings) == set(CONDITIONINGS)
    assert set(optimizers) == set(OPTIMIZERS)


# The elements that may appear are an argument of every sampler, and a chemical system is demanded
# of finished crystals. The number of steps is the length of an array of times.
SAMPLERS: list[dict[str, Any]] = [
    {"use_guidance": True, "num_steps": 4},
    {"use_corrector": False, "renoising_steps": 2, "process": recording(3)},
    {"solver": SECOND_ORDER, "num_steps": 4, "averaging_rounds": 2},
    {"oxidation_states": OXIDATION_STATES, "use_guidance": True, "solver": SECOND_ORDER},
    {"start": 3, "use_guidance": True, "solver": SECOND_ORDER, "renoising_steps": 2},
]


@pytest.mark.parametrize("options", SAMPLERS, ids="-".join)
def test_sampling(options: dict[str, Any]) -> None:
    denoiser = network("cds", **EXTRAS)
    given = {"num_steps": NOISE.num_steps, "use_guidance": False} | options
    sampler = make_sampler(denoiser, NOISE, mesh=MESH, **given)
    crystals, values, present = shapes(5, ROWS)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    allowed = jax.ShapeDtypeStruct((NUM_SPECIES,), bool)
    # A chain that starts from crystals is given them with their species.
    given_crystals = crystals if "start" in options else None
    told: Any = jax.ShapeDtypeStruct((ROWS,), bool) if given_crystals is not None else None
    condition = Condition(values, present, told)
    request = (keys(ROWS), crystals.mask, condition, number, number, allowed, given_crystals)
    assert problems(sampler, weights(denoiser), *request) == []


def test_no_way_to_sample_is_left_out() -> None:
    options = set(inspect.signature(make_sampler.__wrapped__).parameters)
    varied = {name for case in SAMPLERS for name in case}
    assert options - varied == {"denoiser", "noise_config", "mesh"}
    assert {case.get("solver", SOLVERS[0]) for case in SAMPLERS} == set(SOLVERS)


def oracle_weights(width: int = 8) -> dict[str, np.ndarray]:
    """A network of the oracle's layout, narrower."""
    radial, spherical, basis = dimenet.NUM_RADIAL, dimenet.NUM_SPHERICAL, 4
    square = (width, width)
    layers: dict[str, tuple[int, ...]] = {
        "rbf.freq": (radial,),
        "emb.emb.weight": (95, width),
        "emb.lin_rbf.weight": (width, radial),
        "emb.lin.weight": (width, 3 * width),
        "emb.lin.bias": (width,),
    }
    for block in (f"interaction_blocks.{number}" for number in range(dimenet.NUM_BLOCKS)):
        layers |= {
            f"{block}.lin_rbf1.weight": (basis, radial),
            f"{block}.lin_rbf2.weight": (width, basis),
            f"{block}.lin_sbf1.weight": (basis, spherical * radial),
            f"{block}.lin_sbf2.weight": (width, basis),
        }
        names = ["lin_ji", "lin_kj", "lin_down", "lin_up", "lin"]
        for residual in ("before_skip.0", "after_skip.0", "after_skip.1"):
            names += [f"layers_{residual}.lin1", f"layers_{residual}.lin2"]
        layers |= {f"{block}.{name}.weight": square for name in names}
    for block in (f"output_blocks.{number}" for number in range(dimenet.NUM_BLOCKS + 1)):
        layers |= {f"{block}.lin_rbf.weight": (width, radial), f"{block}.lin.weight": (1, width)}
        layers |= {f"{block}.{name}.weight": square for name in ("lin_up", "lins.0", "lins.1")}
        layers |= {f"{block}.lins.2.weight": square}
    return {name: np.zeros(shape, np.float32) for name, shape in layers.items()}


def test_the_oracle() -> None:
    bonds = np.array([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0]])
    graph = CrystalGraph(3.0 * np.eye(3), np.zeros((2, 3)), np.array([6, 8]), bonds)
    batch = pad([graph], BatchShape(crystals=2, atoms=4, bonds=8, triplets=8))
    assert problems(jax.jit(dimenet.forward), oracle_weights(), batch) == []


def test_a_double_is_found() -> None:
    with jax.enable_x64(True):
        found = problems(jax.jit(lambda x: jnp.float32(jnp.float64(x) * 2)), np.float32(1))
    assert "stablehlo.multiply gives f64" in found


def test_a_call_into_python_is_refused() -> None:
    like = jax.ShapeDtypeStruct((), jnp.float32)
    program = jax.jit(lambda x: jax.pure_callback(np.sin, like, x))
    with pytest.raises(NotImplementedError, match="python_callback"):
        problems(program, np.float32(1))


def test_a_call_into_another_library_is_found() -> None:
    found = problems(jax.jit(lambda x: jnp.linalg.eigh(x)[0]), np.eye(3, dtype=np.float32))
    assert any(problem.startswith("calls ") for problem in found)
