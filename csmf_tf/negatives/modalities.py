"""Modality matrices: a row of numbers for each item, read from a file or made from texts or events."""

import os
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from csmf_tf.data.groups import group
from csmf_tf.negatives.rows import check_count, unit_rows, whole_rows

_WORD = re.compile(r"\w+")
# A row of which less is left by the truncation is rounding noise.
_LEFT = 1e-3


def read_vectors(
    path: str | os.PathLike[str], items: np.ndarray, table_ids: np.ndarray | None = None
) -> np.ndarray:
    """Reads a `.npy` matrix of vectors and brings its rows into the order of `items`.

    Args:
        path: a `.npy` file of float16, float32 or float64 [R, d]. A row that is all NaN or all 0 is missing.
        items: object [N], ids as `str`.
        table_ids: object [R], the id of each row as `str`, such as the ids of the items table in the order
            of its file. By default row `r` is of the item whose id is `str(r)`.

    Returns:
        float32 [N, d]; NaN rows for items without a row.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no matrix of floats, a row is infinite or NaN in part, the rows are not
            as many as `table_ids`, an id is no row number where there are no `table_ids`, or no item has a
            vector.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/image.npy", np.array([[1.0, 2.0], [3.0, 4.0]], np.float16))
    ...     read_vectors(f"{folder}/image.npy", np.array(["1", "7"], object)).tolist()
    [[3.0, 4.0], [nan, nan]]
    """
    path = os.fspath(path)
    vectors = whole_rows(_load(path), path)
    if table_ids is None:
        _check_row_numbers(path, items)
        table_ids = np.arange(len(vectors)).astype(str)
    elif len(table_ids) != len(vectors):
        raise ValueError(
            f"{path} should have as many rows as the items table. Received: {len(vectors)} rows for "
            f"{len(table_ids)} items; write one row for each, NaN where there is no vector"
        )
    found = pc.index_in(pa.array(items, pa.string()), value_set=pa.array(table_ids, pa.string()))
    missing = found.is_null().to_numpy(zero_copy_only=False)
    rows = found.fill_null(0).to_numpy()
    if missing.all() or np.isnan(vectors[rows[~missing], 0]).all():
        raise ValueError(
            f"{path} should have a vector of at least one item. Received: {len(vectors)} rows, for the ids "
            f"{table_ids[0]!r} to {table_ids[-1]!r}, and none for any of the {len(items)} items, "
            f"e.g. {items[0] if len(items) else None!r}; write the ids alike in both files"
        )
    vectors = vectors[rows]
    vectors[missing] = np.nan
    return vectors


def text_vectors(texts: np.ndarray, dim: int = 64, seed: int = 0) -> np.ndarray:
    """Vectors of texts: TF-IDF, then a truncated singular value decomposition, then length 1 (own choice).

    Words are runs of letters and digits in lower case, so a text without spaces should be split before. The
    values of a multi-valued column are words as they are. Only words of at least two items count: others
    could make no two items alike. Term frequencies enter as `1 + log(tf)`.

    Args:
        texts: object [N] of `str`, or of tuples of `str`.
        dim: the number of singular vectors. With no more words than that, the result is the TF-IDF matrix.
        seed: of the randomised decomposition.

    Returns:
        float32 [N, d], d <= `dim`; NaN rows for items without a known word.

    Raises:
        ValueError: if there is no text, no two share a word, or `dim` is no positive integer.

    Example:

    >>> vectors = text_vectors(np.array(["red shoe", "blue shoe", "red hat", ""], object))
    >>> vectors.shape, (vectors @ vectors[0]).round(2)
    ((4, 2), array([1.  , 0.71, 0.71,  nan], dtype=float32))
    """
    check_count("dim", dim)
    words = [_words(text) for text in texts]
    counts = Counter(word for row in words for word in set(row))
    known = sorted(word for word, items in counts.items() if items > 1)
    if not known:
        what = "no two that share a word" if counts else "nothing but empty texts"
        raise ValueError(
            f"`texts` should hold texts with words in common. Received: {len(words)} items and {what}; "
            "leave this modality out, or name another column"
        )
    # Takes over a second, which only what reads texts should wait for.
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=_same, vocabulary=known, lowercase=False, sublinear_tf=True)
    return _reduced(vectorizer.fit_transform(words), dim, seed)


