"""Rows of modality matrices: whole or missing, and of length 1."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def checked_modalities(modalities: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns modality matrices as float32 [N, d_m], with NaN rows where one is missing (all NaN or all 0).

    Raises:
        ValueError: if there is none, one is no matrix of floats, a row is infinite or NaN in part, the
            numbers of rows differ, or a modality has no row at all.

    Example:

    >>> checked_modalities({"image": np.array([[1.0, 2.0], [0.0, 0.0]])})["image"].tolist()
    [[1.0, 2.0], [nan, nan]]
    """
    if not modalities:
        raise ValueError("`modalities` should hold at least one matrix. Received: none")
    matrices = {name: whole_rows(matrix, f"`{name}`") for name, matrix in modalities.items()}
    rows = {name: len(matrix) for name, matrix in matrices.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"`modalities` should have one row for each item. Received: rows={rows}")
    for name, matrix in matrices.items():
        if np.isnan(matrix[:, 0]).all():
            raise ValueError(
                f"`{name}` should have a vector of at least one item. Received: {len(matrix)} rows, all of "
                "them NaN or 0; leave this modality out"
            )
    return matrices


def whole_rows(matrix: np.ndarray, name: str) -> np.ndarray:
    """Returns a matrix as float32 of its own, in which each row is finite or, where missing, all NaN.

    Args:
        matrix: float [N, d]; rows that are all NaN or all 0 are missing.
        name: what to call it in errors.

    Raises:
        ValueError: if it is no matrix of floats, or a row is infinite or NaN in part.

    Example:

    >>> whole_rows(np.array([[0.0, 0.0], [1.0, 0.0]]), "image").tolist()
    [[nan, nan], [1.0, 0.0]]
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or 0 in matrix.shape:
        raise ValueError(
            f"{name} should be a matrix of floats, a row for each item. "
            f"Received: shape={matrix.shape}, dtype={matrix.dtype}"
        )
    with np.errstate(over="ignore"):
        rows = matrix.astype(np.float32)
    nan = np.isnan(rows)
    unfit = np.isinf(rows).any(axis=1) | (nan.any(axis=1) & ~nan.all(axis=1))
    if unfit.any():
        raise ValueError(
            f"{name} should hold rows of finite float32 numbers, or all NaN where one is missing. "
            f"Received: {unfit.sum()} other rows of {len(rows)}, the first is row {np.argmax(unfit)} (from 0)"
        )
    rows[~rows.any(axis=1)] = np.nan
    return rows


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Returns the rows at length 1, as float32; NaN rows where they are NaN or 0.

    Example:

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8], [nan, nan]], dtype=float32)
    """
    wide = matrix.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths > 0, lengths, np.nan)).astype(np.float32)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises a `ValueError` unless `value` is an integer of at least `least`.

    Example:

    >>> check_count("dim", 64)
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{name}` should be an integer >= {least}. Received: {name}={value!r}")
