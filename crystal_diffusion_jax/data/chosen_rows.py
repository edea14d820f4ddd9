"""Which rows of a data set stand for all of them."""

import numpy as np

_SEED = 0


def chosen_rows(size: int, num: int) -> list[int]:
    """The first `num` of the rows of a data set in a random, but fixed order; all for 0, in order.

    Args:
      size: rows of the data set.
      num: how many.
    """
    if num == 0:
        return list(range(size))
    return np.random.default_rng(_SEED).permutation(size)[:num].tolist()
