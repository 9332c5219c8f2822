"""Equal pictures found by their hashes: groups within a set, and what two sets have in common.

Everything works on arrays with 8 bytes for a picture, so that tens of millions fit in memory, and sorts one such array
at a time. Hashes are of 64 bits and
well mixed: among 16 million different pictures two are taken for equal with a probability of about 7 in a million.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["EqualGroups", "equal_groups", "in_common"]

_CHUNK = 1 << 20  # samples that are looked up at a time

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class EqualGroups:
    """Groups of two or more samples with equal hashes, in the order of their first samples.

    Attributes:
        members: ``(m,)`` int64: indices of the samples, group after group, ascending in each.
        sizes: ``(g,)`` int64: samples of each group, at least 2; their sum is m.
    """

    members: Indices
    sizes: Indices

    def __len__(self) -> int:
        return len(self.sizes)

    def group(self, number: int) -> Indices:
        """Indices of one group's samples."""
        start = int(self.sizes[:number].sum())
        return self.members[start : start + int(self.sizes[number])]

    def differing(self, hashes: Hashes, among: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
        """Which groups have samples that differ in something else.

        Args:
            hashes: ``(n,)`` of that, one for each sample of the set.
            among: ``(n,)``: the samples that are compared; the others differ from none. Default: all.

        Returns:
            ``(g,)``.
        """
        if not len(self):
            return np.zeros(0, bool)
        starts = np.concatenate(([0], self.sizes.cumsum()[:-1]))
        lowest = highest = hashes[self.members]
        if among is not None:
            compared = among[self.members]
            lowest = np.where(compared, lowest, np.iinfo(np.uint64).max)
            highest = np.where(compared, highest, np.uint64(0))
        differ: npt.NDArray[np.bool_] = np.minimum.reduceat(lowest, starts) < np.maximum.reduceat(highest, starts)
        return differ

    def only(self, chosen: npt.NDArray[np.bool_]) -> EqualGroups:
        """Some of the groups.

        Args:
            chosen: ``(g,)``.
        """
        return EqualGroups(self.members[np.repeat(chosen, self.sizes)], self.sizes[chosen])


def equal_groups(hashes: Hashes, among: npt.NDArray[np.bool_]) -> EqualGroups:
    """The groups of equal hashes.

    Args:
        hashes: ``(n,)``, one for each sample.
        among: ``(n,)``: the samples that have one.
    """
    ordered = hashes[among]
    ordered.sort()
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered  # what follows is about the few that are not unique
    indices = _having(hashes, among, repeated)
    # Each hash by the first sample that has it; a stable order keeps the samples of a group ascending.
    _, firsts, group_of, sizes = np.unique(hashes[indices], return_index=True, return_inverse=True, return_counts=True)
    members = indices[np.argsort(firsts[group_of], kind="stable")]
    return EqualGroups(members, sizes[np.argsort(firsts)])


def in_common(
    hashes: Hashes, among: npt.NDArray[np.bool_], others: Hashes, among_others: npt.NDArray[np.bool_]
) -> Indices:
    """For each sample of a set the first one of another set with an equal hash.

    Args:
        hashes: ``(n,)``.
        among: ``(n,)``: the samples that have one.
        others: ``(k,)``, of the other set.
        among_others: ``(k,)``: the samples that have one there.

    Returns:
        ``(n,)``: indices in the other set, -1 where there is none.
    """
    partners = np.full(len(hashes), -1, np.int64)
    ordered = others[among_others]
    ordered.sort()
    ours = _having(hashes, among, ordered)
    del ordered
    shared = np.unique(hashes[ours])
    theirs = _having(others, among_others, shared)
    _, firsts = np.unique(others[theirs], return_index=True)
    partners[ours] = theirs[firsts[np.searchsorted(shared, hashes[ours])]]
    return partners


def _having(hashes: Hashes, among: npt.NDArray[np.bool_], values: Hashes) -> Indices:
    """Indices, ascending, of the samples that have one of some hashes.

    Args:
        hashes: ``(n,)``.
        among: ``(n,)``: the samples that have one.
        values: The hashes, sorted.
    """
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(hashes) if len(values) else 0, _CHUNK):
        part = hashes[start : start + _CHUNK]
        places = np.searchsorted(values, part)
        places[places == len(values)] = 0
        found.append(np.flatnonzero((values[places] == part) & among[start : start + _CHUNK]) + start)
    return np.concatenate(found)
