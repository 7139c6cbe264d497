"""Reads annotations files a record at a time, and says which one is wrong."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from orchestrator.errors import BadArchive

M = TypeVar("M", bound=BaseModel)

#: Lists and objects inside each other that a record may have.
DEEPEST = 64

_SPACE = re.compile(r"[ \t\r\n]*")


class Record(NamedTuple):
    """A JSON object of the file, and its line (in a JSON list: its place), counted from 1."""

    line: int
    value: dict[str, Any]

    def model(self, kind: type[M], member: str) -> M:
        """This record as `kind`.

        Raises:
            BadArchive: it does not fit.
        """
        try:
            return kind.model_validate(self.value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(step) for step in first["loc"])
            raise bad(member, self.line, f"{place}: {first['msg']}" if place else first["msg"]) from error


def bad(member: str, line: int, reason: str) -> BadArchive:
    """The error for one line of a member."""
    return BadArchive(f"{member}, line {line}: {reason}", member=member, line=line)


def read_lines(member: str, chunks: Iterable[bytes], longest: int) -> Iterator[Record]:
    """The records of a file with one JSON object a line; empty lines are passed over."""
    for number, line in enumerate(_split(member, chunks, longest), start=1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if text.strip():
            yield Record(number, _parse(member, number, text))


def read_list(member: str, chunks: Iterable[bytes], longest: int) -> Iterator[Record]:
    """The records of a file that is one JSON list of objects, an element in memory at a time."""
    for number, element in enumerate(_elements(member, chunks, longest), start=1):
        yield Record(number, _parse(member, number, element.encode()))


def _split(member: str, chunks: Iterable[bytes], longest: int) -> Iterator[bytes]:
    number = 1
    rest = bytearray()
    for chunk in chunks:
        *lines, tail = chunk.split(b"\n")
        for line in lines:
            whole = bytes(rest) + line
            rest.clear()
            if len(whole) > longest:
                raise bad(member, number, f"longer than {longest} bytes")
            yield whole
            number += 1
        rest += tail
        if len(rest) > longest:
            raise bad(member, number, f"longer than {longest} bytes")
    if rest:
        yield bytes(rest)


def _parse(member: str, number: int, text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text.decode())
    except UnicodeDecodeError as error:
        raise bad(member, number, f"not valid UTF-8: {error.reason} at byte {error.start}") from error
    except orjson.JSONDecodeError as error:
        raise bad(member, number, f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise bad(member, number, "not a JSON object")
    reason = unstorable(value)
    if reason:
        raise bad(member, number, reason)
    return value


def unstorable(value: Any, depth: int = 1) -> str | None:
    """Why a database would refuse the value, if it would."""
    if isinstance(value, str):
        return "a text holds a NUL character" if "\0" in value else None
    if not isinstance(value, dict | list):
        return None
    if depth > DEEPEST:
        return f"nested more than {DEEPEST} deep"
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return next((reason for part in parts if (reason := unstorable(part, depth + 1))), None)


def _elements(member: str, chunks: Iterable[bytes], longest: int) -> Iterator[str]:
    """The texts of a list's elements; what is inside them is left to be parsed by the strict parser."""
    cursor = _Cursor(member, chunks, longest)
    cursor.expect("[")
    if cursor.peek() == "]":
        cursor.expect("]")
    else:
        yield cursor.element()
        while cursor.peek() == ",":
            cursor.expect(",")
            yield cursor.element()
        cursor.expect("]")
    if cursor.peek():
        raise bad(member, cursor.number, "something follows the list")


class _Cursor:
    """A place in a JSON text of which a window is in memory."""

    def __init__(self, member: str, chunks: Iterable[bytes], longest: int) -> None:
        self.member = member
        self.longest = longest
        self.number = 1
        self.text = ""
        self.at = 0
        self.source = iter(chunks)
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.ended = False

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def expect(self, character: str) -> None:
        """Go past `character`."""
        if self.peek() != character:
            raise bad(self.member, self.number, f"not a JSON list of objects: {character!r} is missing")
        self.at += 1

    def element(self) -> str:
        """Go past the next object, and return its text."""
        if self.peek() != "{":
            raise bad(self.member, self.number, "not a JSON object")
        while True:
            end = self.end_of_element()
            if end is not None:
                found = self.text[self.at : end]
                self.at = end
                self.number += 1
                return found
            if not self.more(double=True):
                raise bad(self.member, self.number, "not valid JSON, or cut off")

    def end_of_element(self) -> int | None:
        """Where the object that begins here ends, if it ends within the window."""
        try:
            return json.JSONDecoder().raw_decode(self.text, self.at)[1]
        except ValueError:
            return None  # cut off by the window, or wrong: the end of the text tells
        except RecursionError as error:
            raise bad(self.member, self.number, f"nested more than {DEEPEST} deep") from error

    def more(self, *, double: bool = False) -> bool:
        """Move the window on; `double` it so that a long element is not parsed for every chunk anew."""
        self.text = self.text[self.at :]
        self.at = 0
        if len(self.text) > self.longest:
            raise bad(self.member, self.number, f"longer than {self.longest} bytes")
        before = len(self.text)
        wanted = before + max(1, before if double else 0)
        try:
            while len(self.text) < wanted and not self.ended:
                chunk = next(self.source, b"")
                self.ended = not chunk
                self.text += self.utf8.decode(chunk, final=self.ended)
        except UnicodeDecodeError as error:
            raise bad(self.member, self.number, f"not valid UTF-8: {error.reason}") from error
        return len(self.text) > before
