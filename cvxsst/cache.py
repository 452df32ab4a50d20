"""The one cache of the library: bounded, and safe under threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Entry(Generic[V]):
    """A value to be made: by the first thread that asks, while the others wait."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.values: list[V] = []


class Cache(Generic[K, V]):
    """At most ``most`` values, the least recently used forgotten first. Each is made once, however many threads ask.

    An error while a value is made is raised to whoever asked; nothing is kept then.
    """

    def __init__(self, most: int):
        self.most = most
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value under this key, by ``make()`` if there is none yet."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
                while len(self._entries) > self.most:
                    self._entries.popitem(last=False)
            else:
                self._entries.move_to_end(key)
        if not entry.values:
            with entry.lock:
                if not entry.values:
                    try:
                        entry.values.append(make())
                    except BaseException:
                        with self._lock:
                            if self._entries.get(key) is entry:
                                del self._entries[key]
                        raise
        return entry.values[0]

    def __len__(self) -> int:
        return len(self._entries)
