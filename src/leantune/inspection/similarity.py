"""Texts that are nearly the same, found exactly: every pair whose Jaccard similarity reaches a threshold.

    texts [N] -> runs of 5 characters, numbered, the rarest first -> pairs that share rare ones -> pairs that are alike

Two sets whose similarity is t or more share k of the |x| - ceil(t |x|) + k rarest members of each, for whichever
order of rareness (prefix filtering: Bayardo, Ma and Srikant, WWW 2007; Xiao and others, WWW 2008). So only texts that
share rare runs are compared, with sparse products of scipy. Nothing is estimated, no random number is drawn, and no
further package is needed: MinHash (datasketch, rensa) would be faster from about a million texts on, and would miss
some pairs.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

IntArray = NDArray[np.int64]

RUN = 5
"""Characters of a run: long enough to be rare, and the same for scripts without blanks."""
ALIKE = 0.8
MOST_CHARACTERS = 2_000
"""What is read of a text, from its beginning."""
MOST_TEXTS = 50_000
"""What takes seconds: of more, the first of a seeded shuffle are compared."""
MOST_IN_COMMON = 5_000
"""A run that is among the rarest of more texts is left out: it would compare all with all."""
ROWS_A_PRODUCT = 2_000
PAIRS_AT_ONCE = 200_000


def alike_pairs(texts: tuple[pa.Array, ...], *, alike: float = ALIKE) -> tuple[IntArray, NDArray[np.float64]]:
    """Return pairs of rows [P, 2] whose texts are alike, the first row below the second, and how much [P].

    A row's texts are compared together. Case and the length of blanks do not count, and texts below 5 characters are
    like none but their copies. Of copies, which would make many pairs, each is told with the first of them.
    """
    joined = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, pa.scalar("\n", texts[0].type))
    encoded = _plain(joined).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.unique(codes, return_index=True)[1]
    sets = _runs(encoded.dictionary)
    candidates = _candidates(sets, alike)
    similarity = np.concatenate(
        [np.empty(0), *(_jaccard(sets, part) for part in np.array_split(candidates, _parts(len(candidates))))]
    )
    found = similarity >= alike
    return _of_rows(candidates[found], similarity[found], codes, first)


def _of_rows(
    pairs: IntArray, similarity: NDArray[np.float64], codes: IntArray, first: NDArray[np.intp]
) -> tuple[IntArray, NDArray[np.float64]]:
    """Turn pairs of different texts into pairs of rows: each row that has one, with the first row of the other."""
    rows = np.arange(len(codes))
    copies = rows[first[codes] != rows]
    parts = [np.stack([first[codes[copies]], copies], axis=1)]
    worth = [np.ones(len(copies))]
    rows_of = sparse.csr_matrix((np.ones(len(rows)), (codes, rows)), shape=(len(first), len(rows)))
    for one, other in ((0, 1), (1, 0)):
        counts = np.diff(rows_of.indptr)[pairs[:, one]]
        having = rows_of[pairs[:, one]].indices.astype(np.int64)
        parts.append(np.stack([having, np.repeat(first[pairs[:, other]], counts)], axis=1))
        worth.append(np.repeat(similarity, counts))
    both = np.sort(np.concatenate(parts).astype(np.int64), axis=1)
    unique, places = np.unique(both, axis=0, return_index=True)
    return unique.reshape(-1, 2), np.concatenate(worth)[places]


def _plain(texts: pa.Array) -> pa.Array:
    """Return texts in lower case, with single blanks, and cut to what is compared."""
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " "))
    return pc.utf8_slice_codeunits(plain, 0, MOST_CHARACTERS)


def _parts(count: int) -> int:
    return max(1, -(-count // PAIRS_AT_ONCE))


def _runs(texts: pa.Array) -> sparse.csr_matrix:
    """Return which runs each text has [N, runs], as ones; the columns are ordered from the rarest run."""
    lengths = pc.utf8_length(texts).to_numpy().astype(np.int64)
    letters = np.frombuffer("".join(texts.to_pylist()).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    if len(letters) < RUN:
        return sparse.csr_matrix((len(lengths), 1))
    hashes = np.zeros(len(letters) - RUN + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for place in range(RUN):  # 64 bits: that two different runs of a table are taken for one is most improbable
            hashes = (hashes ^ letters[place : len(letters) - RUN + 1 + place]) * np.uint64(0x9E3779B97F4A7C15)
            hashes ^= hashes >> np.uint64(29)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    whole = owner[: len(hashes)] == owner[RUN - 1 :]
    numbers = np.unique(hashes[whole], return_inverse=True)[1]
    matrix = sparse.csr_matrix(
        (np.ones(len(numbers), dtype=np.int32), (owner[: len(hashes)][whole], numbers)),
        shape=(len(lengths), int(numbers.max(initial=0)) + 1),
    )
    matrix.data[:] = 1
    rareness = np.argsort(np.bincount(matrix.indices, minlength=matrix.shape[1]), kind="stable")
    rank = np.empty_like(rareness)
    rank[rareness] = np.arange(len(rareness))
    matrix.indices = rank[matrix.indices].astype(matrix.indices.dtype)
    matrix.has_sorted_indices = False
    matrix.sort_indices()
    return matrix


def _candidates(sets: sparse.csr_matrix, alike: float) -> IntArray:
    """Return the pairs of rows [P, 2] that share `least` runs among the rarest of both.

    Of long texts more than one: the more must be shared, the fewer pairs are left (Wang, Li and Feng, SIGMOD 2012).
    """
    sizes = np.diff(sets.indptr)
    least = 1 + sizes // 50
    prefix = np.where(sizes > 0, sizes - np.ceil(alike * sizes - 1e-9).astype(int) + least, 0)
    place = np.arange(len(sets.indices)) - np.repeat(sets.indptr[:-1], sizes)
    kept = place < np.repeat(prefix, sizes)
    rare = sparse.csr_matrix(
        (sets.data[kept], sets.indices[kept], np.concatenate(([0], np.cumsum(prefix)))), shape=sets.shape
    )
    shared = rare.tocsc()
    common = np.diff(shared.indptr)
    shared = shared[:, (common > 1) & (common <= MOST_IN_COMMON)].tocsr()
    found = [np.empty((0, 2), dtype=np.int64)]
    for begin in range(0, shared.shape[0], ROWS_A_PRODUCT):  # so that the products take little memory
        product = sparse.coo_matrix(shared[begin : begin + ROWS_A_PRODUCT] @ shared.T)
        enough = product.data >= np.minimum(least[product.row + begin], least[product.col])
        above = (product.row + begin < product.col) & enough
        found.append(np.stack([product.row[above] + begin, product.col[above]], axis=1).astype(np.int64))
    pairs = np.concatenate(found)
    one, other = sizes[pairs[:, 0]], sizes[pairs[:, 1]]  # sets of very different sizes cannot be alike
    close: IntArray = pairs[np.minimum(one, other) >= alike * np.maximum(one, other)]
    return close


def _jaccard(sets: sparse.csr_matrix, pairs: IntArray) -> NDArray[np.float64]:
    if not len(pairs):
        return np.empty(0)
    sizes = np.diff(sets.indptr)
    both = np.asarray(sets[pairs[:, 0]].multiply(sets[pairs[:, 1]]).sum(axis=1)).ravel()
    similarity: NDArray[np.float64] = both / (sizes[pairs[:, 0]] + sizes[pairs[:, 1]] - both)
    return similarity


def chosen_rows(count: int) -> IntArray:
    """Return the rows that are compared, ascending: all, or the first of a seeded shuffle."""
    if count <= MOST_TEXTS:
        return np.arange(count, dtype=np.int64)
    chosen: IntArray = np.sort(np.random.RandomState(0).permutation(count)[:MOST_TEXTS]).astype(np.int64)
    return chosen
