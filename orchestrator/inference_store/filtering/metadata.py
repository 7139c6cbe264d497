"""Metadata filters: values compared as what the filter declares them to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select

from orchestrator.errors import InvalidRequest
from orchestrator.inference_store.filtering.checks import text_of, texts_of
from orchestrator.inference_store.filtering.comparing import compared
from orchestrator.inference_store.filtering.derived import DERIVED, derived, derived_condition
from orchestrator.inference_store.filtering.knowledge import Known
from orchestrator.inference_store.filtering.membership import Source, Way, is_among
from orchestrator.inference_store.filtering.values import BEHIND, Number, fitted, is_nan, parse_float, parse_int
from orchestrator.inference_store.models import MetadataFilter, MetadataFilterOperator, MetadataFilterType
from orchestrator.inference_store.tables import HEAD, MetadataLeafRow, MetadataRow

Operator = MetadataFilterOperator
Type = MetadataFilterType
Column = ColumnElement[Any]

#: The types of leaves that a filter on documents compares with.
LEAF_TYPES: Final = {
    Type.JSON_STRING: ["string"],
    Type.JSON_INT: ["int"],
    Type.JSON_FLOAT: ["float", "int"],
}
PARSERS: Final[dict[Type, Callable[[str], Number | None]]] = {
    Type.INT: parse_int,
    Type.JSON_INT: parse_int,
    Type.FLOAT: parse_float,
    Type.JSON_FLOAT: parse_float,
}


def condition(model_id: str, filter_: MetadataFilter, way: Way, known: Known) -> ColumnElement[bool]:
    """Whether an inference has metadata that the filter is true of.

    Raises:
        InvalidRequest: the value is none of the declared type, or no list where the operator is `in`.
    """
    kind, operator = Type(filter_.type), Operator(filter_.operator)
    key = text_of("metadata_filter: key", filter_.key)
    values = _values(kind, operator, text_of("metadata_filter: value", filter_.value))
    if kind in LEAF_TYPES:
        found = select(MetadataLeafRow.inference_id).where(
            MetadataLeafRow.model_id == model_id,
            MetadataLeafRow.path == fitted(key),
            MetadataLeafRow.type.in_(LEAF_TYPES[kind]),
            _compared(kind, operator, values, MetadataLeafRow),
        )
        return is_among(way, Source(found, MetadataLeafRow))
    stored: Select[Any] = select(MetadataRow.inference_id).where(
        MetadataRow.model_id == model_id,
        MetadataRow.key == key,
        MetadataRow.type == kind.value,
        _compared(kind, operator, values, MetadataRow),
    )
    if kind is not Type.STRING or key not in DERIVED:
        return is_among(way, Source(stored, MetadataRow))
    if known.stored is not None and key not in known.stored:
        return derived_condition(model_id, key, operator, values, way)
    return is_among(way, Source(stored, MetadataRow), derived(model_id, key, operator, values))


def _values(kind: Type, operator: Operator, text: str) -> list[str]:
    """What to compare with; for numbers the texts that sort as they do, without NaN, which equals nothing."""
    given = _listed(text) if operator is Operator.IN else [text]
    parse = PARSERS.get(kind)
    if parse is None:
        return given
    parsed = []
    for value in given:
        number = parse(value)
        if number is not None:
            parsed.append(number.text)
        elif parse is parse_int or not is_nan(value):
            raise InvalidRequest(f"metadata_filter: value: {value[:80]!r} is no {kind.value.removeprefix('json.')}")
    return parsed


def _listed(text: str) -> list[str]:
    """The values of `[v1, v2, …]`: the inverse of `MetadataFilter.form_values_for_in_operator`."""
    if not (text.startswith("[") and text.endswith("]") and len(text) > 1):
        raise InvalidRequest(f"metadata_filter: value: {text[:80]!r} is no list: write [v1, v2] for the operator in")
    inner = text[1:-1]
    return texts_of("metadata_filter: value", [value.strip() for value in inner.split(",")] if inner.strip() else [])


def _compared(kind: Type, operator: Operator, values: Sequence[str], row: Any) -> ColumnElement[bool]:
    if operator is not Operator.IN and not values:
        return false()  # NaN
    if kind in (Type.STRING, Type.JSON_STRING):
        return _strings(operator, values, row.head, row.value)
    if kind is Type.JSON_FLOAT:
        return _mixed_numbers(operator, values, row)
    return compared(operator, values, row.head)


def _strings(operator: Operator, values: Sequence[str], head: Column, value: Column) -> ColumnElement[bool]:
    """The head decides for short values; for long ones it narrows the search, and the value decides."""
    short = [text for text in values if len(text) < HEAD]
    if operator is Operator.IN:
        long = [text for text in values if len(text) >= HEAD]
        found = head.in_(short)
        return or_(found, and_(head.in_([text[:HEAD] for text in long]), value.in_(long))) if long else found
    if short:
        return compared(operator, short, head)
    start = values[0][:HEAD]
    # Heads sort as values do, except that equal ones may belong to different values.
    near = {Operator.LESS: Operator.LESS_OR_EQUAL, Operator.GREATER: Operator.GREATER_OR_EQUAL}.get(operator, operator)
    is_near = head.is_not(None) if operator is Operator.NOT_EQUAL else compared(near, [start], head)
    return and_(is_near, compared(operator, values, value))


def _mixed_numbers(operator: Operator, values: Sequence[str], row: Any) -> ColumnElement[bool]:
    """Floats, and integers taken for floats: their texts go on behind that of the float."""
    head: Column = row.head
    match operator:
        case Operator.IN:
            start = func.substr(head, 1, 16)
            return or_(head.in_(values), and_(row.type == "int", start.in_(values)))
        case Operator.EQUAL:
            return head.between(values[0], values[0] + BEHIND)
        case Operator.NOT_EQUAL:
            return or_(head < values[0], head > values[0] + BEHIND)
        case Operator.LESS | Operator.GREATER_OR_EQUAL:
            return compared(operator, values, head)
        case Operator.LESS_OR_EQUAL | Operator.GREATER:
            return compared(operator, [values[0] + BEHIND], head)
