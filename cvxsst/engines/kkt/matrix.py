"""Constant matrices times batches of vectors, instances last."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

DENSE = 0.1  # share of entries from which a matrix is kept dense
SMALL = 4096  # entries up to which it is kept dense anyway


class Matrix:
    """``M @ x`` and ``M.T @ y``; sparse by gathers and scatters of whole rows of instances.

    ``values``: of its entries ``(nnz, 1)``, or different in every instance ``(nnz, B)``.
    """

    def __init__(self, M: sp.sparray):
        entries = sp.coo_array(M)
        self.shape = entries.shape
        size = max(1, self.shape[0] * self.shape[1])
        self.dense: torch.Tensor | None = None
        if size <= SMALL or entries.nnz / size > DENSE:
            self.dense = torch.from_numpy(entries.toarray())
        self.rows, self.columns = (torch.from_numpy(i.astype("int64")) for i in entries.coords)
        self.values = torch.from_numpy(entries.data)[:, None]

    def to(self, device: torch.device) -> Matrix:
        other = object.__new__(Matrix)
        other.shape = self.shape
        other.dense = None if self.dense is None else self.dense.to(device)
        other.rows, other.columns, other.values = (t.to(device) for t in (self.rows, self.columns, self.values))
        return other

    def at(self, values: torch.Tensor) -> Matrix:
        """The same entries with these values, ``(nnz, B)``, in the order of ``rows``."""
        other = object.__new__(Matrix)
        other.__dict__.update(self.__dict__)
        other.dense, other.values = None, values
        return other

    def of(self, columns: torch.Tensor) -> Matrix:
        """That of some instances."""
        return self if self.values.shape[1] == 1 else self.at(self.values[:, columns])

    @property
    def T(self) -> Matrix:  # noqa: N802 - as numpy and torch call it
        other = object.__new__(Matrix)
        other.shape = self.shape[::-1]
        other.dense = None if self.dense is None else self.dense.T
        other.rows, other.columns, other.values = self.columns, self.rows, self.values
        return other

    @property
    def counts(self) -> torch.Tensor:
        """How many entries each row has."""
        return torch.bincount(self.rows, minlength=self.shape[0])

    @property
    def csr(self) -> sp.csr_array:
        """All entries, of one instance or of all alike, as SciPy has them."""
        rows, columns, values = (t.numpy(force=True) for t in (self.rows, self.columns, self.values[:, 0]))
        return sp.csr_array((values, (rows, columns)), shape=self.shape)

    @property
    def array(self) -> torch.Tensor:
        """All entries."""
        if self.dense is not None:
            return self.dense
        return self.values.new_zeros(self.shape).index_put_(
            (self.rows, self.columns), self.values[:, 0], accumulate=True
        )

    def square(self) -> Matrix:
        """Entry by entry."""
        other = object.__new__(Matrix)
        other.__dict__.update(self.__dict__)
        other.dense, other.values = None if self.dense is None else self.dense**2, self.values**2
        return other

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        if self.dense is not None:
            return self.dense @ x
        return x.new_zeros(self.shape[0], x.shape[1]).index_add_(
            0, self.rows, self.values * x.index_select(0, self.columns)
        )


def pairs(A: sp.csr_array) -> Matrix:
    """The matrix that maps H to the entries of A diag(H) A', row by row: ``(m * m, n)``."""
    columns = sp.csc_array(A)
    m, n = columns.shape
    rows, values, places = [], [], []
    for i in range(n):
        entries = slice(columns.indptr[i], columns.indptr[i + 1])
        which, a = columns.indices[entries].astype(np.int64), columns.data[entries]
        rows.append(np.add.outer(m * which, which).reshape(-1))
        values.append(np.outer(a, a).reshape(-1))
        places.append(np.full(len(which) ** 2, i))
    if not rows:
        return Matrix(sp.csr_array((m * m, n)))
    coordinates = (np.concatenate(rows), np.concatenate(places))
    return Matrix(sp.coo_array((np.concatenate(values), coordinates), shape=(m * m, n)))
