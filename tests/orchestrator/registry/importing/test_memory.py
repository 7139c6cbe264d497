"""Many times the files need no more memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from orchestrator.registry import create_dataset, create_project

FEW = 1_000
#: Few contents: making 100,000 blobs takes time and proves nothing more.
CONTENTS = 100

#: Prints the files and the peak in MiB: the kernel's mark of this program alone, whereas
#: `ru_maxrss` begins with what the process was before it became this program.
MEASURE = """
import sys
from pathlib import Path
from sqlalchemy import event
from orchestrator.database import engine
from orchestrator.registry import import_snapshot

# The database's own cache fills up to a fixed size, which is not what is measured.
event.listen(engine(), "connect", lambda connection, _: connection.execute("PRAGMA cache_size = -1000"))
snapshot = import_snapshot(sys.argv[1], Path(sys.argv[2]))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(sum(split.datum_count for split in snapshot.splits), int(status["VmHWM"].split()[0]) // 1024)
"""


def make_zip(path: Path, count: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            archive.writestr(f"test/{number:07}.txt", str(number % CONTENTS))
        archive.writestr("annotations.jsonl", labels(count))
    return path


def make_tar(path: Path, count: int) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in [(f"test/{n:07}.txt", str(n % CONTENTS)) for n in range(count)] + [
            ("annotations.jsonl", labels(count))
        ]:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data.encode()))
    return path


def labels(count: int) -> str:
    return "".join(
        json.dumps({"path": f"test/{n:07}.txt", "annotations": [{"class_label": str(n)}]}) + "\n" for n in range(count)
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a program's peak")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("make", [make_zip, make_tar])
# What may be allocated more, in MiB. A list of the paths alone would take more than that.
@pytest.mark.parametrize("many, allowed", [(20_000, 6), pytest.param(100_000, 16, marks=pytest.mark.endurance)])
def test_many_files_need_no_more_memory_than_1_000(
    make: object, database: object, many: int, allowed: int, tmp_path: Path
) -> None:
    assert callable(make)
    dataset = create_dataset(create_project("project").id, "dataset")
    peaks = []
    for count in (FEW, many):
        suffix = "zip" if make is make_zip else "tar"
        source = make(tmp_path / f"{count}.{suffix}", count)
        answer = subprocess.run([sys.executable, "-c", MEASURE, dataset.id, source], check=True, stdout=subprocess.PIPE)
        imported, peak = map(int, answer.stdout.split())
        assert imported == count
        peaks.append(peak)
    assert peaks[1] - peaks[0] < allowed, peaks
