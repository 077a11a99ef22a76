"""MLflow: a run of its own per bertjobs run, found again by a tag.

The server knows which steps it has: its history of each metric is asked once per process. So nothing is kept here, and
a request that was half done, or whose answer was lost, is completed and not repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import islice
from typing import Any, TypeVar

from bertjobs.errors import InputError
from bertjobs.track.replay import Point, Replay
from bertjobs.track.tracker import client, without_secrets

ADDRESS, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
"""MLflow's own variables."""
USUAL_EXPERIMENT = "bertjobs"

ID_TAG = "bertjobs.id"
METRICS_PER_REQUEST = 1000
PARAMETERS_PER_REQUEST = 100
LONGEST_VALUE = 500
"""What MLflow's REST API takes ("Log Batch"); of a parameter's value older servers take 500 characters."""

LONGEST_NAME = 250
_NOT_IN_NAMES = re.compile(r"[^\w ./-]|(?<=/)\.+(?=/|$)|(?<=/)(?=/|$)")
"""What MLflow refuses in a metric's name: most punctuation, and empty parts of a path, and dots alone."""

T = TypeVar("T")


class MlflowTracker:
    """One bertjobs run in MLflow.

    Args:
        environ: of this process, which MLflow's client reads as well: address, experiment, user or token.

    Raises:
        InputError: mlflow is not installed, or no server is named.
    """

    def __init__(self, environ: Mapping[str, str]):
        self._mlflow: Any = client("mlflow", "mlflow")
        if not environ.get(ADDRESS):
            raise InputError(
                "no MLflow server is named", where=ADDRESS, hint=f"export {ADDRESS}=https://mlflow.example.org"
            )
        self._address = environ[ADDRESS]
        self._experiment = environ.get(EXPERIMENT) or USUAL_EXPERIMENT
        self._environ = environ
        self._client: Any = self._mlflow.MlflowClient()
        self._run: Any = None
        self._last: dict[str, int] = {}  # metric -> the last step that the server has

    @property
    def place(self) -> str:
        return without_secrets(f"{self._address}, experiment {self._experiment}", self._environ)

    def add(self, replay: Replay) -> int:
        """As `bertjobs.track.tracker.Tracker.add`: metrics in the order of their steps, a thousand per request."""
        self._open(replay)
        added: set[int] = set()
        for batch in _in_parts(self._missing(replay.points), METRICS_PER_REQUEST):
            self._client.log_batch(self._run, metrics=[metric for _, metric in batch])
            for name, metric in batch:
                self._last[name] = metric.step
                added.add(metric.step)
        self._describe(replay)
        return len(added)

    def close(self) -> None:
        """Nothing is under way: each request was answered."""

    def _open(self, replay: Replay) -> None:
        """Find the run, or make it; ask for the steps that it has."""
        if self._run is not None:
            return
        experiment = self._client.get_experiment_by_name(self._experiment)
        number = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
        made = self._client.search_runs([number], filter_string=f"tags.`{ID_TAG}` = '{replay.id}'", max_results=1)
        if made:
            run = made[0]
        else:
            start = replay.points[0].time_unix_s if replay.points else None
            run = self._client.create_run(
                number,
                start_time=None if start is None else round(1000 * start),
                tags={ID_TAG: replay.id},
                run_name=replay.run,
            )
        # The newest point of a metric is the one of the largest step; its history says how large.
        for name in run.data.metrics:
            history = self._client.get_metric_history(run.info.run_id, name)
            self._last[name] = max((metric.step for metric in history), default=0)
        self._run = run.info.run_id

    def _missing(self, points: Sequence[Point]) -> Iterator[tuple[str, Any]]:
        """The metrics that the server lacks, with their names, in the order of their steps."""
        Metric = self._mlflow.entities.Metric
        for point in points:
            milliseconds = round(1000 * point.time_unix_s)
            for given, value in point.values.items():
                name = metric_name(given)
                if point.step > self._last.get(name, 0):
                    yield name, Metric(name, value, milliseconds, point.step)

    def _describe(self, replay: Replay) -> None:
        """Parameters are never changed in MLflow: a setting that was, such as the number of nodes, becomes a tag."""
        entities, run = self._mlflow.entities, self._client.get_run(self._run)
        known, settings = run.data.params, {name: str(value) for name, value in replay.settings.items()}
        settings = {name: value[:LONGEST_VALUE] for name, value in settings.items() if value}
        new = [entities.Param(name, value) for name, value in settings.items() if name not in known]
        for part in _in_parts(iter(new), PARAMETERS_PER_REQUEST):
            self._client.log_batch(self._run, params=part)
        changed = {f"now {name}": value for name, value in settings.items() if known.get(name, value) != value}
        tags = {name: value for name, value in {**replay.tags, **changed}.items() if run.data.tags.get(name) != value}
        for part in _in_parts(iter(tags.items()), PARAMETERS_PER_REQUEST):
            self._client.log_batch(self._run, tags=[entities.RunTag(name, value) for name, value in part])
        if replay.is_done and replay.points:
            ended_ms = round(1000 * replay.points[-1].time_unix_s)
            if (run.info.status, run.info.end_time) != ("FINISHED", ended_ms):
                with redirect_stdout(StringIO()):  # it says where the run is, which is said already
                    self._client.set_terminated(self._run, "FINISHED", end_time=ended_ms)
        elif run.info.status != "RUNNING":
            self._client.update_run(self._run, status="RUNNING")


def metric_name(name: str) -> str:
    """A name that MLflow takes: what it refuses in a class's name, as in ``f1/,``, becomes its code: ``f1/u002c``."""
    taken = _NOT_IN_NAMES.sub(lambda odd: "".join(f"u{ord(sign):04x}" for sign in odd[0]) or "empty", name)
    return taken[:LONGEST_NAME]


def _in_parts(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while part := list(islice(items, size)):
        yield part
