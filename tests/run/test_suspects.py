"""The register of suspect nodes: what is read back, when it expires, and which nodes the next jobs exclude."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bertjobs.run.suspects import EXPIRY_S, FILE, Suspect, excluded, record, suspects

NOW = 1_000_000.0


def suspect(results: Path, node: str, *, fatal: bool = True, job: str = "1", now: float = NOW) -> Suspect:
    return record(results, node, "7 of 8 GPUs seen", fatal=fatal, run="bert", job=job, now=now)


def test_an_entry_is_read_back_until_it_expires(tmp_path: Path) -> None:
    entry = suspect(tmp_path, "node3")
    assert suspects(tmp_path, NOW) == [entry]
    assert suspects(tmp_path, NOW + EXPIRY_S - 1) == [entry]
    assert suspects(tmp_path, NOW + EXPIRY_S) == []


def test_an_entry_may_set_its_own_expiry(tmp_path: Path) -> None:
    record(tmp_path, "node3", "slow", fatal=False, run="bert", job="1", now=NOW, expiry_s=60)
    assert len(suspects(tmp_path, NOW + 59)) == 1
    assert suspects(tmp_path, NOW + 60) == []


def test_without_a_register_no_node_is_suspect(tmp_path: Path) -> None:
    assert suspects(tmp_path, NOW) == []
    assert suspects(tmp_path / "absent", NOW) == []


def test_a_register_that_cannot_be_read_names_no_node(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert suspects(tmp_path, NOW) == []


@pytest.mark.parametrize(
    "damage",
    [
        b'{"node": "node9", "reason": "cut o\n',
        b"\xff\xfe\x00\n",
        b"[]\n",
        b"7\n",
        b"\n",
        b"[" * 100_000 + b"\n",
        b'{"node": "node9"}\n',
        b'{"node": "n --wrap=id", "reason": "", "fatal": true, "run": "", "job": "", "time_unix_s": 1, '
        b'"expires_unix_s": 9e9}\n',
        b'{"node": "-h", "reason": "", "fatal": true, "run": "", "job": "", "time_unix_s": 1, "expires_unix_s": 9e9}\n',
        b'{"node": "node9", "reason": "", "fatal": 1, "run": "", "job": "", "time_unix_s": 1, "expires_unix_s": 9e9}\n',
        b'{"node": "node9", "reason": "", "fatal": true, "run": "", "job": [], "time_unix_s": 1, '
        b'"expires_unix_s": 9e9}\n',
        b'{"node": "node9", "reason": "", "fatal": true, "run": "", "job": "", "time_unix_s": 1, '
        b'"expires_unix_s": "never"}\n',
    ],
)
def test_lines_that_are_not_ours_are_skipped(tmp_path: Path, damage: bytes) -> None:
    before = suspect(tmp_path, "node1")
    with (tmp_path / FILE).open("ab") as file:
        file.write(damage)
    after = suspect(tmp_path, "node2", now=NOW + 1)
    assert suspects(tmp_path, NOW + 2) == [before, after]


def test_a_field_of_a_later_version_is_harmless(tmp_path: Path) -> None:
    entry = suspect(tmp_path, "node1")
    file = tmp_path / FILE
    file.write_text(file.read_text().replace("{", '{"rack": 7, ', 1))
    assert suspects(tmp_path, NOW) == [entry]


def test_several_writers_at_once_lose_no_entry(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=lambda place=place: [suspect(tmp_path, f"node{place}-{n}") for n in range(50)])
        for place in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.node for entry in suspects(tmp_path, NOW)} == {f"node{p}-{n}" for p in range(4) for n in range(50)}


def test_a_fatal_finding_excludes_at_once_and_a_warning_when_another_job_repeats_it(tmp_path: Path) -> None:
    suspect(tmp_path, "broken")
    for job in ("1", "1"):
        suspect(tmp_path, "slow", fatal=False, job=job)
    assert excluded(suspects(tmp_path, NOW), spare=9) == ["broken"]
    suspect(tmp_path, "slow", fatal=False, job="2")
    assert excluded(suspects(tmp_path, NOW), spare=9) == ["broken", "slow"]


def test_no_more_are_excluded_than_can_be_spared(tmp_path: Path) -> None:
    for job in ("1", "2"):
        suspect(tmp_path, "slow", fatal=False, job=job, now=NOW + 5)
    suspect(tmp_path, "old", now=NOW)
    suspect(tmp_path, "new", now=NOW + 1)
    entries = suspects(tmp_path, NOW + 9)
    assert excluded(entries, spare=3) == ["new", "old", "slow"]
    assert excluded(entries, spare=2) == ["new", "old"], "fatal findings before warnings"
    assert excluded(entries, spare=1) == ["new"]
    assert excluded(entries, spare=0) == excluded(entries, spare=-2) == []


def test_an_entry_is_not_led_into_another_file(tmp_path: Path) -> None:
    other = tmp_path / "precious"
    other.write_text("mine\n")
    (tmp_path / FILE).symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        suspect(tmp_path, "node1")
    assert other.read_text() == "mine\n"


def test_whatever_stands_in_place_of_the_register_there_are_no_suspects(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert suspects(tmp_path, NOW) == []