def cooccurrence_vectors(
    user: np.ndarray, item: np.ndarray, n_users: int, n_items: int, dim: int = 64, seed: int = 0
) -> np.ndarray:
    """Behavioural vectors of items: those that the same users met are near each other (own choice).

    With the distinct pairs `A [U, N]` of zeros and ones, its counts `n_u` and `n_i`, and their means over the
    users and items that have any, `m_U` and `m_N`,

    `M_ui = A_ui / sqrt((n_u + m_U) (n_i + m_N))`, `M ~ P S Q^T`, `v_i = (Q S)_i / |(Q S)_i|`

    so that no item-item matrix is made, whose size grows with the square of the histories. Without the means
    the first singular vectors of a sparse log hold a few users and items each that nobody else met, and half
    of the items end in one cluster (Chaudhuri et al., COLT 2012; seen on tiktok: 57 % of the items).

    Args:
        user: int [E], the user code of each training event.
        item: int [E], its item code.
        n_users: number of users U.
        n_items: number of items N.
        dim: the number of singular vectors; shrinks to U where there are fewer users.
        seed: of the randomised decomposition.

    Returns:
        float32 [N, d]; NaN rows for items without an event.

    Raises:
        ValueError: if there is no event, a code is out of range, the lengths differ, or `dim` is no positive
            integer.

    Example:

    >>> user, item = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2])
    >>> vectors = cooccurrence_vectors(user, item, n_users=3, n_items=4)
    >>> (vectors @ vectors[0]).round(2)
    array([ 1.,  1.,  0., nan], dtype=float32)
    """
    check_count("dim", dim)
    pairs = group(user, item, n_users)
    if not pairs.items.size or pairs.items.max() >= n_items:
        received = f"codes up to {pairs.items.max()}" if pairs.items.size else "no events"
        raise ValueError(
            f"`item` should be codes in 0..{n_items - 1} (`n_items={n_items}`), at least one. "
            f"Received: {received}"
        )
    of_item = np.bincount(pairs.items, minlength=n_items)
    scales = [1 / np.sqrt(n + n[n > 0].mean()) for n in (pairs.counts, of_item)]
    entries = np.repeat(scales[0], pairs.counts) * scales[1][pairs.items]
    met = sparse.csr_matrix((entries, pairs.items, pairs.offsets), shape=(n_users, n_items))
    return _reduced(met.T.tocsr(), dim, seed)


def _load(path: str) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path} should be a .npy file of floats. Received: {error}") from error
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        raise ValueError(
            f"{path} should be a .npy file of floats. Received: an archive of several arrays; "
            "write each with `np.save`"
        )
    return loaded


def _check_row_numbers(path: str, items: np.ndarray) -> None:
    numbers = pc.match_substring_regex(pa.array(items, pa.string()), "^(0|[1-9][0-9]*)$")
    others = np.flatnonzero(~numbers.to_numpy(zero_copy_only=False))
    if others.size:
        raise ValueError(
            f"{path}: without an items table, the ids of the items should be row numbers of the matrix, from "
            f"0. Received: {others.size} ids that are not, e.g. {items[others[0]]!r}; give an items table "
            "whose rows are in the order of the matrix"
        )


def _words(text: str | tuple[str, ...]) -> list[str]:
    return [value for value in text if value] if isinstance(text, tuple) else _WORD.findall(text.lower())


def _same(words: list[str]) -> list[str]:
    return words


def _reduced(matrix: sparse.csr_matrix, dim: int, seed: int) -> np.ndarray:
    """The rows in their first singular vectors, at length 1; NaN where nothing is left of a row."""
    if matrix.shape[1] <= dim:
        return unit_rows(matrix.toarray())
    from sklearn.decomposition import TruncatedSVD

    rows = TruncatedSVD(min(dim, matrix.shape[0]), random_state=seed).fit_transform(matrix)
    whole = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    rows[np.linalg.norm(rows, axis=1) < _LEFT * whole] = 0.0
    return unit_rows(rows)
