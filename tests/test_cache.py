"""The cache: one object for all threads, a bound, no wait for one another; families and polytopes on top of it."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import cvxpy as cp
import pytest
import torch

import cvxsst
from cvxsst.cache import Cache
from cvxsst.engines import ENGINES, Engine, Solution

PATIENCE = 60  # seconds; what takes longer waits for itself


def together(*tasks: Callable[[], Any]) -> list[Any]:
    """What each task returns, or raises, started in threads at one moment."""
    start, results = threading.Barrier(len(tasks)), [None] * len(tasks)

    def run(i: int, task: Callable[[], Any]) -> None:
        start.wait(PATIENCE)
        try:
            results[i] = task()
        except Exception as error:
            results[i] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(i, task), daemon=True) for i, task in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "threads wait for one another"
    return results


class Counting:
    """Makes a new object each time, or the given one, slowly."""

    def __init__(self, *given: object):
        self.calls, self.given = 0, given

    def __call__(self) -> object:
        self.calls += 1
        threading.Event().wait(0.05)
        return self.given[0] if self.given else object()


def test_a_value_is_made_once_for_all_threads() -> None:
    cache, make = Cache[str, object](4), Counting()
    found = together(*[lambda: cache.get("key", make)] * 8)
    assert len(set(map(id, found))) == 1
    assert make.calls == 1
    assert cache.get("key", make) is found[0]


def test_none_is_a_value() -> None:
    cache, make = Cache[str, object](4), Counting(None)
    assert cache.get("key", make) is cache.get("key", make) is None
    assert make.calls == 1


def test_the_least_recently_used_is_forgotten_first() -> None:
    cache = Cache[int, object](3)
    for key in (1, 2, 3, 1, 4):
        cache.get(key, object)
    assert len(cache) == 3
    made = {key: Counting() for key in (3, 4, 1, 2)}
    for key, make in made.items():
        cache.get(key, make)
    assert [key for key, make in made.items() if make.calls] == [2]


def test_the_bound_holds_under_threads() -> None:
    cache = Cache[int, int](5)

    def many(first: int) -> list[int]:
        return [cache.get(key, partial(int, key)) for key in range(first, first + 100)]

    assert together(*[partial(many, i) for i in range(8)]) == [list(range(i, i + 100)) for i in range(8)]
    assert len(cache) == 5


def test_an_error_is_raised_to_all_and_not_kept() -> None:
    cache = Cache[str, int](4)

    def fail() -> int:
        threading.Event().wait(0.02)
        raise ValueError("not today")

    found = together(*[lambda: cache.get("key", fail)] * 8)
    assert [str(error) for error in found] == ["not today"] * 8
    assert len(cache) == 0
    assert cache.get("key", lambda: 3) == 3
    assert cache.get("key", fail) == 3


def test_a_value_made_of_others_of_the_same_cache() -> None:
    cache = Cache[int, int](20)

    def fibonacci(n: int) -> int:
        return cache.get(n, lambda: n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2))

    found = together(*[partial(fibonacci, n) for n in (12, 11, 12, 10, 9, 12, 2, 1)])
    assert found == [144, 89, 144, 55, 34, 144, 1, 1]


@pytest.mark.parametrize("caches", [1, 2])
def test_two_values_that_need_each_other_do_not_wait_for_ever(caches: int) -> None:
    """Each thread is at work on one key when it asks for the other."""
    a = Cache[str, object](4)
    b = a if caches == 1 else Cache[str, object](4)
    both = threading.Barrier(2)

    def first() -> object:
        if caches == 2:
            both.wait(PATIENCE)
        return b.get("second", object), object()

    def second() -> object:
        if caches == 2:
            both.wait(PATIENCE)
        return a.get("first", object), object()

    found = together(lambda: a.get("first", first), lambda: b.get("second", second))
    assert found == [a.get("first", object), b.get("second", object)]  # what is kept is what everybody got


def test_a_thread_that_failed_waits_again() -> None:
    """A thread is not taken for one at work after its own value could not be made."""
    cache, make = Cache[str, object](4), Counting()
    with pytest.raises(IndexError):
        cache.get("other", lambda: [][1])
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(cache.get("key", make)))
    thread.start()
    while not make.calls:
        threading.Event().wait(0.001)
    assert cache.get("key", make) is cache.get("key", make)
    thread.join(PATIENCE)
    assert make.calls == 1


# Families and polytopes.


def test_eight_threads_get_one_member() -> None:
    made = []

    @cvxsst.polytope
    def cube(n: int) -> Any:
        made.append(n)
        threading.Event().wait(0.02)
        z = cp.Variable(n)
        return z, [z >= 0, z <= 1]

    found = together(*[lambda: cube(3)] * 8)
    assert len(set(map(id, found))) == 1
    assert made == [3]


def test_a_member_in_use_is_never_made_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvxsst.family.MEMBERS_KEPT", 2)
    made = []

    @cvxsst.polytope
    def cube(n: int) -> Any:
        made.append(n)
        z = cp.Variable(n)
        return z, [z >= 0, z <= 1]

    P = cube(2)
    for n in (3, 4, 5, 3):
        cube(n)
    assert cube(2) is P
    assert made == [2, 3, 4, 5, 3]


def test_families_that_declare_one_by_another() -> None:
    """f(n) asks g(n - 1), which asks f(n - 2): recursion through both, from both ends at once."""

    @cvxsst.polytope
    def f(n: int) -> Any:
        z = cp.Variable(n)
        return z, [z >= 0, z <= (1 if n < 2 else g(n - 1).size)]

    @cvxsst.polytope
    def g(n: int) -> Any:
        z = cp.Variable(n)
        return z, [z >= 0, z <= (1 if n < 2 else f(n - 1).size)]

    calls = [partial(family, n) for family in (f, g) for n in (5, 4, 5, 2)]
    found = together(*calls)
    assert [P.name for P in found] == [f"{name}({n})" for name in "fg" for n in (5, 4, 5, 2)]
    assert all(P is call() for P, call in zip(found, calls, strict=True))


def test_families_without_a_first_member_say_so() -> None:
    """A mutual recursion without an end is an error in every thread, not a wait."""
    at_work: set[int] = set()
    both = threading.Barrier(2)

    def meet() -> None:
        if threading.get_ident() not in at_work:
            at_work.add(threading.get_ident())
            both.wait(PATIENCE)

    @cvxsst.polytope
    def f(n: int) -> Any:
        meet()
        return g(n)

    @cvxsst.polytope
    def g(n: int) -> Any:
        meet()
        return f(n)

    found = together(lambda: f(1), lambda: g(1))
    assert all(isinstance(error, RecursionError) for error in found)


def test_the_first_softmax_of_one_polytope_in_eight_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []

    class Centre(Engine[torch.Tensor]):
        """z = u + 1, of what is prepared slowly."""

        name = "centre"

        def refusal(self, P, f):
            return None

        def prepare(self, P, f):
            prepared.append(P)
            threading.Event().wait(0.05)
            return torch.ones(P.size, dtype=torch.float64)

        def solve(self, state, u, forbidden):
            return Solution(u + state)

        def times_jacobian(self, state, g, at):
            return g

    monkeypatch.setitem(ENGINES, "centre", Centre())
    z = cp.Variable(4)
    P = cvxsst.Polytope(z, [z >= 0, z <= 1, cp.sum(z) <= 2.5])
    w = torch.linspace(-1, 1, 8 * 4, dtype=torch.float64).reshape(8, 4)
    found = together(*[partial(cvxsst.softmax, P, u, engine="centre") for u in w])
    assert torch.equal(torch.stack(found), w + 1)
    assert len(prepared) == 1

    expected = cvxsst.softmax(cvxsst.Polytope(z, P.constraints), w)
    found = together(*[partial(cvxsst.softmax, P, u) for u in w])
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-9, rtol=0)
