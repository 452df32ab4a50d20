# %% [markdown]
# # Two solvers, the same forward pass, different gradients: who is right?
#
# A question that users of CvxpyLayer asked (cvxpylayers #120): Gumbel-Sinkhorn once as a cone program, once written by
# hand as 20 sweeps. The outputs look alike, the gradients do not. Two solvers cannot settle it. A third one, and
# certificates that trust nobody, can.

# %%
import cvxpy as cp
from cvxpylayers.torch import CvxpyLayer

import cvxsst
from polytopes import birkhoff

n = 4
P, f = birkhoff(n), cvxsst.CategoricalEntropy()

# %% [markdown]
# The two contestants. Both compute z(u), u = w / T: the doubly stochastic matrix that maximizes <u, z> - sum z log z.

# %%
z, u = cp.Variable((n, n)), cp.Parameter((n, n))
objective = cp.Maximize(cp.sum(cp.multiply(u, z)) + cp.sum(cp.entr(z)))
layer = CvxpyLayer(cp.Problem(objective, [cp.sum(z, axis=0) == 1, cp.sum(z, axis=1) == 1]), [u], [z])


def cone_program(u):  # CvxpyLayer takes one batch dimension
    return layer(u.reshape(-1, n, n), solver_args={"solve_method": "Clarabel"})[0].reshape(u.shape)


def sinkhorn(u):
    for _ in range(20):
        u = u - u.logsumexp(-1, keepdim=True)
        u = u - u.logsumexp(-2, keepdim=True)
    return u.exp()


# %%
options = {"n": 6, "scales": (1.0,), "masks": False, "float32": False, "tolerance": 1e-4}
compared = cvxsst.compare(cone_program, sinkhorn, P, f, **options)
print(compared)

# %% [markdown]
# At T = 1 both are right. Below, the *forward* pass of Sinkhorn is wrong, the sweeps have not converged, and the
# *gradient* of the cone program is: its z is good to 1e-4, its vjp wrong by up to 7. Ours:

# %%
print(cvxsst.validate("kkt", P, f, **options | {"tolerance": 1e-6}))
