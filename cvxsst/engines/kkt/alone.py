"""What the derivative needs of an instance that was solved as a declaration of its own: there z is known, not what
holds it (``cvxsst.geometry.held``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cvxsst.engines.kkt.parameters import ParametricState
from cvxsst.geometry.held import STEEP, Held
from cvxsst.polytope import Polytope

FIRM = 1e18  # the weight of a row that holds


@dataclass(frozen=True)
class Alone:
    """The weight of each row of G ``(p,)``, (y, nu, lam) in the units of the program, and whether the derivative in
    theta is not told by them: where P(theta) is flat, an entry that may only move to one side of where it stands, at an
    end of a domain where phi' is infinite."""

    weight: torch.Tensor
    beside: torch.Tensor
    untold: bool

    @staticmethod
    def of(state: ParametricState, P: Polytope, theta: np.ndarray, u: torch.Tensor, z: torch.Tensor) -> Alone:
        """For theta ``(q,)`` and u, z ``(n,)``; P is the polytope at theta."""
        affine, f, cpu = state.affine, state.f, torch.device("cpu")
        free = torch.from_numpy(affine.free)
        if not len(free):
            return Alone(torch.zeros(state.kept_rows), torch.zeros(0), False)
        inner = z.cpu()[free]
        slope = f.slope(inner).numpy()
        missing = (u.cpu()[free] - f.gradient(f.inside(inner, 1e-300))).numpy()
        held = Held.of(affine.form.at(theta), inner.numpy(), slope, missing)
        weight = torch.zeros(len(held.lam), dtype=torch.float64)
        weight[torch.from_numpy(held.rows)] = FIRM if state.shared_box(cpu) is None else 1.0
        unit = state.shared_program(cpu).unit[len(free) :, 0].numpy()
        r, s = state.scales
        beside = np.concatenate([held.x[len(free) :] / unit, held.nu / r, held.lam / s])
        flat = np.isin(affine.free, P.presolved.fixed) & (slope <= STEEP)
        return Alone(weight, torch.from_numpy(beside), bool(f.steep and flat.any()))
