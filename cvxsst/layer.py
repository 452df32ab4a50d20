"""The softmax as a layer of a network."""

from __future__ import annotations

from typing import Any

import torch

from cvxsst.arguments import checked_temperature
from cvxsst.maps import checked_options, softmax
from cvxsst.opaque import opaque
from cvxsst.polytope import Polytope
from cvxsst.regularizers import Euclidean, Regularizer


class SoftmaxLayer(torch.nn.Module):
    """w -> argmax over z in P of <w, z> - T f(z) as an ``nn.Module``; see ``cvxsst.softmax``.

    Args:
        P: the polytope; where it has parameters, their values are passed at call time, ``layer(w, k=k)``.
        regularizer: f; default ``Euclidean()``.
        temperature: T > 0. A float or tensor becomes a buffer (saved in ``state_dict``), an ``nn.Parameter`` is
            learned.
        engine, backward, on_failure: as in ``cvxsst.softmax``.

    Shape:
        w ``(*batch, *P.shape)`` to z of the same shape, dtype and device; with parameters the batch dimensions of
        their values and of w broadcast.

    Picklable and copyable; a polytope of a family travels by its name and arguments. ``torch.compile`` compiles what
    stands before and after it and calls it as it is (a graph break: ``fullgraph=True`` raises an error).

    Raises:
        ValueError: as ``cvxsst.softmax``; a wrong engine, regularizer or temperature already here.

    Example:
        >>> import torch, cvxsst
        >>> from polytopes import simplex
        >>> layer = cvxsst.SoftmaxLayer(simplex(3), temperature=0.5)
        >>> layer
        SoftmaxLayer(simplex(3), regularizer=Euclidean(), temperature=0.5, engine='auto')
        >>> layer(torch.tensor([0.2, 0.1, 0.0]))
        tensor([0.5333, 0.3333, 0.1333])
    """

    temperature: torch.Tensor

    def __init__(
        self,
        P: Polytope,
        regularizer: Regularizer = Euclidean(),  # noqa: B008 - frozen and without state
        temperature: float | torch.Tensor = 1.0,
        engine: str = "auto",
        *,
        backward: str = "implicit",
        on_failure: str = "raise",
    ):
        super().__init__()
        checked_options(P, regularizer, engine, backward, on_failure)
        if P.theta is not None or not P.parameters:
            regularizer.require_domain(P)
        checked = checked_temperature(temperature, torch.device("cpu"))
        if isinstance(temperature, torch.nn.Parameter):
            self.temperature = temperature
        else:
            self.register_buffer("temperature", torch.as_tensor(checked, dtype=torch.float64).detach().clone())
        self.P, self.regularizer, self.engine = P, regularizer, engine
        self._options: dict[str, Any] = {"backward": backward, "on_failure": on_failure}

    @opaque
    def forward(self, w: torch.Tensor, **parameters: Any) -> torch.Tensor:
        P = self.P.at(**parameters) if parameters else self.P
        return softmax(P, w, self.regularizer, self.temperature, self.engine, **self._options)

    def extra_repr(self) -> str:
        T = self.temperature
        shown = f"{T.item():g}" if T.dim() == 0 else f"tensor of shape {tuple(T.shape)}"
        return f"{self.P!r}, regularizer={self.regularizer!r}, temperature={shown}, engine={self.engine!r}"
