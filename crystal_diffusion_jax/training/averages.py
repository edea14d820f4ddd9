"""The training loss over all padded sizes, from steps that each draw crystals of one size."""

import numpy as np

from crystal_diffusion_jax.data.batches import Batches
from crystal_diffusion_jax.training.checkpoint_files import Losses

GRADIENT_NORM = "grad_norm"
# Size in atoms -> name -> mean loss of a crystal of that size.
BySize = dict[int, dict[str, float]]


class LossAverages:
    """The mean loss of a crystal, each size with its share of the data and its latest mean.

    A mean over steps instead would depend on which sizes happened to be drawn: crystals of
    different sizes have different losses, and the loss of a step grows with its crystals.

    Args:
      batches: the source of the steps.
      latest: means so far.
    """

    def __init__(self, batches: Batches, latest: BySize) -> None:
        self._batches, self._latest = batches, dict(latest)

    def update(self, losses: Losses, step: int) -> tuple[dict[str, float], BySize]:
        """Takes the latest steps into account.

        Args:
          losses: [n] losses and gradient norms of the n steps up to `step`, by name.
          step: steps taken.

        Returns:
          The mean losses over all sizes seen so far, with the mean norm of the gradient; and those
          of each size that the n steps have drawn.
        """
        batches, parts = self._batches, [name for name in losses if name != GRADIENT_NORM]
        count = len(losses[GRADIENT_NORM])
        buckets = np.array([batches.bucket(index) for index in range(step - count, step)])
        new: BySize = {}
        for bucket in np.unique(buckets).tolist():
            drawn = buckets == bucket
            new[batches.sizes[bucket]] = {
                name: float(np.mean(losses[name][drawn])) / batches.factors[bucket]
                for name in parts
            }
        self._latest |= new
        # In a fixed order, so that a resumed run adds up alike.
        seen = [index for index, size in enumerate(batches.sizes) if size in self._latest]
        weights = [batches.shares[index] for index in seen]
        rows = [self._latest[batches.sizes[index]] for index in seen]
        means = {
            name: float(np.average([row[name] for row in rows], weights=weights)) for name in parts
        }
        return means | {GRADIENT_NORM: float(np.mean(losses[GRADIENT_NORM]))}, new
