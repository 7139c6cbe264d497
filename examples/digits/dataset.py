"""Writes the handwritten digits of scikit-learn as PNG files with annotations, ready to be imported."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sklearn.datasets import load_digits

from examples.digits.images import encode

#: The last 597 of the 1,797 digits.
TEST_COUNT = 597
LABELS = [str(digit) for digit in range(10)]


def write_dataset(folder: Path) -> dict[str, int]:
    """Write `train/*.png`, `test/*.png` and `annotations.jsonl`; return how many digits each split holds."""
    digits = load_digits()
    train_count = len(digits.images) - TEST_COUNT
    counts = {"train": 0, "test": 0}
    for split in counts:
        (folder / split).mkdir(parents=True, exist_ok=True)
    with (folder / "annotations.jsonl").open("w", encoding="utf-8") as annotations:
        for index, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            split = "train" if index < train_count else "test"
            path = f"{split}/{counts[split]:04}.png"
            (folder / path).write_bytes(encode(pixels))
            line = {"path": path, "annotations": [{"class_label": LABELS[int(digit)]}]}
            annotations.write(json.dumps(line) + "\n")
            counts[split] += 1
    return counts


def main() -> None:
    """Write the data set into a folder and say how many digits it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write it")
    print(json.dumps(write_dataset(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
