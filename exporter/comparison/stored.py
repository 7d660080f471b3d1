"""Numbers to compare, from vectors in the types that they are stored in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.errors import InputError
from exporter.runtime.contract import VECTOR_TYPES, VectorType
from exporter.runtime.vector_types import Vectors

_LIKE: dict[VectorType, str] = {
    "float32": "numbers",
    "float16": "numbers",
    "int8": "codes",
    "uint8": "codes",
    "binary": "bits",
    "ubinary": "bits",
}
_OF_BYTES: dict[str, tuple[VectorType, VectorType]] = {"int8": ("int8", "binary"), "uint8": ("uint8", "ubinary")}


def kind_of(dtype: VectorType) -> str:
    """Return what vectors of a type hold: ``"numbers"``, ``"codes"`` or ``"bits"``. One kind can be compared."""
    return _LIKE[dtype]


def vector_type_of(array: npt.NDArray[Any], stated: object, dimension: int | None, given: str) -> VectorType:
    """Return the type that vectors are stored in.

    Args:
        array: (rows, numbers) of them.
        stated: What their file says.
        dimension: Of the other side's vectors, where it is known: it tells codes from bits.
        given: The file, for messages.

    Raises:
        InputError: The file says another type than it has.
    """
    found = str(array.dtype)
    if stated is not None:
        if stated not in VECTOR_TYPES or found not in {
            str(stated),
            {"binary": "int8", "ubinary": "uint8"}.get(str(stated)),
        }:
            raise InputError(f"{given}: says that it holds {str(stated)[:80]!r}, and holds {found}")
        return next(known for known in VECTOR_TYPES if known == stated)
    if found in _OF_BYTES:
        codes, bits = _OF_BYTES[found]
        return bits if dimension is not None and array.shape[1] == -(-dimension // 8) != dimension else codes
    return "float16" if found == "float16" else "float32"


def numbers_of(array: npt.NDArray[Any], dtype: VectorType, dimension: int | None = None) -> Vectors:
    """Return (rows, dimension) float32 to compare: numbers as they are, codes as int8 has them, and bits as 1 and -1.

    Args:
        array: (rows, numbers) as they are stored.
        dtype: The type.
        dimension: Of vectors that are stored as bits, which are padded to whole bytes.
    """
    match dtype:
        case "float32" | "float16":
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is told
                return np.asarray(array, np.float32)
        case "int8":
            return array.astype(np.float32)
        case "uint8":
            return array.astype(np.float32) - 128
        case "binary":
            packed = array.view(np.uint8) ^ np.uint8(128)
        case "ubinary":
            packed = array
    return np.unpackbits(packed, axis=1)[:, :dimension].astype(np.float32) * 2 - 1
