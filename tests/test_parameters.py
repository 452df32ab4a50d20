"""Polytopes with parameters: at values they are the declarations with numbers, their derivatives are differences."""

import copy
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxsst
import polytopes
from cvxsst.engines import ENGINES

D = torch.float64
SMOOTH = [cvxsst.Euclidean(), cvxsst.CategoricalEntropy(), cvxsst.BinaryEntropy()]
STEP = 1e-5


@cvxsst.polytope
def budget(n):
    z, k = cp.Variable(n), cp.Parameter(nonneg=True, name="k")
    return z, [z >= 0, z <= 1, cp.sum(z) <= k]


@cvxsst.polytope
def exactly(n):
    z, k = cp.Variable(n), cp.Parameter(name="k")
    return z, [z >= 0, z <= 1, cp.sum(z) == k]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(*shape, low=0.0, high=1.0, seed=0):
    return low + (high - low) * torch.rand(*shape, dtype=D, generator=generator(seed))


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=D, generator=generator(seed))


# Each declares (variable, constraints) for parameters, or for numbers in their place, and draws values for a batch.


def knapsack(p):
    z = cp.Variable(5, nonneg=True)
    return z, [z <= 1, p["c"] @ z <= p["k"]]


def boxes(p):
    z = cp.Variable((2, 3))
    return z, [z >= p["l"], z <= p["u"], z >= 0, z <= 1, cp.sum(z) == 2]


def plan(p):
    z = cp.Variable((3, 4))
    return z, [z >= 0, z <= 1, cp.sum(z, axis=1) == p["r"], cp.sum(z, axis=0) == p["c"]]


def near(p):
    z = cp.Variable(4)
    return z, [cp.norm1(z - p["m"]) <= p["t"], z[0] == p["m"][0], z >= 0, z <= 1]


def covered(p):
    z, y = cp.Variable(4), cp.Variable(4)
    return z, [z >= 0, z <= 1, y >= cp.multiply(p["s"], z) - 0.3, y >= 0, cp.sum(y) <= p["k"], cp.sum(z) >= 0.5]


def weighed(p):
    z = cp.Variable(5)
    return z, [z >= 0, z <= 1, p["a"] @ z == p["b"]]


DECLARED = {
    knapsack: lambda B: {"c": uniform(B, 5, low=0.2, high=1.2), "k": uniform(B, low=0.5, high=1.5, seed=1)},
    boxes: lambda B: {"l": uniform(B, 2, 3, high=0.3), "u": uniform(B, 2, 3, low=0.4, high=0.9, seed=1)},
    plan: lambda B: {"r": torch.softmax(normal(B, 3), -1), "c": torch.softmax(normal(B, 4, seed=1), -1)},
    near: lambda B: {"m": uniform(B, 4, low=0.2, high=0.8), "t": uniform(B, low=0.2, high=1.0, seed=1)},
    covered: lambda B: {"s": normal(B, 4), "k": uniform(B, low=0.2, high=0.6, seed=1)},
    weighed: lambda B: {"a": uniform(B, 5, low=0.5, high=1.5), "b": uniform(B, low=1.0, high=2.0, seed=1)},
}
each_declaration = pytest.mark.parametrize("declare", DECLARED, ids=lambda declare: declare.__name__)
_KEPT: dict = {}


def declared(declare) -> cvxsst.Polytope:
    if declare not in _KEPT:
        shapes = {name: tuple(value.shape[1:]) for name, value in DECLARED[declare](1).items()}
        z, constraints = declare({name: cp.Parameter(shape, name=name) for name, shape in shapes.items()})
        _KEPT[declare] = cvxsst.Polytope(z, constraints, declare.__name__)
    return _KEPT[declare]


def with_numbers(declare, values, i) -> cvxsst.Polytope:
    return cvxsst.Polytope(*declare({name: value[i].numpy() for name, value in values.items()}), recognize=False)


