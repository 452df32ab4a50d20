"""Simulated worms on the connectome of C. elegans, recorded under other names.

    A      which of n = 279 neurons are joined: by a synapse in either direction or an electrical junction, A = A'
    W      N(0, 1) on A, antisymmetric, (W - W') / 2, then divided by 1.1 times its spectral radius: stable dynamics
    Y_0    1,   Y_t = P' W P Y_t-1 + N(0, I),   t = 1 .. 1000: a worm, P its own uniformly random permutation matrix

Neuron i may be the recorded neuron j where their positions along the body differ by less than a radius; some neurons of
each worm are known. A radius of .05 is the published "easy", .1 "hard"; 110, 83, 55, 25 known neurons are 40, 30, 20,
10 %. All worms of a simulation share W.

References: the wiring of Varshney et al. 2011 (WormAtlas); the simulation of Linderman et al. 2017, section 5.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.runs.files import read_arrays, write_arrays

# Beside the checkout. From www.wormatlas.org/neuronalwiring.html, saved as CSV; the PyPI package cect has the rows too.
TABLES = Path(__file__).parents[3] / "shared" / "data" / "celegans"
WIRES, PLACES = "NeuronConnect.csv", "NeuronType.csv"
BETWEEN_NEURONS = {"S", "Sp", "R", "Rp", "EJ"}  # synapses sent and received, electrical junctions; not NMJ, to muscles
NEURONS, PAIRS = 279, 2287
REGIONS = ((159, 0.07, 0.23), (88, 0.19, 0.8), (32, 0.79, 0.83))  # neurons of head, middle and tail, and where they lie
TIMES = 1000
RADII = {"easy": 0.05, "hard": 0.1}


@dataclass(frozen=True)
class Connectome:
    """``joined`` ``(n, n)``, bool, symmetric; ``positions`` ``(n,)`` along the body, from 0 to 1, ascending."""

    joined: np.ndarray
    positions: np.ndarray


def read(folder: Path) -> Connectome:
    """The published tables: 279 neurons, 2,287 pairs.

    Raises:
        FileNotFoundError: they are not in the folder; says where they are to be had.
        ValueError: other tables; a wire of a neuron without a position.
    """
    if missing := [name for name in (WIRES, PLACES) if not (folder / name).exists()]:
        raise FileNotFoundError(
            f"no {' and '.join(missing)} in {folder}; save the tables of www.wormatlas.org/neuronalwiring.html there "
            "as CSV, or leave out --tables for a random connectome"
        )
    try:
        place = {row["Neuron"].upper(): float(row["Soma Position"]) for row in _rows(folder / PLACES)}
        wires = [
            (row["Neuron 1"].upper(), row["Neuron 2"].upper())  # avfl and avfr are lower case in some rows
            for row in _rows(folder / WIRES)
            if row["Type"] in BETWEEN_NEURONS
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: not the tables of WormAtlas, a column is missing: {error}") from error
    if strangers := sorted({neuron for wire in wires for neuron in wire} - place.keys()):
        raise ValueError(f"{folder / PLACES}: no position of {', '.join(strangers[:5])}")
    names = sorted(place, key=lambda name: (place[name], name))
    number = {name: i for i, name in enumerate(names)}
    joined = np.zeros((len(names), len(names)), dtype=bool)
    for one, other in wires:
        joined[number[one], number[other]] = one != other
    return Connectome(joined | joined.T, np.array([place[name] for name in names]))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def synthetic(seed: int) -> Connectome:
    """As many neurons, as close along the body, and as many pairs as in the worm, which pairs at random."""
    random = np.random.default_rng(seed)
    positions = np.sort(np.concatenate([random.uniform(low, high, count) for count, low, high in REGIONS]))
    i, j = np.triu_indices(NEURONS, 1)
    chosen = random.choice(len(i), PAIRS, replace=False)
    joined = np.zeros((NEURONS, NEURONS), dtype=bool)
    joined[i[chosen], j[chosen]] = True
    return Connectome(joined | joined.T, positions)


def simulate(connectome: Connectome, simulations: int, worms: int, seed: int) -> dict[str, np.ndarray]:
    """W, and for each worm the recorded neuron of every neuron, the order in which neurons become known, and Y_0 ..
    Y_T: ``(simulations, worms, ...)``."""
    n = len(connectome.positions)
    made: dict[str, list[np.ndarray]] = {"weights": [], "places": [], "order": [], "activity": []}
    for source in np.random.SeedSequence(seed).spawn(simulations):
        random = np.random.default_rng(source)
        W = random.standard_normal((n, n)) * connectome.joined
        W = (W - W.T) / 2
        W /= 1.1 * np.abs(np.linalg.eigvals(W)).max()
        places = np.array([random.permutation(n) for _ in range(worms)])
        made["weights"].append(W.astype(np.float32))
        made["places"].append(places)
        made["order"].append(np.array([random.permutation(n) for _ in range(worms)]))
        made["activity"].append(np.array([_recorded(W, place, random) for place in places]))
    return {name: np.array(parts) for name, parts in made.items()}


def _recorded(W: np.ndarray, place: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """``(T + 1, n)``, in single precision: the state in the order of the neurons, then under the worm's own names."""
    Y = np.ones((TIMES + 1, len(W)))
    for t in range(TIMES):
        Y[t + 1] = W @ Y[t] + random.standard_normal(len(W))
    recorded = np.empty_like(Y, dtype=np.float32)
    recorded[:, place] = Y
    return recorded


