"""A classifier of handwritten digits, trained in one long task that checkpoints.

A task whose result is persisted is not executed again, but one that was interrupted starts from its beginning. This one
saves its model after every epoch, and its next attempt goes on from there. What comes out is the same to the last bit.
"""

import time
from io import BytesIO
from typing import Annotated, Any, TypedDict

import joblib
import numpy as np
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

import storage
from checkpoint import Checkpoint
from storage import Address


class Epoch(TypedDict):
    epoch: int
    accuracy: float


class Trained(TypedDict):
    model: str
    history: list[Epoch]


class Evaluation(TypedDict):
    model: str
    epochs: int
    accuracy: float


@flow
def train_digits(
    output: Address,
    epochs: Annotated[int, Field(ge=1, le=1000)] = 20,
    seed: Annotated[int, Field(ge=0)] = 0,
    seconds_per_epoch: Annotated[float, Field(ge=0, le=600)] = 0.0,
) -> Evaluation:
    """Train a classifier on scikit-learn's digits and evaluate it on digits that it has not seen.

    Args:
        output: Where the model goes: `s3://bucket/prefix`, or a local directory.
        epochs: How often the classifier sees every digit.
        seed: The same seed and epochs make the same model, interrupted or not.
        seconds_per_epoch: Pretend that an epoch takes this long.
    """
    trained = train(f"{output.rstrip('/')}/run={flow_run.id}/model.joblib", epochs, seed, seconds_per_epoch)
    accuracy = evaluate(trained["model"], seed)
    publish_history(trained["history"], accuracy)
    return Evaluation(model=trained["model"], epochs=len(trained["history"]), accuracy=accuracy)


@task(task_run_name="train", retries=2, retry_delay_seconds=5)
def train(target: str, epochs: int, seed: int, seconds: float) -> Trained:
    """Train, epoch by epoch."""
    logger = get_run_logger()
    images, _, digits, _ = split(seed)
    checkpoint = Checkpoint("train")
    fresh: tuple[Any, list[Epoch]] = SGDClassifier(loss="log_loss", shuffle=False), []
    classifier, history = checkpoint.load() or fresh
    if history:
        logger.info("going on after epoch %d", len(history))
    for epoch in range(len(history) + 1, epochs + 1):
        time.sleep(seconds)
        # The order follows from the epoch alone, so it does not matter how many attempts the epochs are spread over.
        order = np.random.default_rng([seed, epoch]).permutation(len(digits))
        classifier.partial_fit(images[order], digits[order], classes=np.arange(10))
        history.append(Epoch(epoch=epoch, accuracy=float(classifier.score(images, digits))))
        checkpoint.save((classifier, history))
        logger.info("epoch %d: accuracy %.4f", epoch, history[-1]["accuracy"])
    model = BytesIO()
    joblib.dump(classifier, model)
    storage.write(target, model.getvalue())
    return Trained(model=target, history=history)


@task(task_run_name="evaluate", retries=2, retry_delay_seconds=5)
def evaluate(model: str, seed: int) -> float:
    """The share of unseen digits that the model recognises."""
    _, images, _, digits = split(seed)
    return float(joblib.load(BytesIO(storage.read(model))).score(images, digits))


@task(task_run_name="publish-history", retries=2, retry_delay_seconds=5)
def publish_history(history: list[Epoch], accuracy: float) -> None:
    """Show how the training went as an artifact of the run."""
    create_table_artifact(
        key="digits-training",
        table=[dict(epoch) for epoch in history],
        description=f"Accuracy on the digits it was trained with. On digits it had not seen: **{accuracy:.1%}**",
    )


def split(seed: int) -> list[Any]:
    """Images to train with and to test with, and their digits."""
    images, digits = load_digits(return_X_y=True)
    return list(train_test_split(images / 16, digits, test_size=0.25, random_state=seed, stratify=digits))
