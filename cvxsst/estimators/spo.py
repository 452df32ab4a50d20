"""Smart "predict, then optimize": learning utilities by what the decisions that they lead to are worth.

    regret(w, c) = max <c, z> - <c, argmax(w)>                c: the true utilities, w: the predicted ones

is piecewise constant in w. SPO+ is its convex upper bound.
"""

from __future__ import annotations

import torch

from cvxsst.estimators.surrogate import checked, inner
from cvxsst.maps import argmax
from cvxsst.polytope import Polytope


def regret(P: Polytope, w: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """What is lost by deciding with w where c holds, ``(*batch,)``, at least 0; without gradient.

    *Cost*: two oracle calls.
    """
    _check_pair(P, w, c)
    return inner(P, c, argmax(P, c) - argmax(P, w)).detach()


def spo_plus_loss(P: Polytope, w: torch.Tensor, c: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
    """max <2w - c, z'> - <2w - c, z>,  z = argmax(c): at least the regret of w, and 0 at w = c.

    *Gradient of*: itself, 2 (argmax(2w - c) - z): exact, a subgradient where the argmax is not unique; convex in w.
    *Cost*: two oracle calls, one where z is given; none backward.
    *Reference*: Elmachtoub and Grigas 2022 (Smart "predict, then optimize"), definition 3 (there costs are minimized).

    Args:
        P: the polytope.
        w, c: predicted and true utilities, finite, ``(*batch, *P.shape)``, one shape.
        z: argmax(c), if it is known already.

    Returns:
        ``(*batch,)``.

    Raises:
        ValueError: w and c of different shapes; NaN or infinite entries.

    Example:
        >>> import torch, cvxsst
        >>> from cvxsst.estimators import regret, spo_plus_loss
        >>> from polytopes import k_subset
        >>> w, c = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([2.0, 1.0, 0.0])
        >>> spo_plus_loss(k_subset(3, 1), w, c), regret(k_subset(3, 1), w, c)
        (tensor(3.), tensor(1.))
    """
    _check_pair(P, w, c)
    z = argmax(P, c) if z is None else z.to(w)
    ahead = 2 * w - c.detach()
    return inner(P, ahead, argmax(P, ahead) - z)


def _check_pair(P: Polytope, w: torch.Tensor, c: torch.Tensor) -> None:
    checked(P, w)
    checked(P, c)
    if w.shape != c.shape:
        raise ValueError(f"c: expected the shape of w, {tuple(w.shape)}, got {tuple(c.shape)}")
    if not (torch.isfinite(w).all() and torch.isfinite(c).all()):
        raise ValueError("w, c: must be finite; a forbidden entry has no regret")
