"""The one cache of the library: bounded, and safe under threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Thread(threading.local):
    makes = False  # whether this thread is making a value, of whatever cache


_THREAD = _Thread()
_NOTHING: Any = object()


class Cache(Generic[K, V]):
    """At most ``most`` values, the least recently used forgotten first. Threads that ask for a key get one object.

    A value is made once: a thread that finds another at work waits. Only a thread that needs it for a value which it is
    making itself does not wait, or two such could wait for each other; it makes its own, and the first to be ready is
    everybody's. An error while a value is made is raised to whoever asked; nothing is kept then.
    """

    def __init__(self, most: int):
        self.most = most
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()  # held for a moment, to look something up or to put it down
        self._turn = threading.Lock()  # held while a value is made

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value under this key, by ``make()`` if there is none yet."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        if _THREAD.makes:
            return self._kept(key, make())
        with self._turn:
            found = self._values.get(key, _NOTHING)
            if found is not _NOTHING:
                return found
            _THREAD.makes = True
            try:
                return self._kept(key, make())
            finally:
                _THREAD.makes = False

    def _kept(self, key: K, value: V) -> V:
        with self._lock:
            value = self._values.setdefault(key, value)
            while len(self._values) > self.most:
                self._values.popitem(last=False)
            return value

    def __len__(self) -> int:
        return len(self._values)
