"""Predictions for a whole set of crystals, unreadable ones included; columns of samples.db."""

from collections.abc import Mapping

import numpy as np

from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.oracles.predict import Predictions, predict
from crystal_diffusion_jax.structures.reading import Inputs


def predict_inputs(inputs: Inputs, oracle: str) -> Predictions:
    """Predictions for all S crystals, including those without a structure.

    Raises:
      UserError: unknown oracle, or its weights cannot be downloaded.
    """
    indices = [i for i, structure in enumerate(inputs.structures) if structure is not None]
    readable = [structure for structure in inputs.structures if structure is not None]
    predictions = predict(readable, oracle)
    values = np.full(len(inputs.structures), np.nan)
    values[indices] = predictions.values
    failures = {indices[i]: reason for i, reason in predictions.failures.items()}
    return Predictions(values, dict(sorted((inputs.failures | failures).items())))


def prediction_columns(
    spec: DatasetSpec, values: np.ndarray, failures: Mapping[int, str]
) -> dict[str, list[float | str | None]]:
    """Columns of samples.db.

    Args:
      spec: the data set, for the name of its property.
      values: [S] predictions, NaN for none.
      failures: why there is none, by index.
    """
    name = f"predicted_{spec.property_name}"
    reasons = [failures.get(index) for index in range(len(values))]
    return {name: values.tolist(), f"{name}_failure": reasons}
