"""Whether an ONNX model refers to data outside of itself, read from its bytes without the ``onnx`` package.

A tensor of an ONNX model may lie in another file, which ``external_data`` names. onnxruntime would read that file,
whether the bundle's manifest lists it or not. So any reference but to the engine's own file of weights is refused.

Source: onnx.proto (https://github.com/onnx/onnx), and https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from exporter.errors import BundleError

# Message -> its fields that hold, at any depth, a tensor: number of the field -> message.
_MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of TensorProto
_KEY, _VALUE = 1, 2  # fields of StringStringEntryProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which ONNX has none of


def refuse_external_data(content: bytes, path: Path, own: str | None = None) -> bytes:
    """Return ``content``, the bytes of an ONNX model, if all its tensors are inside of it or of its file of weights.

    Args:
        content: The model.
        path: Its file, for the message.
        own: Name of its file of weights, where it has one.

    Raises:
        BundleError: A tensor refers to another file, or ``content`` is not an ONNX model.
    """
    try:
        external = _refers_elsewhere(memoryview(content), own)
    except (IndexError, ValueError) as error:
        raise BundleError(f"{path}: this is not an ONNX model", next_step="export it again") from error
    if external:
        raise BundleError(
            f"{path}: this model reads weights from a file that is not its own",
            next_step="do not use this bundle; export it again",
        )
    return content


def _refers_elsewhere(model: memoryview, own: str | None) -> bool:
    left = [("ModelProto", model)]
    while left:
        message, content = left.pop()
        for field, value in _fields(content):
            if message == "TensorProto" and field == _EXTERNAL_DATA:
                if own is None or not isinstance(value, memoryview) or _names_another(value, own):
                    return True
            elif message == "TensorProto" and field == _DATA_LOCATION and value and own is None:
                return True
            inner = _MESSAGES[message].get(field)
            if inner is not None and isinstance(value, memoryview):
                left.append((inner, value))
    return False


def _names_another(entry: memoryview, own: str) -> bool:
    """Whether an entry of ``external_data`` is the location of another file than ``own``."""
    found = dict(_fields(entry))
    return _text(found.get(_KEY)) == "location" and _text(found.get(_VALUE)) != own


def _text(value: memoryview | int | None) -> str | None:
    return bytes(value).decode(errors="replace") if isinstance(value, memoryview) else None


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the number and the value of each field of a message; a fixed-width number is yielded as its bytes.

    Raises:
        IndexError: The message ends within a number.
        ValueError: It is not a protobuf message.
    """
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        if tag >> 32:
            raise ValueError(f"tag {tag}")
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(content, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(content):
            raise ValueError("a field ends behind its message")
        yield tag >> 3, content[at : at + size]
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at ``at``, and where the next field begins."""
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift >= 70:
            raise ValueError("a number of more than ten bytes")
