"""The train state, the jitted train steps, and the jitted validation step."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Int, Key

from crystal_diffusion_jax import denoising
from crystal_diffusion_jax.config import LossConfig
from crystal_diffusion_jax.crystals import Crystals
from crystal_diffusion_jax.data.batches import Batch
from crystal_diffusion_jax.diffusion.schedules import NoiseSchedule
from crystal_diffusion_jax.models.denoiser import Denoiser
from crystal_diffusion_jax.models.embeddings import Condition
from crystal_diffusion_jax.runtime import devices, parallel
from crystal_diffusion_jax.training.loss import NoisyBatch, diffusion_loss, noise_batch

Params = Float[Array, " weights"]
# The vector of weights -> the parameters of the denoiser
Unflatten = Callable[[Params], Any]


@flax.struct.dataclass
class TrainState:
    """All that changes during training.

    The weights are one vector, so that the optimizer is a handful of operations instead of a
    handful per weight matrix, and the gradient one all-reduce between devices.

    Attributes:
      step: steps taken.
      params: the weights; `Unflatten` gives them their names and shapes.
      ema_params: their exponential moving average.
      opt_state: optax's.
    """

    step: Int[Array, ""]
    params: Params
    ema_params: Params
    opt_state: Any


# (crystals, properties, weight), as `noise_batch` takes them
Arrays = tuple[Crystals, Float[Array, "crystals properties"], Float[Array, " crystals"]]
Metrics = dict[str, Float[Array, "..."]]
# (weights, rows) -> (metrics, gradient)
LossAndGradient = Callable[[Params, NoisyBatch], tuple[Metrics, Params]]
# (state, batches with a leading axis of steps, key) -> (state, metrics with that axis)
TrainSteps = Callable[[TrainState, Arrays, Key[Array, ""]], tuple[TrainState, Metrics]]
# (state, batch, key) -> metrics
EvaluationStep = Callable[[TrainState, Arrays, Key[Array, ""]], Metrics]


def initial_params(
    denoiser: Denoiser, key: Key[Array, ""], batch: Batch
) -> tuple[Params, Unflatten]:
    """Fresh weights as one vector, and its layout; only the shapes of `batch` matter."""
    layouts: list[Unflatten] = []

    def initialise(key: Key[Array, ""], crystals: Crystals, properties: Array) -> Params:
        condition = Condition(
            values=jnp.zeros_like(properties), present=jnp.ones(properties.shape, bool)
        )
        tree = denoiser.init(key, crystals, jnp.ones(1, jnp.int32), condition)["params"]
        vector, unflatten = jax.flatten_util.ravel_pytree(tree)
        layouts.append(unflatten)  # known from the shapes alone
        return vector

    # One crystal is enough for the shapes, and faster to compile.
    rows = jax.tree.map(lambda array: array[:1], (batch.crystals, batch.properties))
    params = jax.jit(initialise, compiler_options=devices.options_to_run_once())(key, *rows)
    return params, layouts[0]


def initial_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jnp.copy(params),
        opt_state=optimizer.init(params),
    )


def loss_and_gradient(
    denoiser: Denoiser, unflatten: Unflatten, schedule: NoiseSchedule, config: LossConfig
) -> LossAndGradient:
    """The parts of the loss, and its gradient, that some rows of a batch contribute."""

    def call(params: Params, rows: NoisyBatch) -> tuple[Metrics, Params]:
        loss = functools.partial(_loss, denoiser, unflatten, schedule, config, rows)
        (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return metrics, gradient

    return call


def make_train_steps(
    denoiser: Denoiser,
    unflatten: Unflatten,
    schedule: NoiseSchedule,
    config: LossConfig,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    mesh: Mesh,
    cached_elements: int | None = None,
) -> TrainSteps:
    """Optimizer steps as one jitted scan, each batch split over the mesh.

    The key of step n is fold_in(key, n), so a resumed run draws the same noise. The state's memory
    is reused: the state passed in must not be used again. `cached_elements` is that of
    `parallel.sum_over_rows`.
    """
    gradient_of = loss_and_gradient(denoiser, unflatten, schedule, config)

    def train_steps(state: TrainState, batches: Arrays, key: Array) -> tuple[TrainState, Metrics]:
        size = elements_per_crystal(denoiser, batches[0])
        batch_gradient = parallel.sum_over_rows(gradient_of, size, mesh, cached_elements)

        def train_step(state: TrainState, batch: Arrays) -> tuple[TrainState, Metrics]:
            noisy = noise_batch(
                jax.random.fold_in(key, state.step),
                *batch,
                denoiser.num_species,
                schedule,
                config.condition_dropout,
                config.species_given,
            )
            metrics, gradient = batch_gradient(state.params, noisy)
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            # A short memory at first, so that the average forgets the initial weights.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)
            metrics |= {"grad_norm": optax.tree.norm(gradient)}
            new_state = TrainState(
                step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state
            )
            return new_state, metrics

        return jax.lax.scan(train_step, state, batches)

    replicated = devices.replicated(mesh)
    return jax.jit(
        train_steps,
        in_shardings=(replicated, devices.by_batch(mesh, axis=1), replicated),
        out_shardings=replicated,
        donate_argnums=0,
        compiler_options=devices.compiler_options(),
    )


def make_evaluation_step(
    denoiser: Denoiser,
    unflatten: Unflatten,
    schedule: NoiseSchedule,
    config: LossConfig,
    mesh: Mesh,
) -> EvaluationStep:
    """The jitted loss of the averaged weights, with every property given.

    If species are given in training, also that of crystals of which nothing but these is given,
    with names that begin with "given_".
    """

    def losses(params: Params, rows: NoisyBatch) -> Metrics:
        return _loss(denoiser, unflatten, schedule, config, rows, params)[1]

    def evaluation_step(state: TrainState, batch: Arrays, key: Key[Array, ""]) -> Metrics:
        size = elements_per_crystal(denoiser, batch[0])
        mean = parallel.sum_over_rows(losses, size, mesh)
        draw = functools.partial(noise_batch, key, *batch, denoiser.num_species, schedule)
        metrics: Metrics = mean(state.ema_params, draw(condition_dropout=0.0))
        if config.species_given:
            hidden = float(config.condition_dropout > 0)
            given = mean(state.ema_params, draw(condition_dropout=hidden, species_given=1.0))
            metrics |= {f"given_{name}": given[name] for name in ("lattice", "frac_coords")}
        return metrics

    replicated = devices.replicated(mesh)
    return jax.jit(
        evaluation_step,
        in_shardings=(replicated, devices.by_batch(mesh), replicated),
        out_shardings=replicated,
        compiler_options=devices.compiler_options(),
    )


def _loss(
    denoiser: Denoiser,
    unflatten: Unflatten,
    schedule: NoiseSchedule,
    config: LossConfig,
    rows: NoisyBatch,
    params: Params,
) -> tuple[Float[Array, ""], Metrics]:
    denoise = denoising.bind(denoiser, unflatten(params))
    mean_free_score = denoiser.config.mean_free_score
    loss, parts = diffusion_loss(denoise, rows, schedule, config, mean_free_score)
    return loss, {"loss": loss, **parts}


def elements_per_crystal(denoiser: Denoiser, crystals: Crystals) -> int:
    """Size of the hidden layer of a pair MLP."""
    num_atoms: int = crystals.mask.shape[-1]
    return num_atoms**2 * denoiser.config.pair_hidden_width