@pytest.mark.parametrize("engine", ["kkt", "cvxpylayer"])
@pytest.mark.parametrize("f", SMOOTH, ids=repr)
@each_declaration
def test_at_values_it_is_the_declaration_with_numbers(declare, f, engine):
    P, values, w = declared(declare), DECLARED[declare](3), normal(3, *declared(declare).shape, seed=2)
    z = cvxsst.softmax(P.at(**values), w, f, 0.5, engine=engine)
    for i in range(3):
        Q = with_numbers(declare, values, i)
        assert torch.allclose(z[i], cvxsst.softmax(Q, w[i], f, 0.5, engine="kkt"), atol=1e-7)
        assert torch.equal(cvxsst.argmax(P.at(**values), w)[i], cvxsst.argmax(Q, w[i], engine="lp"))


def consistent(name, x):
    """Of the marginals of a plan only those directions that leave the sums alike."""
    return x - x.mean(-1, keepdim=True) if name in ("r", "c") and x.shape[-1] in (3, 4) else x


@pytest.mark.parametrize("engine", ["kkt", "cvxpylayer"])
@pytest.mark.parametrize("f", SMOOTH, ids=repr)
@each_declaration
def test_gradients_are_central_differences(declare, f, engine):
    """For the parameters, w and T, each along a random direction, in every instance."""
    P, B = declared(declare), 4
    values = DECLARED[declare](B)
    inputs = [*values.values(), normal(B, *P.shape, seed=2), torch.full((B,), 0.7, dtype=D)]
    g = normal(B, *P.shape, seed=3)

    def pulled(*leaves):
        *first, w, T = leaves
        z = cvxsst.softmax(P.at(**dict(zip(values, first, strict=True))), w, f, T, engine=engine)
        return (z * g).reshape(B, -1).sum(1)

    leaves = [x.clone().requires_grad_() for x in inputs]
    gradients = torch.autograd.grad(pulled(*leaves).sum(), leaves)
    for k, name in enumerate([*values, "w", "T"]):
        d = consistent(name, normal(*inputs[k].shape, seed=4 + k))
        sides = [pulled(*(x + s * STEP * d if j == k else x for j, x in enumerate(inputs))) for s in (1, -1)]
        difference = (sides[0] - sides[1]) / (2 * STEP)
        assert torch.allclose((gradients[k] * d).reshape(B, -1).sum(1), difference, rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("f", [cvxsst.BinaryEntropy(), cvxsst.CategoricalEntropy()], ids=repr)
@each_declaration
def test_second_derivatives_and_forward_mode(declare, f):
    P, B = declared(declare), 2
    values = DECLARED[declare](B)
    w = normal(B, *P.shape, seed=2).requires_grad_()
    leaves = [x.clone().requires_grad_() for x in values.values()]

    def solve(*inputs):
        *first, w = inputs
        # both marginals by one softmax: other values leave no plan
        first = [torch.softmax(x, -1) for x in first] if declare is plan else first
        return cvxsst.softmax(P.at(**dict(zip(values, first, strict=True))), w, f, engine="kkt")

    inputs = (*leaves, w)
    assert torch.autograd.gradcheck(solve, inputs, atol=1e-6, rtol=1e-5, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, inputs, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_vmap_is_the_batch():
    P, k, w = budget(4), torch.tensor([0.7, 1.5, 2.2], dtype=D), normal(3, 4)

    def solve(k, w):
        return cvxsst.softmax(P.at(k=k), w, cvxsst.BinaryEntropy(), 0.5)

    assert torch.allclose(torch.func.vmap(solve)(k, w), solve(k, w))
    reverse, forward = (
        torch.func.vmap(jac(solve, argnums=(0, 1)))(k, w) for jac in (torch.func.jacrev, torch.func.jacfwd)
    )
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(reverse, forward, strict=True))


def test_batch_dimensions_broadcast_and_dtypes_are_those_of_w():
    P = budget(4)
    z = cvxsst.softmax(P.at(k=torch.tensor([[1.0], [2.0]])), torch.ones(3, 4))
    assert (z.shape, z.dtype) == ((2, 3, 4), torch.float32)
    assert torch.allclose(z.sum(-1), torch.tensor([[1.0], [2.0]]).expand(2, 3))
    k = torch.ones(0, requires_grad=True)
    empty = cvxsst.softmax(P.at(k=k), torch.ones(4))
    assert empty.shape == (0, 4)
    assert torch.autograd.grad(empty.sum(), k)[0].shape == (0,)
    with pytest.raises(ValueError, match=r"values of its parameters: batch shape \(3,\) does not broadcast"):
        cvxsst.softmax(P.at(k=torch.ones(3)), torch.ones(2, 4))


def test_a_thousand_values_and_one_alone_are_the_same():
    P, k, w = budget(6), uniform(1000, low=0.0, high=5.0), normal(1000, 6)
    z = cvxsst.softmax(P.at(k=k), w, cvxsst.CategoricalEntropy())
    alone = torch.stack([cvxsst.softmax(P.at(k=k[i]), w[i], cvxsst.CategoricalEntropy()) for i in range(0, 1000, 250)])
    assert torch.allclose(z[::250], alone, atol=1e-9)
    assert bool((z.sum(-1) <= k + 1e-9).all())


@pytest.mark.parametrize("engine", ["kkt", "cvxpylayer", "auto"])
def test_a_flat_value_is_solved_and_spoils_no_other(engine):
    """k = 0 leaves 0 alone; as k rises from there, all of it goes to the largest utility."""
    P, w = budget(4), torch.tensor([0.0, 2.0, -1.0, 1.0], dtype=D)
    k = torch.tensor([0.0, 1.5, 0.0], dtype=D, requires_grad=True)
    z, info = cvxsst.softmax(P.at(k=k), w, engine=engine, return_info=True)
    assert bool(info.converged.all())
    assert torch.allclose(z[::2], torch.zeros(2, 4, dtype=D), atol=1e-8)
    assert torch.allclose(z[1], torch.tensor([0.0, 1.0, 0.0, 0.5], dtype=D), atol=1e-7)
    slope = torch.autograd.grad((z * torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=D)).sum(), k)[0]
    assert torch.allclose(slope, torch.tensor([2.0, 8.0, 2.0], dtype=D), atol=1e-5)


