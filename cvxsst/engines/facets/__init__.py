"""The facets engine: argmax over P of <u, z> - sum phi(z_i) in z alone, whatever the declaration is lifted by.

    P = {z : E z = e,  low <= z <= high,  G z <= h}

Lifted declarations have hundreds of columns where z has dozens, and polytopes thousands of facets of which a solution
touches few: none at all in nine of ten spanning trees on 10 nodes at T = 1, four at T = 0.1.

- ``description``: E, the bounds and G, from the family (``@family.facets``: a list or a separation; or from its
  structures), else from the declaration, its lifted columns eliminated if they are few; once for each polytope;
- ``newton``: Newton's method on the dual with a working set of rows of G, all instances at once;
- ``derivative``: on the face that E and the tight rows span, differentiable again.

*Proof.* z = phi*'(u - R'mu) is stationary by construction, and counts as a solution only if no inequality is violated:
all of the list, or what an exact separation finds; and of a declaration, none of its rows as they were written
(``lifting``). The residual is the largest of these misses, in units of z, or how far z moves with the last digit of u.
With r rows at a time the cost of a step is O(r^2 n + r^3) an instance, and a
separation; 5 steps as a rule at T = 1, 20 at T = 0.1, and about one for each facet that is tight.

Measured beside kkt, forward and backward of 128 and of 1,024 instances, one thread: spanning_tree(10), BinaryEntropy,
62 and 149 times as fast, arborescence(5) 4 and 10 times, correlated_k_subset(10, 3), the worst, 1.6 and 3.3 times
(``python -m benchmarks.engines peers``).
"""

from cvxsst.engines.facets.engine import Facets

__all__ = ["Facets"]
