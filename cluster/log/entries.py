"""Entries as bytes, and back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic_core import PydanticSerializationError

from cluster.records import Entry

_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


def encode(entry: Entry) -> bytes:
    """The entry as JSON."""
    try:
        return entry.model_dump_json().encode()
    except (PydanticSerializationError, UnicodeEncodeError):
        # JSON may carry half a surrogate pair ("\ud800"), which UTF-8 cannot: one odd character must not lose a record.
        return _ENTRY.dump_json(type(entry).model_validate(_mended(entry.model_dump())))


def decode(payload: bytes | str) -> Entry:
    """What `encode` wrote. Raises `ValueError` (pydantic's) if it is something else."""
    return _ENTRY.validate_json(payload)


def _mended(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {_mended(key): _mended(item) for key, item in value.items()}
        case list() | tuple():
            return [_mended(item) for item in value]
        case _:
            return value
