"""The files that an ONNX graph reads beside itself, found without the library onnx.

Tensors of a graph may lie in other files (``external_data`` of a TensorProto). Whoever replaces such a file replaces
the encoder, so its digest belongs to the encoder's identity. The messages and their numbers are those of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from ...common.transfer.remote_names import local_path
from ...errors import EncoderError, InputError, MissingEncoderError
from ...provenance import digest_file

#: Message -> number of a field -> message in it. What cannot hold a tensor is left out.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE, _LOCATION = 1, 2, b"location"
#: A location that ONNX Runtime takes for an address in its memory, whatever files there are.
_IN_MEMORY = "*/_ORT_MEM_ADDR_"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT, _DEEPEST = 10, 64


def model_digests(graph: Path) -> dict[str, str]:
    """Digests of all that ONNX Runtime reads of a model: file name (relative to the graph's folder) -> digest.

    Raises
    ------
    EncoderError
        The graph is damaged, or a tensor lies in a file that is absent or outside of the graph's folder.
    """
    try:
        locations = sorted(set(_locations(graph)))
    except (ValueError, IndexError, RecursionError) as error:
        raise EncoderError(
            "the model cannot be used (it is no ONNX graph, or is damaged or cut short)",
            where=graph,
            hint="Export the model again",
        ) from error
    digests = {graph.name: digest_file(graph)}
    for location in locations:
        if location.startswith(_IN_MEMORY):
            raise EncoderError(
                "its weights are said to lie in the memory of the program",
                where=graph,
                hint="Export the model with its weights beside it",
            )
        try:
            path = local_path(graph.parent, location)
        except InputError as error:
            raise EncoderError(
                f"its weights lie outside of its folder ({error.what})",
                where=graph,
                hint="Export the model with its weights beside it",
            ) from error
        if not path.is_file():
            raise MissingEncoderError(
                f"its weights {location} are not there", where=graph, hint=f"Put {location} beside {graph.name}"
            )
        digests[location] = digest_file(path)
    return digests


def _locations(graph: Path) -> Iterator[str]:
    if graph.stat().st_size == 0:
        raise ValueError("empty")
    with graph.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield from _in_message(data, 0, len(data), "Model", 0)


def _in_message(data: mmap.mmap, start: int, stop: int, kind: str, depth: int) -> Iterator[str]:
    """Locations in the message of a kind that lies at ``start`` to ``stop``."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    known = _FIELDS[kind]
    for number, first, last in _fields(data, start, stop):
        inner = known.get(number)
        if inner == "Entry":
            entry = {key: data[low:high] for key, low, high in _fields(data, first, last)}
            if entry.get(_KEY) == _LOCATION:
                yield entry[_VALUE].decode()
        elif inner is not None:
            yield from _in_message(data, first, last, inner, depth + 1)


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, stop) of each field of bytes in a message."""
    while start < stop:
        tag, start = _varint(data, start, stop)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, start = _varint(data, start, stop)
            continue
        if wire == _BYTES:
            size, start = _varint(data, start, stop)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"unknown kind of field {wire}")
        if number == 0 or start + size > stop:
            raise ValueError("a field that ends outside of its message")
        if wire == _BYTES:
            yield number, start, start + size
        start += size


def _varint(data: mmap.mmap, start: int, stop: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        if start + place >= stop:
            break
        byte = data[start + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, start + place + 1
    raise ValueError("a number that does not end")
