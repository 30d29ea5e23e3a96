"""Multiplicative updates of a Poisson likelihood, on the counts that are not zero.

An update needs the expected counts only where something was counted, which in a spot is one gene in five and in a bin
of Visium HD one in a hundred. So the signatures of these genes are gathered once for a few spots, in a working set that
stays in the processor's cache, and all updates of these spots are made before the next few are looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from ...common.threads import Map, cores

#: Single precision is ample for a few hundred updates, and twice as fast.
Single = NDArray[np.float32]

#: Rows of signatures gathered at once: of 40 types 2.6 MB. With fewer, starting a product costs as much as a short one.
_ROWS = 1 << 14
#: Multiplications of one product at most: OpenBLAS multiplies matrices that are small (a million) in half the time.
_SMALL = 1 << 19
TINY = 1e-30
#: Updates that are made one by one before strides are taken, and the strides: the first clears what the longer stir.
_STEADY, _STRIDES = 16, (1, 3, 5)
#: A larger factor is not raised to a power, lest a stride leads out of single precision.
_MOST_FACTOR = 2.0


@dataclass(frozen=True, eq=False)
class Spots:
    """Spots to be fitted, each once in every part of the genes.

    Attributes
    ----------
    counts
        Counts times the weights of their genes, in single precision, shape (n_spots, n_genes).
    signatures
        Mean counts per cell, shape (n_genes, n_types).
    parts
        Which genes have a part, shape (n_parts, n_genes).
    total
        Sum over the genes of a part of signature times weight, zeros included, shape (n_spots, n_parts, n_types).
    start
        Weights of the types to climb from, shape (n_spots, n_parts, n_types).
    """

    counts: sparse.csr_matrix
    signatures: Single
    parts: NDArray[np.bool_]
    total: Single
    start: Single

    @classmethod
    def of(cls, counts: sparse.csr_matrix, signatures: Single, parts: NDArray[np.bool_] | None = None) -> Spots:
        """Spots whose genes count alike, with equal counts of all types to climb from; no parts: one, of all genes."""
        if parts is None:
            parts = np.ones((1, len(signatures)), dtype=bool)
        depth = np.maximum(parts.astype(np.float32) @ signatures, TINY)
        total = np.broadcast_to(depth, (counts.shape[0], *depth.shape))
        start = (counts @ parts.T.astype(np.float32))[:, :, None] / (depth.shape[1] * depth)
        return cls(counts, signatures, parts, total, start)

    def climb(self, updates: int, share_out: Map = map, exact: int | None = None) -> Single:
        """Weights after so many updates, shape (n_spots, n_parts, n_types).

        Parts behind the first ``exact`` go in `strides`; None: none does.
        """
        found = np.empty_like(self.start)
        _, n_parts, _ = self.total.shape
        first = slice(0, n_parts if exact is None else exact)
        rest = slice(first.stop, n_parts)

        def fit(rows: NDArray[np.intp]) -> None:
            group = self.group(rows)
            for parts, powers in ((first, [1] * updates), (rest, strides(updates))):
                if parts.start < parts.stop:
                    own, weights = group.of(parts), self.start[rows, parts]
                    for power in powers:
                        weights = own.update(weights, power)
                    found[rows, parts] = weights

        for _ in share_out(fit, self.few()):
            pass
        return found

    def few(self) -> Iterator[NDArray[np.intp]]:
        """A few spots at a time, of about as many genes; how a spot is worked on depends on no other."""
        width = self._widths
        order = np.argsort(width, kind="stable")
        starts = np.flatnonzero(np.diff(width[order], prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
            alike, size = order[start:stop], max(1, _ROWS // int(width[order[start]]))
            yield from (alike[first : first + size] for first in range(0, len(alike), size))

    def group(self, rows: NDArray[np.intp]) -> Group:
        """What the updates of some of the `few` need."""
        genes, counts = padded(self.counts, rows, int(self._widths[rows[0]]))
        _, n_parts, n_types = self.total.shape
        # Widths are multiples of 8 and more, so halves of them, and of these, are whole.
        pieces = 1
        while genes.shape[1] * n_parts * n_types > pieces * _SMALL and genes.shape[1] % (2 * pieces) == 0:
            pieces *= 2
        genes, counts = genes.reshape(len(rows), pieces, -1), counts.reshape(len(rows), pieces, -1)
        shares = self.parts[:, genes].transpose(1, 2, 0, 3) * counts[:, :, None, :]
        return Group(
            np.ascontiguousarray(self.signatures[genes].transpose(0, 1, 3, 2)),
            np.ascontiguousarray(shares),
            np.maximum(self.total[rows], TINY),
        )

    @cached_property
    def _widths(self) -> NDArray[np.intp]:
        """Genes of each spot, rounded up to one of eight steps an octave: little is worked on in vain."""
        lengths = np.maximum(np.diff(self.counts.indptr), 1)
        step = np.maximum(8, 1 << np.maximum(np.log2(lengths).astype(int) - 3, 0))
        widths: NDArray[np.intp] = (-(-lengths // step) * step).astype(np.intp)
        return widths


@dataclass(frozen=True, eq=False)
class Group:
    """A few spots, all parts in one product of matrices: half as long as one after the other, though half is zeros.

    Attributes
    ----------
    signatures
        Of the genes that each spot has, in pieces, shape (n_spots, n_pieces, n_types, width): products are twice as
        fast this way round.
    counts
        0 where a gene has no part, shape (n_spots, n_pieces, n_parts, width).
    total
        Shape (n_spots, n_parts, n_types).
    """

    signatures: Single
    counts: Single
    total: Single

    def of(self, parts: slice) -> Group:
        """Some of the parts."""
        return replace(self, counts=self.counts[:, :, parts], total=self.total[:, parts])

    def update(self, weights: Single, power: int = 1) -> Single:
        """One multiplicative update of weights, shape (n_spots, n_parts, n_types); its factor to a power."""
        ratio = np.matmul(weights[:, None], self.signatures)
        ratio += TINY
        np.divide(self.counts, ratio, out=ratio)
        products = np.matmul(self.signatures, ratio.transpose(0, 1, 3, 2))
        summed = products[:, 0] if products.shape[1] == 1 else products.sum(axis=1)
        better: Single = summed.transpose(0, 2, 1)
        if power == 1:
            return better * weights / self.total
        factor: Single = np.minimum(better / self.total, _MOST_FACTOR) ** power
        return weights * factor


def strides(updates: int) -> list[int]:
    """Powers of updates that come out where so many updates do, to first order, and are 2.2 times as few of a hundred.

    Near the top an update shrinks what is left along a direction to ``1 - q`` of it, 0 < q <= 1, and the factor of an
    update to the power p shrinks it to ``1 - p q``. Of directions that are still on their way after many updates q is
    small, so that three strides of 1, 3 and 5 do as nine updates; and where it is not, the product of theirs stays
    between -.1 and .9.
    """
    powers = [1] * min(updates, _STEADY)
    rounds, left = divmod(updates - len(powers), sum(_STRIDES))
    return [*powers, *_STRIDES * rounds, *[1] * left]


def padded(table: sparse.csr_matrix, rows: NDArray[np.intp], width: int) -> tuple[NDArray[np.intp], Single]:
    """Columns and values of some rows, shape (n_rows, width); behind what a row has stands column 0 with value 0."""
    places = np.arange(width)
    inside = places < np.diff(table.indptr)[rows, None]
    at = np.where(inside, table.indptr[rows, None] + places, 0)
    if not table.nnz:
        return np.zeros(at.shape, dtype=np.intp), np.zeros(at.shape, dtype=np.float32)
    return np.where(inside, table.indices[at], 0), np.where(inside, table.data[at], 0).astype(np.float32, copy=False)


def row_of_each(table: sparse.csr_matrix) -> NDArray[np.intp]:
    """Row of each stored value."""
    return np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))


@contextlib.contextmanager
def workers(threads: int | None) -> Iterator[Map]:
    """An ordered ``map`` over so many threads (None: one for each core that this process may use).

    Products as slim as these get one thread each: several would only wait for each other (20 times slower on busy
    cores).
    """
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads or cores()) as pool:
        yield pool.map
