"""What was asked of the property that the oracle predicts, and how far a prediction is from it."""

import dataclasses

import numpy as np

from crystal_diffusion_jax.data.datasets import DatasetSpec
from crystal_diffusion_jax.oracles import domain
from crystal_diffusion_jax.request import Request

# Of the width of the training values: what still counts as an answer to a requested value. As SR5
# does at the low end, it lets in a twentieth of the scale.
_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Goal:
    """A requested value or range of a known data set's property.

    Attributes:
      low: lowest requested value.
      high: highest requested value, equal to `low` for a single value.
      lowest: the lowest training value or less was asked for, so that values below are as good.
      threshold: at or below this value, SR5's, a crystal answers such a request.
      tolerance: an answer to a single value is at most this far from it.
      unit: of all of them.
    """

    low: float
    high: float
    lowest: bool
    threshold: float
    tolerance: float
    unit: str

    @property
    def is_range(self) -> bool:
        """Whether a range was asked for, whose inside is all as good."""
        return self.low < self.high

    @property
    def asked(self) -> float | str:
        """The requested value, or the range in words."""
        return f"{self.low:.6g} to {self.high:.6g}" if self.is_range else self.low

    def differences(self, values: np.ndarray) -> np.ndarray:
        """Distance of [n] predictions from what was asked, [n]; NaN without a prediction."""
        above = np.maximum(values - self.high, 0.0)
        return above if self.lowest else np.maximum(self.low - values, above)

    def met(self, values: np.ndarray) -> np.ndarray:
        """Whether [n] predictions answer the request, [n] bool; False without a prediction."""
        if self.lowest:
            return values <= self.threshold
        return self.differences(values) <= (0.0 if self.is_range else self.tolerance)

    @property
    def rule(self) -> str:
        """`met` in words."""
        if self.lowest:
            return f"predicted at most {self.threshold:.4g} {self.unit} (SR5)"
        if self.is_range:
            return f"predicted {self.asked} {self.unit}, as asked"
        return f"predicted within {self.tolerance:.2g} {self.unit} of {self.low:.6g}"


def goal(spec: DatasetSpec | None, request: Request | None) -> Goal | None:
    """What was asked of the data set's property; None if nothing was, or if it is another one."""
    if spec is None or request is None or spec.property_name not in request.target:
        return None
    return goal_of(spec, *request.target[spec.property_name])


def goal_of(spec: DatasetSpec, low: float, high: float) -> Goal:
    """What a request for a range of the data set's property means."""
    smallest, largest = domain.load(spec.name).values
    return Goal(
        low=low,
        high=high,
        # Rounding of float32 lies between the label and the value that a model keeps of it.
        lowest=high <= smallest + 1e-6 * abs(smallest),
        threshold=spec.success_thresholds[0],
        tolerance=_TOLERANCE * (largest - smallest),
        unit=spec.unit,
    )
