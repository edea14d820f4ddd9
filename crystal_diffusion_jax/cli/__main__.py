"""The console script: `crystal-diffusion COMMAND --flag=value ...`."""

import importlib
import sys

from crystal_diffusion_jax.errors import did_you_mean

COMMANDS = {
    "train": "train a model, or resume a run",
    "sample": "generate crystals with a requested property",
    "discover": "from a request to a shortlist: sample, screen, relax, rank, report",
    "merge": "join the parts of one request",
    "evaluate": "score crystals against a data set",
    "match": "score predicted crystals against those of the same compositions",
    "report": "write a page about crystals: pictures, scores, tables",
    "predict": "predict the property of crystals with an oracle",
    "relax": "relax crystals with an interatomic potential",
    "prepare": "read a data set or download the networks in advance",
    "animate": "draw how crystals emerge from noise",
}


def main() -> None:
    """Runs a command; only its own modules are imported."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("crystal-diffusion COMMAND --flag=value ...\n")
        print("\n".join(f"  {name:10}{what}" for name, what in COMMANDS.items()))
        print("\ncrystal-diffusion COMMAND --help explains the flags of a command.")
        return
    if name not in COMMANDS:
        suggestion = did_you_mean(name, COMMANDS)
        print(
            f"error: unknown command {name}; choose from {', '.join(COMMANDS)}{suggestion}",
            file=sys.stderr,
        )
        sys.exit(2)
    from crystal_diffusion_jax.cli import program
    from crystal_diffusion_jax.commands import SCRIPT

    sys.argv = [f"{SCRIPT} {name}", *sys.argv[2:]]
    program.run(importlib.import_module(f"crystal_diffusion_jax.cli.{name}").main)


if __name__ == "__main__":
    main()
