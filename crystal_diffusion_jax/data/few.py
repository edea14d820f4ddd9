"""Few crystals: from which number on they are few, and what a person has to be told then."""

# Below it, the recipe is fine-tuning a shipped model: at equal time its crystals are saner
# (docs/own_data.md). The number itself is a convention.
FINE_TUNE_BELOW = 2_000
# Below these, what a model has learnt of its property, and its validation loss, say little.
FEW_CRYSTALS = 200
FEW_VALIDATION_CRYSTALS = 20
# The recipes for few and for many crystals, files in configs/.
FINE_TUNING, FROM_SCRATCH = "own_data_finetune", "own_data"


def recipe(num_crystals: int) -> str:
    """The config for so many crystals of one's own."""
    return FINE_TUNING if num_crystals < FINE_TUNE_BELOW else FROM_SCRATCH


def warnings(num_train: int, num_val: int, fine_tuned: bool) -> list[str]:
    """What the log of a training says before the first step, a sentence each.

    Args:
      num_train: crystals that are trained on.
      num_val: crystals that are validated on.
      fine_tuned: whether it starts from a trained model.
    """
    sentences = []
    if not fine_tuned and num_train < FINE_TUNE_BELOW:
        sentences.append(
            f"{num_train:,} crystals are few for fresh weights: --config={FINE_TUNING} starts from "
            "a shipped model and gives saner crystals sooner"
        )
    if num_train < FEW_CRYSTALS:
        sentences.append(
            f"{num_train} crystals are too few to learn how the property depends on the crystal; "
            "expect crystals of their kind, and check the property of each by another method"
        )
    if num_val < FEW_VALIDATION_CRYSTALS:
        sentences.append(
            f"the validation loss of {num_val} crystal{'s'[: num_val - 1]} is a rough guide to "
            "when training should end"
        )
    return sentences


def banner(num_train: int) -> str | None:
    """What the card and the page of a model of few crystals say first; None for many."""
    if num_train >= FINE_TUNE_BELOW:
        return None
    sentence = f"Trained on {num_train:,} crystal{'s'[: num_train - 1]} only."
    if num_train < FEW_CRYSTALS:
        return (
            f"{sentence} That is too few to learn how the property depends on the crystal: take "
            "the requested values as a wish, and check each crystal by another method."
        )
    return (
        f"{sentence} Crystals follow the requested values loosely: check the property of each by "
        "another method."
    )
