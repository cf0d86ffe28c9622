"""Near-duplicate groups of images under the eight symmetries of the square.

In the real NEU-Seg 806 of the 840 official test images are rotated copies of training images, so a split made file by
file measures memorising. Two images are near-duplicates here if their 50x50 grey thumbnails minus a Gaussian blur
(sigma 6) correlate by more than 0.95 under one of the four rotations, mirrored or not.

Comparing all pairs is quadratic. `near_duplicate_groups` instead looks up each image once, by a descriptor that no
symmetry changes and whose distances never exceed those of the thumbnails, in an inverted file of faiss
(https://faiss.ai), then checks the few candidates exactly. 5 KB of thumbnail (float16), 1.3 KB of descriptor and as
much of index per image.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from flexunet.dataset.thumbnails import SIDE

SIZE_TOLERANCE = 0.02
# Frequencies of the cosine basis in the descriptor: under 38 of 50 the even ones, which tell apart noise; under 12 all,
# which tell apart smooth textures. Without the latter 16,000 smooth textures give 11 false candidates per image, with
# them none. 312 numbers in all.
EVEN_FREQUENCIES = 38
LOW_FREQUENCIES = 12
# Beyond 2,000 images a query reads the 32 nearest cells, of about 32 images each. Of pairs correlated by 0.952 to 0.96
# among 16,000 that misses 4 in 10,000 from one end, none from both; a hierarchical graph (HNSW) missed 160 in 10,000
# and took four times as long.
EXHAUSTIVE_UP_TO = 2000
IMAGES_PER_CELL = 32
CELLS_PER_QUERY = 32
QUERIES_AT_ONCE = 512
PAIRS_AT_ONCE = 2048


def near_duplicate_groups(
    thumbnails: NDArray[np.floating],
    threshold: float = 0.95,
    sizes: NDArray[np.integer] | None = None,
    digests: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """Groups of near-duplicates: the connected components of the pairs that correlate under some symmetry.

    Every pair is found for certain up to 2,000 images; beyond that each is looked for from both ends by an inverted
    file (Jégou et al., "Product quantization for nearest neighbor search", 2011) over random pivots. Time grows with
    the number of images, and with the square of it only in the choice of cells (1/32 of a distance per
    pair), or if most are copies of one: 16,000 identical ones take 17 s and 0.7 GB, 16,000 in fours 2 s.

    Args:
        thumbnails: float16 or float32 [N, 50, 50] of `thumbnail`; may be a memory map, it is read in slices.
        threshold: the correlation above which two images are near-duplicates, in (0, 1).
        sizes: integers [N, 2] of width and height; given, images whose long side to short side ratios differ by more
            than 2 % are never near-duplicates.
        digests: N strings of `pixel_digest`; given, equal ones share a group. Flat images can share one no other way.

    Returns:
        int64 [N]: the smallest index in the group of each image.
    """
    _check_thumbnails(thumbnails, threshold, sizes, digests)
    labels = _first_equal(digests) if digests is not None else np.arange(len(thumbnails))
    elongation = np.ones(len(thumbnails)) if sizes is None else np.max(sizes, axis=1) / np.min(sizes, axis=1)
    for pairs in _candidate_pairs(thumbnails, threshold):
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            first, second = pairs[start : start + PAIRS_AT_ONCE].T
            # A pair joined by others is not compared: n copies of one image cost about n comparisons, not n^2 / 2.
            apart = labels[first] != labels[second]
            ratio = elongation[first] / elongation[second]
            worth = apart & (np.maximum(ratio, 1 / ratio) <= 1 + SIZE_TOLERANCE)
            first, second = first[worth], second[worth]
            same = _best_correlation(thumbnails[first], thumbnails[second]) > threshold
            labels = _joined(labels, first[same], second[same])
    return labels


def _symmetries(squares: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The eight symmetric versions, as views, of squares [P, S, S]."""
    for version in (squares, squares.transpose(0, 2, 1)):
        for rows in (1, -1):
            for columns in (1, -1):
                yield version[:, ::rows, ::columns]


def _best_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 [P]: the largest correlation of each pair over the symmetries, from two [P, 50, 50] of unit norm."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    best = np.full(len(first), -1, np.float32)
    for version in _symmetries(second):
        np.maximum(best, np.einsum("pij,pij->p", first, version), out=best)
    return best


