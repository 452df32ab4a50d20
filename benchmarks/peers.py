"""Other ways to the same z: each peer becomes a differentiable function u ``(B, n)`` -> z ``(B, n)`` of PyTorch.

All solve the presolved form of the polytope,  max <u, z> - f(z)  over  A x = b, G x <= h,  x = (z, y),  as a user would
state it, with the peer's own tolerances unless the name says otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch
from cvxpylayers.torch import CvxpyLayer

import cvxsst
from benchmarks.measuring import NotApplicableError, Solve, peer, softmax_by
from cvxsst.regularizers import Separable


def _program(P: cvxsst.Polytope, regularizer: Separable) -> tuple[cp.Problem, cp.Variable, cp.Parameter]:
    form = P.presolved.form
    x, u = cp.Variable(form.columns), cp.Parameter(form.n)
    objective = cp.Minimize(regularizer.expression(x[: form.n]) - u @ x[: form.n])
    constraints = [form.A @ x == form.b] if form.A.shape[0] else []
    return cp.Problem(objective, [*constraints, form.G @ x <= form.h]), x, u


def cvxpylayer(P: cvxsst.Polytope, regularizer: Separable, **arguments: Any) -> Solve:
    """CvxpyLayer as shipped: diffcp, its default solver and tolerances."""
    problem, x, u = _program(P, regularizer)
    layer = CvxpyLayer(problem, parameters=[u], variables=[x])

    def solve(values: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return layer(values, solver_args=arguments)[0][:, : P.size]

    return solve


def cvxpylayer_clarabel(P: cvxsst.Polytope, regularizer: Separable) -> Solve:
    """CvxpyLayer with Clarabel and tolerances of 1e-12."""
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12)
    return cvxpylayer(P, regularizer, solve_method="Clarabel", **tight)


def moreau(P: cvxsst.Polytope, regularizer: Separable) -> Solve:
    """Moreau's interior point method, called directly (its automatic choice may return infeasible points)."""
    package, torch_package = peer("moreau"), peer("moreau.torch")
    problem, x, u = _program(P, regularizer)
    u.value = np.zeros(P.size)
    data, _, _ = problem.get_problem_data(cp.CLARABEL)
    n, (m, _) = len(data["c"]), data["A"].shape
    quadratic = sp.csr_array(data["P"]) if data.get("P") is not None else sp.csr_array((n, n))
    quadratic = sp.csr_array(quadratic + sp.triu(quadratic, 1).T) if _is_upper(quadratic) else quadratic
    A = sp.csr_array(data["A"])
    start = data["param_prob"].var_id_to_col[x.id]
    dims = data["dims"]
    cones = package.Cones(num_zero_cones=dims.zero, num_nonneg_cones=dims.nonneg, num_exp_cones=dims.exp)

    def tensor(a: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(a), dtype=torch.int64 if a.dtype.kind == "i" else torch.float64)

    solvers: dict[int, Any] = {}

    def solve(values: torch.Tensor) -> torch.Tensor:
        batch = len(values)
        if batch not in solvers:
            settings = package.Settings(solver="ipm", device="cpu", batch_size=batch, enable_grad=True)
            structure = [tensor(a) for a in (quadratic.indptr, quadratic.indices, A.indptr, A.indices)]
            solvers[batch] = torch_package.Solver(n, m, *structure, cones=cones, settings=settings)
        q = tensor(data["c"]).expand(batch, -1).clone()
        q = torch.cat([q[:, :start], q[:, start : start + P.size] - values, q[:, start + P.size :]], dim=1)
        b = tensor(data["b"]).expand(batch, -1)
        solution = solvers[batch].solve(tensor(quadratic.data), tensor(A.data), q, b)
        return solution.x[:, start : start + P.size]

    return solve


def _is_upper(matrix: sp.csr_array) -> bool:
    return sp.tril(matrix, -1).nnz == 0


def _quadratic_program(P: cvxsst.Polytope, regularizer: Separable) -> tuple[torch.Tensor, ...]:
    """Q, G, h, A, b of  min <z, Q z> / 2 - <u, z>  over  G z <= h, A z = b."""
    if not regularizer.is_quadratic:
        raise NotApplicableError("solves quadratic programs only")
    if P.presolved.form.lifted:
        raise NotApplicableError("needs a strictly convex objective")
    form = P.presolved.form
    G, h, A, b = (torch.from_numpy(a) for a in (form.G.toarray(), form.h, form.A.toarray(), form.b))
    return torch.eye(P.size, dtype=torch.float64), G, h, A, b


def qpth(P: cvxsst.Polytope, regularizer: Separable) -> Solve:
    """qpth (Amos and Kolter 2017): batched dense primal-dual interior point."""
    Q, G, h, A, b = _quadratic_program(P, regularizer)
    package = peer("qpth.qp")
    return lambda values: package.QPFunction(verbose=-1, check_Q_spd=False)(Q, -values, G, h, A, b)


def proxsuite(P: cvxsst.Polytope, regularizer: Separable) -> Solve:
    """ProxQP's layer (Bambade et al. 2024)."""
    Q, G, h, A, b = _quadratic_program(P, regularizer)
    package = peer("proxsuite.torch.qplayer")
    low = torch.full_like(h, -1e20)
    return lambda values: package.QPFunction()(Q, -values, A, b, G, low, h)[0]


PEERS: dict[str, Callable[[cvxsst.Polytope, Separable], Solve]] = {
    "cvxsst kkt": partial(softmax_by, "kkt"),
    "CvxpyLayer": cvxpylayer,
    "CvxpyLayer, Clarabel": cvxpylayer_clarabel,
    "Moreau ipm": moreau,
    "qpth": qpth,
    "proxsuite": proxsuite,
}
