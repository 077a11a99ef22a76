"""The models of a server by name, and their replacement when their folders change on disk."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bertjobs.errors import BertjobsError, InputError, first_line, nearest
from bertjobs.run.result import name_of
from bertjobs.serve.refusal import NOT_FOUND, Refusal
from bertjobs.serve.served import Served

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        find: the folder that it is in now: a run's result changes as the run continues. Raises InputError.
    """

    name: str
    find: Callable[[], Path]


Print = tuple[str, tuple[tuple[str, int, int, int], ...]]
"""A folder's path, and name, size, time of change (ns) and inode of each of its files."""

Load = Callable[[str, int, Path], Served]


class Observer:
    """What is told when models change; does nothing."""

    def loaded(self, served: Served) -> None:
        """A model answers from now on."""

    def kept(self, served: Served, error: str) -> None:
        """A replacement of a model could not be loaded: the model stays."""

    def current(self, served: Served) -> None:
        """A folder holds again what was loaded from it."""


@dataclass
class _Slot:
    source: ModelSource
    served: Served
    loaded: Print
    last_seen: Print
    refused: Print | None = None
    problem: str = ""


class Models:
    """The models that answer.

    Args:
        load: makes a model of a name, a version and a folder.

    Raises:
        InputError: there is none, two have the same name, or one cannot be loaded.
    """

    def __init__(self, sources: Sequence[ModelSource], load: Load, observer: Observer | None = None) -> None:
        if not sources:
            raise InputError("no model was given", hint="bertjobs serve RUN|DIR")
        self._load, self._observer = load, observer or Observer()
        self._slots: dict[str, _Slot] = {}
        for source in sources:
            if source.name in self._slots:
                raise InputError(f"two models are called {source.name!r}", where=source.name,
                                 hint="give one another name: OTHER=RUN|DIR")  # fmt: skip
            folder = source.find()
            before = print_of(folder)
            served = load(source.name, 1, folder)
            self._slots[source.name] = _Slot(source, served, before, before)
            self._observer.loaded(served)

    def all(self) -> list[Served]:
        """Every model, in the order that they were given in."""
        return [slot.served for slot in self._slots.values()]

    def get(self, name: str, version: str | None = None) -> Served:
        """A model by its name.

        Raises:
            Refusal: there is none, or not of this version.
        """
        slot = self._slots.get(name)
        if slot is None:
            raise Refusal(f"there is no model {name[:100]!r}", status=NOT_FOUND, where="model",
                          hint=nearest(name[:100], self._slots))  # fmt: skip
        served = slot.served
        if version is not None and version != str(served.version):
            raise Refusal(f"model {name!r} has no version {version[:20]!r}", status=NOT_FOUND, where="version",
                          hint=f"version {served.version} is loaded; leave the version out for the newest")  # fmt: skip
        return served

    def of_kinds(self, kinds: Sequence[str], name: object) -> Served:
        """The model of a name that answers to some kinds; without a name the only one that does.

        Raises:
            Refusal: there is none, or several.
        """
        fitting = [served for served in self.all() if served.kind in kinds]
        names = [served.name for served in fitting]
        if name is None:
            if len(fitting) == 1:
                return fitting[0]
            what = "several models can answer this" if fitting else "no model here can answer this"
            raise Refusal(what, where="model", hint=f'"model" is one of: {", ".join(names)}' if names else None)
        if not isinstance(name, str):
            raise Refusal("'model' is not text", where="model")
        served = self.get(name)
        if served.kind not in kinds:
            raise Refusal(f"model {name!r} cannot answer this: it is for {served.task or 'vectors of texts'}",
                          where="model", hint=f"one that can: {', '.join(names)}" if names else None)  # fmt: skip
        return served

    def refresh(self) -> None:
        """Look at every folder, and load those whose files have changed and now stay as they are."""
        for slot in self._slots.values():
            try:
                self._refresh(slot)
            except Exception as error:  # whatever is wrong with the new one, the old one still answers
                words = f"{error.what} ({error.where})" if isinstance(error, BertjobsError) else first_line(error)
                if words != slot.problem:
                    slot.problem = words
                    self._observer.kept(slot.served, words)

    def _refresh(self, slot: _Slot) -> None:
        folder = slot.source.find()
        now = print_of(folder)
        settled, slot.last_seen = now == slot.last_seen, now
        if now == slot.loaded and slot.problem:
            slot.refused, slot.problem = None, ""
            self._observer.current(slot.served)
        if now in (slot.loaded, slot.refused) or not settled:
            return
        slot.refused = now  # unless it can be loaded
        served = self._load(slot.source.name, slot.served.version + 1, folder)
        slot.refused = None
        if print_of(folder) != now:
            return  # written to while it was read: the next look decides
        slot.served, slot.loaded, slot.problem = served, now, ""
        self._observer.loaded(served)


def print_of(folder: Path) -> Print:
    """What tells a folder's content from another's, without reading it.

    Raises:
        OSError: the folder cannot be read.
    """
    folder = folder.resolve()
    files = []
    for path in sorted(folder.iterdir()):
        status = path.stat()
        files.append((path.name, status.st_size, status.st_mtime_ns, status.st_ino))
    return str(folder), tuple(files)


class Refresher:
    """Refreshes models every ``every_s`` seconds, in a thread of its own."""

    def __init__(self, models: Models, every_s: float) -> None:
        self._models, self._every_s = models, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, after what it is loading."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._models.refresh()


class _Sought:
    """The folder of a model, which is found anew, at the cost of reading it, only if what lies there has changed.

    Args:
        find: finds it; the folder's bytes are whole.
        look: the same without reading them.
    """

    def __init__(self, find: Callable[[], Path], look: Callable[[], Path]) -> None:
        self._find, self._look = find, look
        self.folder = find().absolute()
        self._seen: Print | None = None

    def __call__(self) -> Path:
        seen = print_of(self._look())
        if seen != self._seen:
            self.folder, self._seen = self._find().absolute(), seen
        return self.folder


def source_of(
    words: str, find: Callable[[str], Path], look: Callable[[str], Path], exists: Callable[[str], bool]
) -> ModelSource:
    """What the command line's ``[NAME=]RUN|DIR`` means: without a name that of the run, or of the folder.

    Args:
        find: the folder of a run or folder, its bytes whole.
        look: the same without reading them.
        exists: whether a path is there, as such a one may have a "=" in its name.

    Raises:
        InputError: there is no such model, or its name cannot be a part of an address.
    """
    name, equals, place = words.partition("=")
    if not equals or exists(words) or not NAME.fullmatch(name):
        name, place = "", words
    sought = _Sought(partial(find, place), partial(look, place))
    if not name:
        name = name_of(sought.folder)
        if not NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot be a model's name in an address", where=words, hint=f"NAME={words}")
    return ModelSource(name, sought)