@pytest.mark.parametrize("engine", ["kkt", "cvxpylayer"])
def test_where_all_are_held_the_sum_still_moves_with_k(engine):
    """Ties and integers: at a vertex z has one-sided derivatives in k only, and each of them keeps sum z = k."""
    k = torch.tensor([0.0, 2.0, 4.0], dtype=D, requires_grad=True)
    w = torch.tensor([9.0, 9.0, -9.0, -9.0], dtype=D)
    z = cvxsst.softmax(exactly(4).at(k=k), w, engine=engine)
    assert torch.allclose(torch.autograd.grad(z.sum(), k)[0], torch.ones(3, dtype=D), atol=1e-6)


@pytest.mark.parametrize("engine", ["kkt", "cvxpylayer", "auto"])
def test_values_that_leave_no_point_are_told_by_instance_and_parameter(engine):
    P, w = exactly(4), torch.zeros(2, 4, dtype=D)
    k = torch.tensor([[2.0], [5.0]], dtype=D, requires_grad=True)
    with pytest.raises(
        cvxsst.EmptyPolytopeError, match=r"k: the values of instance \(1, 0\) leave no point of exactly"
    ):
        cvxsst.softmax(P.at(k=k), w, engine=engine)
    z, info = cvxsst.softmax(P.at(k=k), w, engine=engine, on_failure="nan", return_info=True)
    assert info.empty.tolist() == [[False, False], [True, True]]
    assert torch.allclose(z[0], torch.full((2, 4), 0.5, dtype=D))
    assert bool(z[1].isnan().all())
    gradient = torch.autograd.grad(z.nan_to_num().sum(), k)[0]
    assert torch.allclose(gradient[0], torch.tensor(2.0, dtype=D))
    assert bool(gradient[1].isnan())
    with pytest.raises(cvxsst.EmptyPolytopeError, match=r"instance \(1, 0\)"):
        cvxsst.argmax(P.at(k=k), w)


