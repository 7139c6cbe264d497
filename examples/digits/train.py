"""Trains a network on the split `train` of the digits, and measures it on `test`: as a training run, or by hand.

As a run it is told what to do by the run's config, reports metrics and progress, keeps a checkpoint every few epochs,
and goes on from the latest one. All that decides what comes next is in a checkpoint, the state of the dice included:
a run that was stopped and restarted ends with the same weights as one that never was.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from examples.digits.dataset import LABELS
from examples.digits.images import decode
from orchestrator.training_v2 import runner

#: The files of a checkpoint: the network, and what a model that is made of it answers with.
NETWORK, MODEL_CONFIG = "network.joblib", "chariot_model_config.json"


@dataclass(frozen=True)
class Plan:
    """What a run's config says."""

    #: Folder of the written data set.
    data: str
    epochs: int = 20
    #: Units of the hidden layer.
    hidden: int = 64
    rate: float = 0.003
    seed: int = 0
    #: Epochs between two checkpoints.
    keep_every: int = 5
    #: Seconds to wait after each epoch: for a run that is to be watched.
    pause: float = 0.0


def main() -> None:
    """Train as the run says in which this was started, or else as the command line says."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    if runner.is_run():
        train_as_run(Plan(**runner.load_config()))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the data set")
    parser.add_argument("model", type=Path, help="the file to write the network to")
    arguments = parser.parse_args()
    print(json.dumps({"accuracy": train_and_save(arguments.folder, arguments.model)}))


def train_as_run(plan: Plan) -> None:
    """Train for as many epochs as the plan has, from the latest checkpoint on, until the end or until told to stop."""
    network, done = resume(plan)
    images, labels = read_split(Path(plan.data), "train")
    test = read_split(Path(plan.data), "test")
    stopped = runner.stop_requested
    while done < plan.epochs and not stopped():
        network.partial_fit(images, labels, classes=LABELS)
        done += 1
        accuracy = float(network.score(*test))
        runner.save_metric("loss", float(network.loss_), done)
        runner.save_metric("accuracy", accuracy, done)
        runner.save_progress([runner.Progress("training", done, plan.epochs, "epochs")])
        print(f"epoch {done} of {plan.epochs}: loss {network.loss_:.4f}, accuracy {accuracy:.4f}", flush=True)
        if done % plan.keep_every == 0 or done == plan.epochs:
            keep(network, done)
        runner.wait_for_stop(plan.pause)
    if stopped() and done % plan.keep_every:
        keep(network, done)


def resume(plan: Plan) -> tuple[MLPClassifier, int]:
    """The network of the run's latest checkpoint and its number of epochs, or a new one and 0."""
    latest = runner.load_latest_checkpoint()
    if latest is None:
        return new_network(plan), 0
    print(f"going on from epoch {latest.global_step}", flush=True)
    return joblib.load(latest.path / NETWORK), latest.global_step


def keep(network: MLPClassifier, epochs: int) -> None:
    """Save a checkpoint."""
    with runner.save_checkpoint(epochs) as folder:
        joblib.dump(network, folder / NETWORK)
        (folder / MODEL_CONFIG).write_text(json.dumps({"class_labels": LABELS}))


def train_and_save(folder: Path, model: Path) -> float:
    """Train without a run, write the network to `model`, and return its accuracy on the split `test`."""
    plan = Plan(str(folder))
    network = new_network(plan)
    images, labels = read_split(folder, "train")
    for _ in range(plan.epochs):
        network.partial_fit(images, labels, classes=LABELS)
    joblib.dump(network, model)
    return float(network.score(*read_split(folder, "test")))


def new_network(plan: Plan) -> MLPClassifier:
    """A network that has learnt nothing."""
    return MLPClassifier((plan.hidden,), batch_size=32, learning_rate_init=plan.rate, random_state=plan.seed)


def read_split(folder: Path, split: str) -> tuple[NDArray[np.float64], list[str]]:
    """The shades and the labels of one split of a written data set."""
    images, labels = [], []
    with (folder / "annotations.jsonl").open(encoding="utf-8") as annotations:
        for line in map(json.loads, annotations):
            if line["path"].startswith(f"{split}/"):
                images.append(decode((folder / line["path"]).read_bytes()))
                labels.append(line["annotations"][0]["class_label"])
    return np.stack(images), labels


if __name__ == "__main__":
    main()
