"""Looking into JSON texts where they lie, in the words of either database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Double, Text, column, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import TableValuedAlias


class _json_elements(FunctionElement[str]):  # noqa: N801  it reads as the SQL function it is
    type = Text()
    name = "json_elements"
    inherit_cache = True


class _json_text(FunctionElement[Any]):  # noqa: N801  as above
    type = Text()
    name = "json_text"
    inherit_cache = True


class _json_number(FunctionElement[Any]):  # noqa: N801  as above
    type = Double()
    name = "json_number"
    inherit_cache = True


def json_elements(text: ColumnElement[str | None]) -> TableValuedAlias:
    """The elements of the JSON array that `text` holds, a row each, in the column `value`.

    A text that is no JSON array makes the statement fail: ask for those only that are known to hold one.
    """
    return _json_elements(text).table_valued(column("value", Text()), joins_implicitly=True)


def json_text(element: ColumnElement[str], name: str) -> ColumnElement[str | None]:
    """The text under a plain name in an object of `json_elements`, or nothing."""
    return _json_text(element, literal(name))


def json_number(element: ColumnElement[str], name: str) -> ColumnElement[float | None]:
    """The number under a plain name in an object of `json_elements`, or nothing."""
    return _json_number(element, literal(name))


@compiles(_json_elements, "postgresql")
def _postgresql_elements(element: _json_elements, compiler: SQLCompiler, **options: object) -> str:
    return f"jsonb_array_elements(CAST({compiler.process(element.clauses, **options)} AS jsonb))"


@compiles(_json_elements, "sqlite")
def _sqlite_elements(element: _json_elements, compiler: SQLCompiler, **options: object) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_json_text, "postgresql")
def _postgresql_text(element: _json_text, compiler: SQLCompiler, **options: object) -> str:
    value, name = (compiler.process(part, **options) for part in element.clauses)
    return f"({value} ->> {name})"


@compiles(_json_text, "sqlite")
@compiles(_json_number, "sqlite")
def _sqlite_value(element: _json_text | _json_number, compiler: SQLCompiler, **options: object) -> str:
    value, name = (compiler.process(part, **options) for part in element.clauses)
    # An element that is a text, and not an object, is no JSON by itself.
    return f"CASE WHEN json_valid({value}) THEN json_extract({value}, '$.' || {name}) END"


@compiles(_json_number, "postgresql")
def _postgresql_number(element: _json_number, compiler: SQLCompiler, **options: object) -> str:
    value, name = (compiler.process(part, **options) for part in element.clauses)
    return f"CAST({value} ->> {name} AS double precision)"