def test_only_the_parameters_that_contradict_are_blamed():
    z, k, c = cp.Variable(3), cp.Parameter(name="k"), cp.Parameter(3, name="c")
    P = cvxsst.Polytope(z, [z >= 0, z <= 1, cp.sum(z) == k, z >= c])
    with pytest.raises(cvxsst.EmptyPolytopeError, match=r"^c: "):
        cvxsst.softmax(P.at(k=1.0, c=torch.tensor([2.0, 0.0, 0.0])), torch.zeros(3))
    with pytest.raises(cvxsst.EmptyPolytopeError, match=r"^c, k: "):
        cvxsst.softmax(P.at(k=1.0, c=torch.tensor([0.9, 0.9, 0.0])), torch.zeros(3))


def test_values_without_a_bound_are_told():
    z, m = cp.Variable(2), cp.Parameter(2, name="m")
    P = cvxsst.Polytope(z, [z >= 0, m @ z <= 1])
    values = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    with pytest.raises(cvxsst.UnboundedPolytopeError, match=r"m: at the values of instance \(1,\)"):
        cvxsst.softmax(P.at(m=values), torch.ones(2))
    x, info = cvxsst.softmax(P.at(m=values), torch.ones(2), on_failure="nan", return_info=True)
    assert info.converged.tolist() == [True, False]
    assert torch.allclose(x[0], torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("f", SMOOTH, ids=repr)
def test_forbidden_entries_are_those_of_the_declaration_with_numbers(f):
    w = normal(2, 5).masked_fill(torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0]]) > 0, -torch.inf)
    k = torch.tensor([1.5, 2.5], dtype=D)
    z = cvxsst.softmax(exactly(5).at(k=k), w, f)
    for i in range(2):
        x = cp.Variable(5)
        Q = cvxsst.Polytope(x, [x >= 0, x <= 1, cp.sum(x) == k[i].item()], recognize=False)
        assert torch.allclose(z[i], cvxsst.softmax(Q, w[i], f, engine="kkt"), atol=1e-7)
    with pytest.raises(cvxsst.EmptyPolytopeError, match="-inf entries of instances"):
        cvxsst.softmax(exactly(5).at(k=torch.tensor([4.5, 4.5])), w, f)


def test_marginals_off_by_rounding_are_brought_together():
    r, c = torch.softmax(normal(3).float(), 0), torch.softmax(normal(4, seed=1).float(), 0)
    assert float(r.double().sum() - c.double().sum()) != 0
    P = declared(plan)
    z = cvxsst.softmax(P.at(r=r, c=c), normal(3, 4), cvxsst.CategoricalEntropy())
    assert torch.allclose(z.sum(1).float(), r, atol=1e-6)
    with pytest.raises(cvxsst.EmptyPolytopeError, match=r"c, r: the values leave no point"):
        cvxsst.softmax(P.at(r=r + 0.1, c=c), normal(3, 4))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "needs a value for k"),
        ({"k": 1.0, "j": 2.0}, "has no parameter j"),
        ({"k": -1.0}, r"k: -1.0 .* in \[0, inf\]"),
        ({"k": torch.tensor([1.0, torch.nan])}, r"k: nan at index \(1,\)"),
        ({"k": "many"}, "k: expected a tensor"),
        ({"k": torch.tensor(1j)}, "k: expected real numbers"),
    ],
)
def test_wrong_values_are_refused_in_words(values, says):
    with pytest.raises(ValueError, match=says):
        budget(4).at(**values)


