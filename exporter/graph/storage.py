"""How a graph of any size is opened, written down and hashed: protobuf ends at 2 GiB, weights do not.

One file holds a model whose weights are at most 1 GiB. Those of a larger one go into a second file (external data),
which ONNX Runtime maps into memory: each weight can leave memory once its kernel has packed it. One file would be
parsed first, and then every weight copied out of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.graph import protobuf
from exporter.runtime.session import open_on_cpu

DATA = ".data"
"""What the name of a file of weights has behind the name of its model."""
LARGEST_FILE = 2**30  # bytes of weights
_PAGE = 4096
_SMALL = 1024  # bytes; what shapes are computed from stays in the graph

Weights = Mapping[str, ir.TensorProtocol]


def open_model(model: ir.Model, options: Any = None) -> Any:
    """Open a model on ONNX Runtime's CPU provider and return the ``InferenceSession``.

    Args:
        model: The model. Where it is small, the session reads its weights where they lie; those of a larger one go
            through a temporary file.
        options: From ``session_options``, which are also the default.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    if not is_small(model):
        with saved(model) as file:
            return open_on_cpu(file, {}, options)
    structure, weights = _apart(model)
    arrays = {name: _contiguous(tensor) for name, tensor in weights.items()}
    return open_on_cpu(_serialized(structure), arrays, options)


def to_bytes(model: ir.Model) -> bytes:
    """Return a model as a serialized ``ModelProto``; equal models give equal bytes.

    Raises:
        ValueError: It is larger than ``LARGEST_FILE``.
    """
    if not is_small(model):
        raise ValueError(f"{weight_bytes(model)} bytes of weights, and one file holds {LARGEST_FILE}")
    return b"".join(_pieces(model))


def save(model: ir.Model, path: Path) -> tuple[Path, ...]:
    """Write a model, and return the files: ``path``, and where one file cannot hold the weights ``path`` + ``.data``.

    Equal models give equal bytes. Tensors begin at multiples of 4096 bytes, so that they can be mapped into memory.
    """
    if is_small(model):
        with path.open("wb") as file:
            file.writelines(_pieces(model))
        return (path,)
    data = path.with_name(path.name + DATA)
    structure, weights = _apart(model, data.name)
    with data.open("wb") as file:
        for tensor in weights.values():
            file.seek(_next_page(file.tell()))
            file.write(_bytes_of(tensor))
    path.write_bytes(_serialized(structure))
    return path, data


@contextmanager
def saved(model: ir.Model) -> Iterator[Path | bytes]:
    """Yield a model for a tool that reads ONNX: its bytes, or a path of temporary files where those are too many."""
    if is_small(model):
        yield to_bytes(model)
        return
    with TemporaryDirectory(prefix="korsbert-") as scratch:
        yield save(model, Path(scratch) / "model.onnx")[0]


def content_hash(model: ir.Model) -> str:
    """Return the SHA-256 of ``to_bytes``; of a larger model, that of its structure and then of each weight."""
    digest = hashlib.sha256()
    for piece in _pieces(model) if is_small(model) else _structure_and_weights(model):
        digest.update(piece)
    return digest.hexdigest()


def is_small(model: ir.Model) -> bool:
    """Whether one file can hold a model."""
    return weight_bytes(model) <= LARGEST_FILE


def weight_bytes(model: ir.Model) -> int:
    """Return the size of all initializers in bytes."""
    values = model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _pieces(model: ir.Model) -> Iterator[protobuf.Piece]:
    """Yield the bytes of a serialized ``ModelProto``; weights are not copied."""
    structure, weights = _apart(model)
    return protobuf.pieces(ir.to_proto(structure), {name: _bytes_of(tensor) for name, tensor in weights.items()})


def _structure_and_weights(model: ir.Model) -> Iterator[protobuf.Piece]:
    structure, weights = _apart(model)
    yield _serialized(structure)
    yield from map(_bytes_of, weights.values())


def _serialized(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def _contiguous(tensor: ir.TensorProtocol) -> npt.NDArray[Any]:
    """Return a tensor's numbers in one piece of memory: those of torch as they lie there, without a copy."""
    array: npt.NDArray[Any] = np.ascontiguousarray(tensor.numpy())
    return array


def _bytes_of(tensor: ir.TensorProtocol) -> memoryview:
    return _contiguous(tensor).reshape(-1).view(np.uint8).data  # Python knows no bfloat16


def _next_page(offset: int) -> int:
    return -(-offset // _PAGE) * _PAGE


def _apart(model: ir.Model, file: str = "weights") -> tuple[ir.Model, Weights]:
    """Return a copy of a model in which large tensors are references to a file, and those tensors in its order."""
    structure = model.clone()
    weights: dict[str, ir.TensorProtocol] = {}
    offset = 0
    for name, value in structure.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _SMALL:
            continue
        weights[name] = tensor
        shape = ir.Shape(tensor.shape.numpy())
        value.const_value = ir.ExternalTensor(
            file,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=shape,
            name=name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )
        offset = _next_page(offset + tensor.nbytes)
    return structure, weights