def descriptors(thumbnails: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 [P, 312] of thumbnails [P, 50, 50]: equal for symmetric ones, and never further apart than they are.

    In the cosine basis a flip changes the sign of odd frequencies and a transposition swaps the two axes. Absolute
    values undo the first; the sum of swapped coefficients and the absolute difference undo the second. All three
    shorten distances or keep them, hence pairs over a correlation c stay within the squared distance 2 - 2c.
    """
    basis, (vertical, horizontal) = _cosines(), _frequencies()
    odd = (vertical | horizontal) % 2 == 1
    above, below = (int(np.searchsorted(vertical - horizontal, 0, side)) for side in ("left", "right"))
    coefficients = np.asarray(basis @ thumbnails.astype(np.float32) @ basis.T, np.float32)
    kept, swapped = coefficients[:, vertical, horizontal], coefficients[:, horizontal, vertical]
    for values in (kept, swapped):
        values[:, odd] = np.abs(values[:, odd])
    kept[:, :above] += swapped[:, :above]
    kept[:, below:] = np.abs(kept[:, below:] - swapped[:, below:])
    kept[:, np.r_[:above, below : len(vertical)]] *= np.float32(np.sqrt(0.5))
    return kept


@cache
def _cosines() -> NDArray[np.float32]:
    """float32 [38, 50]: the orthonormal cosine basis of one axis, without the frequencies that no descriptor has."""
    return np.asarray(dct(np.eye(SIDE), axis=0, norm="ortho"))[:EVEN_FREQUENCIES].astype(np.float32)


@cache
def _frequencies() -> NDArray[np.int64]:
    """int64 [2, 312]: vertical and horizontal frequencies, by their difference: those above the diagonal come first."""
    vertical, horizontal = np.indices((EVEN_FREQUENCIES, EVEN_FREQUENCIES))
    low = np.maximum(vertical, horizontal) < LOW_FREQUENCIES
    even = (vertical % 2 == 0) & (horizontal % 2 == 0) & (vertical <= horizontal)
    kept = np.argwhere((low | even) & (vertical + horizontal > 0)).T
    return kept[:, np.argsort(kept[0] - kept[1], kind="stable")]


def _slices(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), QUERIES_AT_ONCE):
        yield rows[start : start + QUERIES_AT_ONCE]


def _index(described: NDArray[np.float32]) -> faiss.IndexIVFFlat:
    """An inverted file of descriptors [N, 312], numbered by row, its cells around pivots drawn at random."""
    count, length = described.shape
    cells = max(1, count // IMAGES_PER_CELL)
    # Means of four images drawn at random. Four rounds of k-means made 16,000 noises take six times as long and found
    # no more; single images as pivots 1.9 times as long, since some are near to everything and their cells swell.
    drawn = np.random.default_rng(0).choice(count, 4 * cells)
    centres = described[drawn].reshape(cells, 4, length).mean(axis=1)
    quantizer = faiss.IndexFlatL2(length)
    quantizer.add(centres)
    index = faiss.IndexIVFFlat(quantizer, length, cells)
    index.train(centres)
    index.nprobe = cells if count <= EXHAUSTIVE_UP_TO else CELLS_PER_QUERY
    index.add(described)
    return index


def _candidate_pairs(thumbnails: NDArray[np.floating], threshold: float) -> Iterator[NDArray[np.int64]]:
    """Yields int64 [P, 2]: pairs of images, none of them flat, whose descriptors allow a correlation over threshold."""
    textured = [thumbnails[part].any(axis=(1, 2)) for part in _slices(np.arange(len(thumbnails)))]
    rows = np.flatnonzero(np.concatenate([np.zeros(0, bool), *textured]))
    if len(rows) < 2:
        return
    described = np.concatenate([descriptors(thumbnails[part]) for part in _slices(rows)])
    index = _index(described)
    # 1e-3 is ten times what float16 can add to a squared distance of thumbnails.
    radius = 2 - 2 * threshold + 1e-3
    for part in _slices(np.arange(len(rows))):
        limits, _, neighbours = index.range_search(described[part], radius)
        queries = np.repeat(part, np.diff(limits.astype(np.int64)))
        yield rows[np.column_stack([queries, neighbours])[queries != neighbours]]


def _first_equal(values: Sequence[str]) -> NDArray[np.int64]:
    first: dict[str, int] = {}
    return np.array([first.setdefault(value, position) for position, value in enumerate(values)], np.int64)


def _joined(labels: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels [N] after joining the groups of each pair (first, second): again the smallest index of a group."""
    if not len(first):
        return labels
    count = len(labels)
    edges = coo_array((np.ones(len(first), np.int8), (labels[first], labels[second])), shape=(count, count))
    components, component = connected_components(edges, directed=False)
    smallest = np.full(components, count, np.int64)
    np.minimum.at(smallest, component, np.arange(count))
    return smallest[component[labels]]


def _check_thumbnails(
    thumbnails: NDArray[np.floating],
    threshold: float,
    sizes: NDArray[np.integer] | None,
    digests: Sequence[str] | None,
) -> None:
    count = len(thumbnails)
    if thumbnails.shape != (count, SIDE, SIDE):
        raise ValueError(f"thumbnails: got shape {thumbnails.shape}, expected [N, {SIDE}, {SIDE}] as from thumbnail()")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: got {threshold}, expected a correlation between 0 and 1, such as 0.95")
    if sizes is not None and (np.shape(sizes) != (count, 2) or np.min(sizes, initial=1) < 1):
        raise ValueError(f"sizes: got shape {np.shape(sizes)}, expected [{count}, 2] of width and height, at least 1")
    if digests is not None and len(digests) != count:
        raise ValueError(f"digests: got {len(digests)}, expected one per thumbnail, {count}")
