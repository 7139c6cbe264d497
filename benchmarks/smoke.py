"""Every program once, with numbers so small that only its end means anything: `make test` runs this.

python -m benchmarks.smoke
"""

from __future__ import annotations

from benchmarks import bulk_inference, filters, latency, live_jobs, overload, retention, scale, training
from benchmarks.figures import cells
from benchmarks.stage import stage, table


def main() -> None:
    """Run everything on one SQLite stage, with the same workers, and print what came out."""
    with stage("sqlite", latency.SMALL) as surroundings:
        workers = bulk_inference.start_workers(surroundings, 1)
        tiny = bulk_inference.options().parse_args(["--rounds", "1", "--batch-sizes", "4", "--plain-datums", "0"])
        figures = bulk_inference.figures(*bulk_inference.measured(surroundings, tiny))
        tiny = overload.options().parse_args(["--rounds", "1", "--in-flight", "4"])
        figures += overload.measured(surroundings, tiny)
        tiny = scale.options().parse_args(["--datums", "100", "200", "--batch-size", "4"])
        figures += scale.measured(surroundings, workers, tiny)
        tiny = latency.options().parse_args(["--rounds", "2", "--busy-rounds", "1", "--datums", "1000"])
        figures += latency.measured(surroundings, tiny)
        # They would take the made-up units for work.
        surroundings.workers.close()
        tiny = live_jobs.options().parse_args(["--jobs", "100", "--done-units", "100", "--rounds", "1", "--explain"])
        figures += live_jobs.measured(surroundings.project.id, tiny)
        tiny = filters.options().parse_args(["--rows", "300", "--embeddings", "20", "--rounds", "1"])
        figures += filters.measured(surroundings.snapshot, tiny)
        figures += retention.measured(retention.options().parse_args(["--rows", "600", "--alone", "0"]))
        figures += training.measured(training.options().parse_args(["--metrics", "10000", "--runs", "3"]))
    table("They run", ("work", "goal", "measured", "met"), [cells(figure) for figure in figures], texts=2)


if __name__ == "__main__":
    main()
