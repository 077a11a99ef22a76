"""Tensors of the KServe v2 protocol, as JSON and as bytes behind it (its binary tensor data extension)."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.serve.fields import Fields
from bertjobs.serve.refusal import MALFORMED, Refusal
from bertjobs.serve.token_rows import numbers_of
from bertjobs.wording import shown

TYPES: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "INT32": np.dtype("<i4"), "FP32": np.dtype("<f4")}
BYTES = "BYTES"

_FIELDS = ("name", "shape", "datatype", "parameters", "data")
_PARAMETERS = ("binary_data_size",)


@dataclass(frozen=True)
class RequestTensor:
    """A named array of numbers, or of texts (`BYTES`; then it holds objects).

    Attributes:
        datatype: the protocol's word for it.
    """

    name: str
    datatype: str
    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape


def numbers(name: str, values: NDArray[Any]) -> RequestTensor:
    """A tensor of whole numbers or of floats."""
    datatype = "FP32" if values.dtype.kind == "f" else "INT64"
    return RequestTensor(name, datatype, values.astype(TYPES[datatype]))


def words(name: str, values: Sequence[str], shape: Sequence[int]) -> RequestTensor:
    """A tensor of texts."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return RequestTensor(name, BYTES, array.reshape(shape))


class Binary:
    """The bytes behind a request's JSON, taken tensor by tensor."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def take(self, size: int, where: str) -> bytes:
        """The next bytes.

        Raises:
            Refusal: there are not so many.
        """
        taken = self._data[self._place : self._place + size]
        if len(taken) < size:
            raise Refusal(f"binary_data_size is {size:,}, and {len(taken):,} bytes are left", status=MALFORMED,
                          where=where)  # fmt: skip
        self._place += size
        return taken

    def check_end(self) -> None:
        """Make sure that all has been taken.

        Raises:
            Refusal: there is more.
        """
        if rest := len(self._data) - self._place:
            raise Refusal(f"{rest:,} bytes behind the last tensor belong to none", status=MALFORMED)


def read_tensor(value: Any, binary: Binary, where: str) -> RequestTensor:
    """A tensor of a request.

    Raises:
        Refusal: it is damaged, or of a type that no model here takes.
    """
    fields = Fields.of(value, _FIELDS, where)
    name, datatype = fields.text("name"), fields.choice("datatype", [BYTES, "INT64", "INT32"])
    if "datatype" not in fields:
        raise Refusal(f"tensor {name!r} has no datatype", where=where)
    where = f"input {name!r}"
    shape = _shape(fields["shape"], where)
    parameters = Fields.of(fields.content.get("parameters") or {}, _PARAMETERS, where)
    if "binary_data_size" in parameters:
        if "data" in fields:
            raise Refusal("the tensor has data and binary_data_size", where=where, hint="leave out one of them")
        data = binary.take(parameters.whole("binary_data_size", 0, 0, 1 << 40), where)
        return RequestTensor(name, datatype, _of_bytes(data, datatype, shape, where))
    return RequestTensor(name, datatype, _of_json(fields["data"], datatype, shape, where))


def as_json(tensor: RequestTensor) -> dict[str, Any]:
    """A tensor of an answer, with its data."""
    return {**_described(tensor), "data": tensor.values.ravel().tolist()}


def as_binary(tensor: RequestTensor) -> tuple[dict[str, Any], bytes]:
    """A tensor of an answer, and its bytes."""
    if tensor.datatype == BYTES:
        encoded = [text.encode() for text in tensor.values.ravel()]
        data = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    else:
        data = np.ascontiguousarray(tensor.values).tobytes()
    return {**_described(tensor), "parameters": {"binary_data_size": len(data)}}, data


def _described(tensor: RequestTensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _shape(value: Any, where: str) -> tuple[int, ...]:
    if (
        isinstance(value, list)
        and 1 <= len(value) <= 2
        and all(type(one) is int and 0 < one < 1 << 31 for one in value)
    ):
        return tuple(value)
    raise Refusal(f"the shape is not one or two whole numbers above 0: {shown(value)}", where=where)


def _of_json(data: Any, datatype: str, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """Values in a list, which may be nested as the shape says."""
    if not isinstance(data, list):
        raise Refusal(f"the data are not a list: {shown(data)}", where=where)
    flat = [one for row in data for one in row] if data and all(isinstance(row, list) for row in data) else data
    _check_count(len(flat), shape, where)
    if datatype != BYTES:
        return numbers_of(flat, where).reshape(shape)
    for place, value in enumerate(flat):
        if not isinstance(value, str):
            raise Refusal(f"value {place + 1:,} is not text: {shown(value)}", where=where)
    return words("", flat, shape).values


def _of_bytes(data: bytes, datatype: str, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    if datatype != BYTES:
        kind = TYPES[datatype]
        if len(data) != math.prod(shape) * kind.itemsize:
            raise Refusal(f"shape {list(shape)} of {datatype} needs {math.prod(shape) * kind.itemsize:,} bytes, and "
                          f"there are {len(data):,}", where=where)  # fmt: skip
        return np.frombuffer(data, dtype=kind).reshape(shape).astype(np.int64)
    texts: list[str] = []
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "little")
        text = data[place + 4 : place + 4 + size]
        if place + 4 + size > len(data):
            raise Refusal(f"text {len(texts) + 1:,} is cut off: its length says {size:,} bytes", where=where)
        try:
            texts.append(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            what = f"text {len(texts) + 1:,} is not UTF-8: byte {error.start + 1:,} is {text[error.start]:#04x}"
            raise Refusal(what, where=where, status=MALFORMED) from None
        place += 4 + size
    _check_count(len(texts), shape, where)
    return words("", texts, shape).values


def _check_count(count: int, shape: tuple[int, ...], where: str) -> None:
    if count != math.prod(shape):
        raise Refusal(f"shape {list(shape)} has {math.prod(shape):,} values, and the data {count:,}", where=where)