def test_shapes_signs_and_bounds_of_values():
    z, c = cp.Variable(3), cp.Parameter(3, name="c", bounds=[0, 2])
    P = cvxsst.Polytope(z, [z >= 0, z <= c])
    assert P.parameters == {"c": (3,)}
    with pytest.raises(
        ValueError, match=r"c: the last dimensions must be the shape of the parameter, \(3,\), got \(2,\)"
    ):
        P.at(c=torch.ones(2))
    with pytest.raises(ValueError, match=r"c: 3.0 at index \(0, 1\).*\[0, 2\]"):
        P.at(c=torch.tensor([[1.0, 3.0, 1.0]]))
    with pytest.raises(ValueError, match="has no parameters"):
        cvxsst.Polytope(z, [z >= 0, z <= 1]).at(k=1.0)


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        (lambda z, p: z <= cp.Parameter((3, 3), symmetric=True, name="s")[0], "s is declared symmetric"),
        (lambda z, p: z <= cp.inv_pos(p), r"constraints\[2\].*not follow CVXPY's rules|not affine in its parameters"),
        (lambda z, p: cp.sum(z) <= p * p, r"constraints\[2\].*not affine in its parameters"),
        (lambda z, p: z <= p + cp.Parameter(name="p"), "two parameters are called 'p'"),
    ],
)
def test_declarations_that_are_not_affine_in_their_parameters_are_refused(constraint, says):
    z, p = cp.Variable(3), cp.Parameter(pos=True, name="p")
    with pytest.raises(ValueError, match=says):
        cvxsst.Polytope(z, [z >= 0, z <= 1, constraint(z, p)])


def test_a_declaration_that_no_value_helps_is_empty_at_once():
    z, k = cp.Variable(3), cp.Parameter(nonneg=True, name="k")
    with pytest.raises(cvxsst.EmptyPolytopeError, match="whatever k may be"):
        cvxsst.Polytope(z, [z >= 0, z <= 1, cp.sum(z) == -1 - k])


def test_without_values_everything_asks_for_them():
    P, w = budget(4), torch.zeros(4)
    for use in (cvxsst.softmax, cvxsst.argmax):
        with pytest.raises(ValueError, match=r"budget\(4\) has parameters \(k\).*P.at\(k=...\)"):
            use(P, w)
    with pytest.raises(ValueError, match="has parameters"):
        cvxsst.audit(P)


def test_engines_that_take_no_parameters_say_so():
    for name in set(ENGINES) - {"fast", "kkt", "cvxpylayer"}:
        with pytest.raises(cvxsst.NoFastPathError, match=f"{name} takes no parameters"):
            cvxsst.softmax(budget(4).at(k=1.0), torch.zeros(4), engine=name)
    k = torch.tensor(1.0, requires_grad=True)
    with pytest.raises(ValueError, match="no gradient for the values of parameters"):
        cvxsst.softmax(budget(4).at(k=k), torch.zeros(4), backward="finite_difference")


def test_the_domain_is_that_of_the_values():
    z, c = cp.Variable(3), cp.Parameter(3, name="c")
    P = cvxsst.Polytope(z, [z >= c, z <= c + 0.5])
    w = torch.zeros(3)
    assert torch.allclose(cvxsst.softmax(P.at(c=torch.zeros(3)), w, cvxsst.BinaryEntropy()), torch.full((3,), 0.5))
    with pytest.raises(ValueError, match="defined for entries in"):
        cvxsst.softmax(P.at(c=torch.tensor([0.0, 0.7, 0.0])), w, cvxsst.BinaryEntropy())


def test_certificates_are_those_of_each_value():
    P, k, w = budget(4), torch.tensor([1.0, 2.0], dtype=D), torch.ones(2, 4, dtype=D)
    z = cvxsst.softmax(P.at(k=k), w)
    right = cvxsst.certificate(P.at(k=k), z, w, cvxsst.Euclidean())
    assert float(right.infeasibility.max()) < 1e-9
    assert float(right.gap.max()) < 1e-9
    swapped = cvxsst.certificate(P.at(k=k), z.flip(0), w, cvxsst.Euclidean())
    # the sum is 2 where 1 is allowed: 1/4 in each entry; a sum of 1 where 2 is allowed: (1 - 1/4) 1 is to be had
    assert torch.allclose(swapped.infeasibility, torch.tensor([0.25, 0.0], dtype=D), atol=1e-8)
    assert float(swapped.gap[1]) == pytest.approx(0.75)


