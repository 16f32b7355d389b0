from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import joblib
import numpy as np
import pytest
from flow_attempts import Attempts, wait_until
from prefect.exceptions import ParameterTypeError
from sklearn.linear_model import SGDClassifier

import training

EPOCHS = 6


def coefficients(model: str) -> Any:
    return joblib.load(BytesIO(Path(model).read_bytes())).coef_


def test_the_split_is_the_same_for_the_same_seed_and_shares_no_digit() -> None:
    first, again, other = training.split(0), training.split(0), training.split(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert [len(part) for part in first] == [1347, 450, 1347, 450]


def test_it_learns_to_recognise_digits(prefect_api: None, tmp_path: Path) -> None:
    evaluation = training.train_digits(output=str(tmp_path), epochs=20)
    assert evaluation["epochs"] == 20
    assert evaluation["accuracy"] > 0.9
    assert Path(evaluation["model"]).parent.name.startswith("run=")


@pytest.mark.parametrize("parameters", [{"epochs": 0}, {"epochs": 1001}, {"seed": -1}, {"output": "s3://bucket"}])
def test_parameters_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError):
        training.train_digits.validate_parameters({"output": "out", **parameters})


def test_a_killed_training_goes_on_after_its_last_epoch_and_ends_the_same(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"output": str(tmp_path / "models"), "epochs": EPOCHS, "seconds_per_epoch": 0.5}
    results = tmp_path / "results"
    run = Attempts(training.train_digits, parameters, results)

    def saved() -> int:
        return len(list(results.glob("checkpoints/*/train/?")))

    with run.started() as engine:
        wait_until(lambda: engine.poll() is not None or saved() == 2)
    assert list((tmp_path / "models").rglob("*")) == [], "the task was interrupted, so there is no model yet"

    fits = Mock(side_effect=SGDClassifier.partial_fit, autospec=True)
    monkeypatch.setattr(SGDClassifier, "partial_fit", lambda *args, **kwargs: fits(*args, **kwargs))
    interrupted = run.run()
    assert fits.call_count in (EPOCHS - 2, EPOCHS - 3), "two epochs, or three, were saved when it was killed"

    fits.reset_mock()
    undisturbed = Attempts(training.train_digits, parameters | {"seconds_per_epoch": 0.0}, results).run()
    assert fits.call_count == EPOCHS
    assert interrupted["accuracy"] == undisturbed["accuracy"]
    assert np.array_equal(coefficients(interrupted["model"]), coefficients(undisturbed["model"]))
    assert interrupted["model"] == str(tmp_path / "models" / f"run={run.id}" / "model.joblib")
