"""Filters on a million inferences: the index that each answers from, and what the first page and the count take.

    python -m benchmarks.filters --database sqlite --plans

A fifth of the inferences are callers', with four items of metadata, a place and a source; the others are those of three
bulk jobs, one of which is not indexed yet. PostgreSQL has counted its rows, as it does by itself; SQLite never has.
Times are medians, in milliseconds, of what `filter_inferences` and `count_inferences` ask the database.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks.figures import Figure, in_digits, parser, report, without_goal
from benchmarks.inferences import Store, fill, fill_embeddings
from benchmarks.stage import stage
from benchmarks.statements import Statement, explain, recorded, shorten
from orchestrator.database import reading
from orchestrator.inference_store.filtering import count, page
from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    DeconstructedInferenceFilter,
    EmbeddingFilter,
    GeoCircle,
    GeolocationFilter,
    GeoPoint,
    GeoRectangle,
    MetadataFilter,
    NewGetInferencesRequest,
    TimeWindowFilter,
)
from orchestrator.registry.models import Snapshot

#: How the databases name the indexes of a plan.
INDEX: Final = re.compile(r"(?:Index (?:Only )?Scan(?: Backward)? using|Bitmap Index Scan on|INDEX) ([a-z]\w+)")
#: How they say that they look at every row of a table.
SCAN: Final = re.compile(
    r"(?:Seq Scan on|SCAN) (inferences|inference_metadata|inference_metadata_leaves|inference_labels)(?! USING)"
)
#: Numbers of an embedding.
SIZE: Final = 128


class Asked(NamedTuple):
    """What a filter took: milliseconds of its first page and count, what it found, and how."""

    first_page: float
    counting: float
    found: int
    plans: list[str]

    @property
    def indexes(self) -> list[str]:
        """Names of the indexes that were used, in the order of the plans."""
        return list(dict.fromkeys(name for plan in self.plans for name in INDEX.findall(plan)))

    @property
    def scanned(self) -> list[str]:
        """Names of large tables of which every row was looked at."""
        return [table for plan in self.plans for table in SCAN.findall(plan)]


def main() -> None:
    """Measure, and print a table."""
    report(measure, options().parse_args())


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--embeddings", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--plans", action="store_true", help="print every plan")
    return options


def measure(options: argparse.Namespace) -> list[Figure]:
    """Times and plans in the store that `fill` makes."""
    with stage(options.database, 1) as surroundings:
        return measured(surroundings.snapshot, options)


def measured(snapshot: Snapshot, options: argparse.Namespace) -> list[Figure]:
    """As `measure`, on a stage that is there."""
    store = fill(snapshot, options.rows)
    figures = []
    for name, filter_ in filters(store).items():
        asked = ask(store.model_id, NewGetInferencesRequest(filters=filter_), options.rounds)
        if options.plans:
            print(f"\n{name}", *(shorten(line, 220) for plan in asked.plans for line in plan.splitlines()), sep="\n")
        figures += shown(name, asked, options.rows)
    if options.embeddings:
        figures += search(options)
    return figures


def shown(name: str, asked: Asked, rows: int) -> list[Figure]:
    """A filter's index, and its times."""
    # To read a whole table is right where a good part of it is found.
    met = bool(asked.indexes) and (not asked.scanned or asked.found > rows // 10)
    return [
        Figure(name, "an index", ", ".join(asked.indexes), met),
        without_goal("  first page", f"{in_digits(asked.first_page)} ms"),
        without_goal("  count", f"{in_digits(asked.counting)} ms, {asked.found:,} found"),
    ]


def search(options: argparse.Namespace) -> list[Figure]:
    """What the nearest fifty take among random embeddings, which have no structure that an index could use."""
    model_id = fill_embeddings(options.embeddings, SIZE)
    figures = []
    for metric in ("cosine", "l2", "negative_dot_product"):
        request = NewGetInferencesRequest(
            embedding_filters=EmbeddingFilter(query_embedding=[1.0] * SIZE, distance_metric=metric)
        )
        taken = typical(partial(run, page, model_id, request), options.rounds)
        what = f"embeddings, {metric}: the nearest 50 of {options.embeddings:,}"
        figures.append(without_goal(what, f"{in_digits(taken)} ms"))
    return figures


def filters(store: Store) -> dict[str, BaseInferenceFilter]:
    """Each kind of filter."""
    middle = store.start + (store.end - store.start) / 2
    place = GeoPoint(latitude=47.4, longitude=8.5)
    return {
        "action, one in a hundred": BaseInferenceFilter(inference_action_filter="detect"),
        "hash": BaseInferenceFilter(data_hash_filter="0" * 64),
        "hash of a datum": BaseInferenceFilter(data_hash_filter=store.datum_hash),
        "source": BaseInferenceFilter(data_source_filter="source-7"),
        "time window": BaseInferenceFilter(
            time_window_filter=TimeWindowFilter(start=moment(middle), end=moment(middle + timedelta(minutes=1)))
        ),
        "string =": metadata("camera", "=", "string", "camera-007"),
        "string <": metadata("camera", "<", "string", "camera-003"),
        "string in": metadata("camera", "in", "string", "[camera-001, camera-002]"),
        "string !=": metadata("camera", "!=", "string", "camera-007"),
        "int =": metadata("frame", "=", "int", "5000"),
        "int >=, then <": BaseInferenceFilter(
            metadata_filter=[item("frame", ">=", "int", "1000"), item("frame", "<", "int", "9000")]
        ),
        "float >": metadata("temperature", ">", "float", "40"),
        "json.string =": metadata("scene.weather", "=", "json.string", "snow"),
        "json.int <": metadata("scene.light.lux", "<", "json.int", "100"),
        "json.float <=": metadata("scene.light.lux", "<=", "json.float", "99.5"),
        "snapshot of a bulk job": metadata("dataset_snapshot_id", "=", "string", store.snapshot_id),
        "datum of a bulk job": metadata("datum_id", "=", "string", store.datum_id),
        "circle": located(gps_coordinates_circle=GeoCircle(center=place, radius=100_000)),
        "rectangle": located(
            gps_coordinates_rectangle=GeoRectangle(p1=place, p2=GeoPoint(latitude=46.4, longitude=9.5))
        ),
        "label, rare": labelled(labels=["class-999"]),
        "label, frequent, with a score": labelled(labels=["class-0"], minimum_score=0.9),
        "score alone": labelled(minimum_score=0.9999),
        "label and source": BaseInferenceFilter(
            data_source_filter="source-7",
            deconstructed_inference_filter=DeconstructedInferenceFilter(labels=["class-0"]),
        ),
    }


def moment(instant: Any) -> str:
    """An instant as a filter takes it."""
    return str(instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def item(key: str, operator: str, kind: str, value: str) -> MetadataFilter:
    """A metadata filter."""
    return MetadataFilter.model_validate({"key": key, "operator": operator, "type": kind, "value": value})


def metadata(key: str, operator: str, kind: str, value: str) -> BaseInferenceFilter:
    """A filter on one item of metadata."""
    return BaseInferenceFilter(metadata_filter=[item(key, operator, kind, value)])


def located(**area: Any) -> BaseInferenceFilter:
    """A filter on an area."""
    return BaseInferenceFilter(location_filter=GeolocationFilter(**area))


def labelled(**wanted: Any) -> BaseInferenceFilter:
    """A filter on labels and scores."""
    return BaseInferenceFilter(deconstructed_inference_filter=DeconstructedInferenceFilter(**wanted))


def ask(model_id: str, request: NewGetInferencesRequest, rounds: int) -> Asked:
    """Time the request's first page and its count, and have the database explain both."""
    statements: dict[str, Statement] = {}
    with recorded(statements):
        run(page, model_id, request)
        found = run(count, model_id, request)
    plans = [explain(statement) for statement in statements.values() if "inferences" in statement.text]
    return Asked(
        typical(partial(run, page, model_id, request), rounds),
        typical(partial(run, count, model_id, request), rounds),
        found,
        plans,
    )


def run(function: Callable[..., Any], model_id: str, request: NewGetInferencesRequest) -> Any:
    """Call one of the two functions of filtering."""
    with reading() as session:
        return function(session, model_id, request)


def typical(action: Callable[[], object], rounds: int) -> float:
    """The median time in milliseconds."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return median(taken) * 1000


if __name__ == "__main__":
    main()