def test_distributions_have_the_batch_of_both():
    k = torch.tensor([1.0, 2.0], requires_grad=True)
    utilities = torch.distributions.Gumbel(torch.zeros(4), 1.0)
    torch.manual_seed(0)
    X = cvxsst.StochasticArgmax(utilities, exactly(4).at(k=k))
    assert X.batch_shape == (2,)
    assert torch.equal(X.sample((3,)).sum(-1), torch.tensor([1.0, 2.0]).expand(3, 2))
    Y = cvxsst.StochasticSoftmax(utilities, exactly(4).at(k=k), hard=True)
    z = Y.rsample((3,))
    assert bool(Y.support.check(z.detach()).all())
    assert not bool(Y.support.check(torch.ones(2, 4)).any())
    assert torch.autograd.grad(z.sum(), k)[0].shape == (2,)


def test_a_layer_takes_parameters_at_call_time():
    layer = pickle.loads(pickle.dumps(cvxsst.SoftmaxLayer(budget(4), cvxsst.BinaryEntropy())))
    w, k = torch.full((4,), 3.0), torch.tensor([1.0, 2.0], requires_grad=True)
    z = layer(w, k=k)
    assert torch.allclose(z, (k / 4)[:, None].expand(2, 4), atol=1e-6)
    assert torch.allclose(torch.autograd.grad(z[:, 0].sum(), k)[0], torch.tensor(0.25))
    with pytest.raises(ValueError, match="has parameters"):
        layer(w)


def test_it_travels_and_shows():
    P, k = budget(4), torch.tensor([1.0, 2.0])
    assert repr(P.at(k=3.0)) == "budget(4).at(k=3.0)"
    assert repr(P.at(k=k)) == "budget(4).at(k=tensor of shape (2,))"
    z, c = cp.Variable(3), cp.Parameter(name="c")
    for Q, values in ((P, {"k": k}), (cvxsst.Polytope(z, [z >= 0, cp.sum(z) == c]), {"c": k})):
        A = Q.at(**values)
        w = torch.arange(Q.size, dtype=torch.float32)
        travelled = pickle.loads(pickle.dumps(A))
        assert torch.equal(cvxsst.softmax(travelled, w), cvxsst.softmax(A, w))
        assert copy.deepcopy(A) is A
        assert pickle.loads(pickle.dumps(Q)).parameters == Q.parameters


def test_audit_and_validate_take_one_value():
    P = budget(3)
    fractional = cvxsst.audit(P.at(k=1.5)).fractional
    assert fractional is not None
    assert np.allclose(np.sort(fractional), [0, 0.5, 1])
    assert cvxsst.audit(P.at(k=2.0)).passed
    for k in (torch.ones(2), None):
        with pytest.raises(ValueError, match=r"one polytope for each instance|has parameters"):
            cvxsst.audit(P if k is None else P.at(k=k))
    assert cvxsst.validate("kkt", P.at(k=1.5), cvxsst.BinaryEntropy(), n=4, temperatures=(1.0,)).passed


# The page of transport plans.


