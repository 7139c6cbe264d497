"""Vectors of FP32 numbers: an array on PostgreSQL, which its extension pgvector can index, and bytes on SQLite."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import REAL, ColumnElement, Dialect, LargeBinary
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

#: PostgreSQL's binary form of an array of one dimension: this much in front, then each number behind its length.
ARRAY_HEADER: Final = 20
ARRAY_NUMBER: Final = np.dtype([("length", ">i4"), ("number", ">f4")])


class Vector(TypeDecorator[NDArray[np.float32]]):
    """A vector; SQLite keeps it as little-endian bytes."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(REAL) if dialect.name == "postgresql" else LargeBinary())

    def process_bind_param(self, value: NDArray[np.float32] | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return value.tolist() if dialect.name == "postgresql" else value.astype("<f4").tobytes()

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return _as_bytes(column)


class _Bytes(TypeDecorator[NDArray[np.float32]]):
    """What either database sends of a vector: as bytes, because making a list of numbers takes ten times as long."""

    impl = LargeBinary
    cache_ok = True

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> NDArray[np.float32] | None:
        if value is None:
            return None
        if dialect.name != "postgresql":
            return np.frombuffer(value, "<f4")
        return np.frombuffer(value, ARRAY_NUMBER, offset=ARRAY_HEADER)["number"].astype(np.float32)


class _as_bytes(FunctionElement[Any]):  # noqa: N801  it reads as the SQL function it is
    type = _Bytes()
    name = "as_bytes"
    inherit_cache = True


@compiles(_as_bytes, "postgresql")
def _postgresql_bytes(element: _as_bytes, compiler: SQLCompiler, **options: Any) -> str:
    return f"array_send({compiler.process(element.clauses, **options)})"


@compiles(_as_bytes, "sqlite")
def _sqlite_bytes(element: _as_bytes, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)
