"""A serialized ``ModelProto`` piece by piece, so that a model's weights need not be in memory several times.

protobuf serializes a message as its fields in the order of their numbers, each with a tag, and a message or bytes with
their length before them (https://protobuf.dev/programming-guides/encoding). So the weights can be left out, and their
bytes put in from where they lie. The pieces together are what ``SerializeToString(deterministic=True)`` gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx

_GRAPH = 7  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_RAW_DATA = 9  # of TensorProto
_LENGTH_DELIMITED = 2  # the type of a field that is a message or bytes
_OF_FILES = ("data_location", "external_data")  # of TensorProto, where weights are in another file

Piece = bytes | memoryview


def pieces(model: onnx.ModelProto, weights: Mapping[str, memoryview]) -> Iterator[Piece]:
    """Yield a serialized model whose weights are given apart.

    Args:
        model: Its initializers that are in ``weights`` have no numbers of their own.
        weights: Little-endian bytes of initializers, by name.
    """
    graph: list[Piece] = [_part(model.graph, 0, _INITIALIZER)]
    for tensor in model.graph.initializer:
        body: list[Piece] = [_part(tensor, 0, _RAW_DATA)]
        if tensor.name in weights:
            body += _field(_RAW_DATA, [weights[tensor.name]])
        elif tensor.raw_data:
            body += _field(_RAW_DATA, [tensor.raw_data])
        body.append(_part(tensor, _RAW_DATA + 1, leave_out=_OF_FILES if tensor.name in weights else ()))
        graph += _field(_INITIALIZER, body)
    graph.append(_part(model.graph, _INITIALIZER + 1))
    yield _part(model, 0, _GRAPH)
    yield from _field(_GRAPH, graph)
    yield _part(model, _GRAPH + 1)


def _part(message: Any, first: int, end: int = 2**29, leave_out: tuple[str, ...] = ()) -> bytes:
    """Return the serialized fields of a message with numbers from ``first`` to below ``end``."""
    part = type(message)()
    for field, value in message.ListFields():
        if first <= field.number < end and field.name not in leave_out:
            if field.is_repeated:
                getattr(part, field.name).extend(value)
            elif field.message_type is not None:
                getattr(part, field.name).CopyFrom(value)
            else:
                setattr(part, field.name, value)
    data: bytes = part.SerializeToString(deterministic=True)
    return data


def _field(number: int, body: list[Piece]) -> list[Piece]:
    """Return a field that is a message or bytes, made of pieces."""
    length = sum(len(piece) for piece in body)
    return [_varint(number << 3 | _LENGTH_DELIMITED) + _varint(length), *body]


def _varint(number: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first; the highest bit says that more follow."""
    groups = bytearray()
    while number >= 2**7:
        groups.append(number % 2**7 + 2**7)
        number //= 2**7
    return bytes([*groups, number])