@pytest.mark.parametrize("T", [1.0, 0.1, 0.01])
def test_sinkhorn_is_the_generic_engine_also_where_it_does_not_arrive(T):
    """At T = 0.01 and at marginals of 0 the generic engine takes over; no instance spoils another."""
    r, c, w = torch.softmax(normal(4, 3), -1), torch.softmax(normal(4, 5, seed=1), -1), normal(4, 3, 5, seed=2)
    r[0], c[1] = torch.tensor([0.0, 0.5, 0.5]), torch.tensor([0.0, 0.25, 0.25, 0.25, 0.25])
    c.requires_grad_()
    P, f = polytopes.transport(3, 5).at(r=r, c=c), cvxsst.CategoricalEntropy()
    z, info = cvxsst.softmax(P, w, f, T, return_info=True)
    assert bool(info.converged.all())
    assert torch.allclose(z.sum(-1), r, atol=1e-9)
    assert torch.allclose(z, cvxsst.softmax(P, w, f, T, engine="kkt"), atol=1e-8)
    assert T != 0.01 or "kkt" in info.engine
    if T == 1.0:
        assert torch.allclose(z, cvxsst.softmax(P, w, f, T, engine="cvxpylayer"), atol=1e-6)


def test_sinkhorn_is_differentiated_twice_in_its_marginals():
    leaves = tuple(x.requires_grad_() for x in (normal(2, 3), normal(2, 4, seed=1), normal(2, 3, 4, seed=2)))

    def solve(a, b, w):
        P = polytopes.transport(3, 4).at(r=torch.softmax(a, -1), c=torch.softmax(b, -1))
        return cvxsst.softmax(P, w, cvxsst.CategoricalEntropy(), 0.5, engine="fast")

    assert torch.autograd.gradcheck(solve, leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, leaves, fast_mode=True)
    assert torch.allclose(torch.func.vmap(solve)(*leaves), solve(*leaves))


def test_with_marginals_of_one_it_is_birkhoff():
    P, w = polytopes.transport(4, 4).at(r=torch.ones(4), c=torch.ones(4)), normal(3, 4, 4)
    assert torch.equal(cvxsst.argmax(P, w), cvxsst.argmax(polytopes.birkhoff(4), w))
    for f in (cvxsst.Euclidean(), cvxsst.CategoricalEntropy()):
        assert torch.allclose(cvxsst.softmax(P, w, f, 0.5), cvxsst.softmax(polytopes.birkhoff(4), w, f, 0.5), atol=1e-8)


def test_masks_that_leave_no_plan_are_told():
    P = polytopes.transport(2, 2).at(r=torch.tensor([0.5, 0.5]), c=torch.tensor([0.75, 0.25]))
    w = torch.tensor([[[0.0, -torch.inf], [0.0, 0.0]], [[-torch.inf, 0.0], [0.0, 0.0]]])
    z, info = cvxsst.softmax(P, w, cvxsst.CategoricalEntropy(), on_failure="nan", return_info=True)
    assert info.empty.tolist() == [False, True]
    assert torch.allclose(z[0], torch.tensor([[0.5, 0.0], [0.25, 0.25]]))


@pytest.mark.parametrize("f", [cvxsst.Euclidean(), cvxsst.BinaryEntropy()], ids=repr)
def test_smooth_max_and_losses_are_differentiated_twice_in_parameters(f):
    """d/dk max <w, z> - T f(z) is the multiplier of k, and the loss is that maximum + T f(v) - <w, v>."""
    z, k = cp.Variable(6), cp.Parameter(nonneg=True, name="k")
    P = cvxsst.Polytope(z, [z >= 0, z <= 1, cp.sum(z) <= k])
    w, v = normal(3, 6).requires_grad_(), torch.full((6,), 0.2, dtype=torch.float64)
    budget = torch.tensor([1.2, 2.0, 2.7], dtype=torch.float64, requires_grad=True)

    def best(w, k):
        return cvxsst.smooth_max(P.at(k=k), w, f, 0.5)

    def loss(w, k):
        return cvxsst.fenchel_young_loss(P.at(k=k), w, v, f, 0.5)

    for function in (best, loss):
        assert torch.autograd.gradcheck(function, (w, budget), atol=1e-6)
        assert torch.autograd.gradgradcheck(function, (w, budget), atol=1e-4)
    differs = best(w, budget) + 0.5 * f.value(v).sum() - (w * v).sum(-1) - loss(w, budget)
    assert torch.allclose(differs, torch.zeros(3, dtype=torch.float64), atol=1e-12)
