"""The commonest answer by far, read without NumPy: a classifier's scores as one flat JSON list.

For a request of one datum NumPy's overhead is most of the work. Whatever is not exactly that answer is
left to `oip` and `codecs`, which also say what is wrong with it. A score is stored as it came, where the
way through an array would round it to the datatype first.
"""

from __future__ import annotations

from typing import Any

import orjson

from orchestrator.registry.models import Endpoint, InferenceAction, OutputCodec

FLOATS = ("FP32", "FP64")
NUMBERS = {int, float}
#: Beyond it a number is infinite as FP32, which is refused.
LARGEST = 3.4e38


class Scores:
    """Reads such answers of one endpoint."""

    def __init__(self, endpoint: Endpoint, action: InferenceAction, output_name: str | None) -> None:
        labels = endpoint.labels or []
        self.labels = labels
        self.output_name = output_name
        self.top_only = action is InferenceAction.PREDICT
        #: Databases refuse NUL; the other way says so.
        self.applies = (
            endpoint.output_codec is OutputCodec.CLASSIFICATION and bool(labels) and "\0" not in "".join(labels)
        )

    def read(self, body: bytes, count: int) -> list[str] | None:
        """The stored text of each of `count` datums, or None if the answer is of another kind."""
        scores = self.flat_scores(body, count) if self.applies else None
        if scores is None:
            return None
        labels, width = self.labels, len(self.labels)
        columns = range(width)
        texts = []
        for start in range(0, count * width, width):
            row = scores[start : start + width]
            # Among equals the first comes first, also in reverse.
            order = [row.index(max(row))] if self.top_only else sorted(columns, key=row.__getitem__, reverse=True)
            texts.append(orjson.dumps([{"label": labels[at], "score": row[at]} for at in order]).decode())
        return texts

    def flat_scores(self, body: bytes, count: int) -> list[float] | None:
        """The scores of all datums one after another."""
        try:
            document: Any = orjson.loads(body)
            (output,) = document["outputs"]
            name, datatype, shape, scores = output["name"], output["datatype"], output["shape"], output["data"]
        except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
            return None
        right = (
            (self.output_name is None or name == self.output_name)
            and isinstance(name, str)
            and datatype in FLOATS
            and shape == [count, len(self.labels)]
            and isinstance(scores, list)
            and len(scores) == count * len(self.labels)
            and set(map(type, scores)) <= NUMBERS
        )
        if not right or not scores or not -LARGEST < min(scores) <= max(scores) < LARGEST:
            return None
        return list(map(float, scores)) if int in map(type, scores) else scores