def save(path: Path, connectome: Connectome, simulated: dict[str, np.ndarray], seed: int) -> str:
    """Writes the data set whole or not at all; returns its checksum."""
    return write_arrays(path, {**vars(connectome), **simulated}, seed=seed)


@dataclass(frozen=True)
class Worms:
    """The worms of a simulation; recordings as sums over time, which are all that a likelihood of W and P needs.

    Args:
        energy: sum |Y_t|^2, ``(worms,)``.
        lagged: sum Y_t Y_t-1', ``(worms, n, n)``.
        past: sum Y_t-1 Y_t-1', ``(worms, n, n)``.
        allowed: [i, j]: neuron i may be the recorded neuron j, ``(worms, n, n)``, bool.
        places: the recorded neuron of each neuron, ``(worms, n)``: not shown to a model.
        known: neurons, ``(worms, n)``, bool.
        joined: pairs of neurons, ``(n, n)``, bool.
        positions: along the body, ``(n,)``.
    """

    energy: torch.Tensor
    lagged: torch.Tensor
    past: torch.Tensor
    allowed: torch.Tensor
    places: torch.Tensor
    known: torch.Tensor
    joined: torch.Tensor
    positions: torch.Tensor

    def __len__(self) -> int:
        return len(self.energy)

    def batch(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        own = ("energy", "lagged", "past", "allowed", "places", "known")
        return {"worms": rows, "joined": self.joined, **{name: getattr(self, name)[rows] for name in own}}


def load(path: Path, simulation: int, known: int, radius: float) -> Worms:
    """One of the simulations, counted cyclically, with so many known neurons in each worm.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: another file than ``cvxsst data connectome`` writes, or a damaged one; more known neurons than it
            has.
    """
    names = ("joined", "positions", "weights", "places", "order", "activity")
    stored = read_arrays(path, names, "simulated worms", "cvxsst data connectome")
    which = simulation % len(stored["activity"])
    Y, places, order = (torch.from_numpy(stored[name][which]) for name in ("activity", "places", "order"))
    n = Y.shape[-1]
    if known > n:
        raise ValueError(f"known: {known} neurons, but {path} has {n}")
    positions = torch.from_numpy(stored["positions"])
    now, before = Y[:, 1:], Y[:, :-1]
    is_known = torch.zeros_like(places, dtype=torch.bool).scatter(1, order[:, :known], True)
    return Worms(
        energy=now.double().square().sum((1, 2)).float(),
        lagged=now.mT @ before,
        past=before.mT @ before,
        allowed=candidates(positions, places, is_known, radius),
        places=places,
        known=is_known,
        joined=torch.from_numpy(stored["joined"]),
        positions=positions,
    )


def candidates(positions: torch.Tensor, places: torch.Tensor, known: torch.Tensor, radius: float) -> torch.Tensor:
    """``(worms, n, n)``, bool: which recorded neurons each neuron may be."""
    neuron = places.argsort(1)  # of each recorded one
    near = (positions[None, :, None] - positions[neuron][:, None, :]).abs() < radius
    mine = places[:, :, None] == torch.arange(len(positions))
    settled = known[:, :, None] | known.gather(1, neuron)[:, None, :]
    return torch.where(settled, mine, near)
