"""The engine ``"vertices"``: the Euclidean softmax by an active set of vertices, P known by its argmax alone.

    maximize  <u, z> - |z|^2 / 2  over P = conv V     =     the point of P nearest to u

*Method.* Wolfe's minimum-norm point, for a whole batch: z is the nearest point of a simplex of vertices, its
*corral*; the argmax v of u - z joins it, or proves that z is right (``projection``):

    <u - z, v' - z> <= <u - z, v - z> = 0   for all v' in P            (Frank-Wolfe gap; |z - z*|^2 <= gap)

One call of the oracle a step for all instances that are not done, about as many steps as the face of the solution has
dimensions (two for a vertex); each instance stops on its own. Of corrals the inverse of a bordered Gram matrix is
kept, changed by a matrix of rank one for each vertex that comes or goes (``corral``).

*Derivative.* dz/du is the orthogonal projection Q Q' onto the directions of the face in whose relative interior z
lies: those of its corral, completed by further calls of the oracle where that may not span it (``face``). It does not
change with u, up to kinks, so that the second derivative is 0.

*Oracle.* One product with all vertices where these are few and listed (``@family.structures``), else the family's
(``@family.argmax``), else linear programs one by one. -inf is a malus for the oracle.

*Residual.* Where no vertex is better than z, up to rounding, z solves the problem for utilities without the part of
u - z along the face, and is as far from the solution as these from u at most; else sqrt(gap).

*Cost*, for each instance, on a face of k dimensions in n: about k calls of the oracle, k (n + k) numbers a call;
n k numbers kept for the derivative.

Measured, forward and backward of 128 instances, T = 1, one thread, against kkt: spanning_tree(6) 8 times as fast,
arborescence(5) and correlated_k_subset(10, 3) 7 times, matching(6) 4 and matching(10) 60 times; without an oracle of
the family 1 to 20 times as slow (``python -m benchmarks.engines``). 4,096 of spanning_tree(10) take 254 MB.

Sources: Wolfe 1976, "Finding the nearest point in a polytope"; Lacoste-Julien and Jaggi 2015, "On the global linear
convergence of Frank-Wolfe optimization variants"; Niculae, Martins, Blondel and Cardie 2018, "SparseMAP".
"""

from cvxsst.engines.vertices.engine import Vertices

__all__ = ["Vertices"]
