"""Training steps per second of a DiffCSP-like network in PyTorch; `processor.py` starts it.

    /path/to/venv/bin/python benchmarks/torch_reference.py '{...}'

Runs in an environment of its own with `pip install torch`, and imports nothing of this project. Not
DiffCSP (Jiao et al., arXiv:2309.04475) but like its denoiser: messages over all ordered pairs of
atoms from both, the Gram matrix of the lattice and sines and cosines of f_j - f_i; joint noise on
lattice, coordinates and species; Adam. The argument is a JSON object: `width`, `num_layers`,
`num_atoms`, `batch_size`, `threads`, `repeats`, `num_steps`. Prints the seconds of each repeat.
"""

import json
import sys
import time

import torch
from torch import Tensor, nn

NUM_FREQUENCIES, NUM_SPECIES = 10, 100


def sinusoids(values: Tensor, num: int) -> Tensor:
    """Sines and cosines of 2 pi m x for m = 1..num; the last axis is flattened into them."""
    angles = (2 * torch.pi * values[..., None] * torch.arange(1, num + 1)).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def mlp(inputs: int, width: int) -> nn.Sequential:
    """Two layers with activations."""
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())


class Layer(nn.Module):
    """A message along every edge, their mean at every atom, an update with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.message = mlp(2 * width + 9 + 6 * NUM_FREQUENCIES, width)
        self.update = mlp(2 * width, width)

    def forward(self, atoms: Tensor, edges: Tensor, of_edge: Tensor, num_atoms: int) -> Tensor:
        """[atoms, width] -> the same."""
        source, target = edges
        inputs = self.norm(atoms)
        messages = self.message(torch.cat([inputs[source], inputs[target], of_edge], dim=-1))
        total = torch.zeros_like(inputs).index_add(0, source, messages)
        return atoms + self.update(torch.cat([inputs, total / num_atoms], dim=-1))


class Denoiser(nn.Module):
    """Noise of lattice, coordinates and species of crystals of one size."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.species, self.join = nn.Linear(NUM_SPECIES, width), nn.Linear(2 * width, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in (9, 3, NUM_SPECIES))

    def forward(self, lattice: Tensor, coords: Tensor, species: Tensor, t: Tensor) -> list[Tensor]:
        """[B, 3, 3], [B, N, 3], [B, N, species], [B] times -> noise of the first three."""
        num_crystals, num_atoms, _ = coords.shape
        crystal = torch.arange(num_crystals).repeat_interleave(num_atoms**2)
        pairs = torch.cartesian_prod(torch.arange(num_atoms), torch.arange(num_atoms)).T
        edges = pairs.repeat(1, num_crystals) + num_atoms * crystal
        flat = coords.flatten(0, 1)
        difference = (flat[edges[1]] - flat[edges[0]]) % 1.0
        gram = (lattice @ lattice.mT).flatten(1)[crystal]
        of_edge = torch.cat([gram, sinusoids(difference, NUM_FREQUENCIES)], dim=-1)
        time = sinusoids(t[:, None], self.join.out_features // 2)
        of_atom = [self.species(species).flatten(0, 1), time.repeat_interleave(num_atoms, dim=0)]
        atoms = self.join(torch.cat(of_atom, dim=-1))
        for layer in self.layers:
            atoms = layer(atoms, edges, of_edge, num_atoms)
        atoms = self.norm(atoms).unflatten(0, (num_crystals, num_atoms))
        of_cell, of_coords, of_species = self.heads
        of_lattice = of_cell(atoms.mean(dim=1)).view(-1, 3, 3) @ lattice
        return [of_lattice, of_coords(atoms), of_species(atoms)]


def main() -> None:
    """Measures what is asked for and prints it."""
    request = json.loads(sys.argv[1])
    size, num_atoms = request["batch_size"], request["num_atoms"]
    torch.set_num_threads(request["threads"])
    denoiser = Denoiser(request["width"], request["num_layers"])
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    lattice, coords = torch.randn(size, 3, 3), torch.rand(size, num_atoms, 3)
    species = nn.functional.one_hot(torch.randint(100, (size, num_atoms)), NUM_SPECIES).float()

    def step() -> None:
        share = torch.rand(size, 1, 1)  # of the noise
        noise = [torch.randn_like(clean) for clean in (lattice, coords, species)]
        kept, added = (1 - share).sqrt(), share.sqrt()
        noisy = (kept * lattice + added * noise[0], (coords + 0.5 * share * noise[1]) % 1.0)
        outputs = denoiser(*noisy, kept * species + added * noise[2], share.flatten())
        errors = [
            (found - true).square().mean() for found, true in zip(outputs, noise, strict=True)
        ]
        loss = torch.stack(errors).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    seconds = []
    for repeat in range(request["repeats"] + 1):  # the first one without a clock
        begin = time.perf_counter()
        for _ in range(request["num_steps"]):
            step()
        seconds += [time.perf_counter() - begin] * (repeat > 0)
    num_parameters = sum(weights.numel() for weights in denoiser.parameters())
    print(
        json.dumps({"seconds": seconds, "parameters": num_parameters, "torch": torch.__version__})
    )


if __name__ == "__main__":
    main()
