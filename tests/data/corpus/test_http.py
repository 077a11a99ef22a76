"""Corpora behind http://, of servers of all kinds: what can be read is read whole, and what cannot is said rightly."""

from __future__ import annotations

import gzip
import io
import json
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.data.corpus import Document, Source, documents, http, persistent, read, scan
from bertjobs.data.corpus.files import compression
from bertjobs.data.corpus.persistent import UnavailableError
from bertjobs.errors import InputError
from tests.data.corpus.server import Behaviour, serving

LINES = [f"id{number} Straße number {number} says so." for number in range(20_000)]
LDDL = "\n".join(LINES).encode()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of hundredths of a second in place of those of many seconds."""
    monkeypatch.setattr(persistent, "WAITS_S", (0.01,) * 5)
    monkeypatch.setattr(http, "TIMEOUT_S", 0.5)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def read_all(source: Source, piece_bytes: int = 100_000) -> list[Document]:
    return [document for piece in scan([source], piece_bytes) for document in read(piece, source.kind)]


def local(tmp_path: Path, name: str, content: bytes) -> list[Document]:
    (tmp_path / name).write_bytes(content)
    return read_all(Source("jsonl" if "json" in name else "lddl", str(tmp_path / name)))


SERVERS = {
    "parts": Behaviour(),
    "parts of unknown length": Behaviour(length=False),
    "no parts": Behaviour(parts=False),
    "chunks": Behaviour(parts=False, length=False),
    "until it ends": Behaviour(parts=False, length=False, bare=True),
}


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_is_read_whole_from_any_server(tmp_path: Path, name: str, suffix: str) -> None:
    content = gzip.compress(LDDL) if suffix else LDDL
    given = SERVERS[name]
    behaviour = Behaviour({f"/a.txt{suffix}": content}, given.parts, given.length, given.bare)
    with serving(behaviour) as address:
        source = Source("lddl", f"{address}/a.txt{suffix}")
        pieces = scan([source], 100_000)
        assert len(pieces) == (1 if suffix or not behaviour.parts else -(-len(LDDL) // 100_000))
        assert [one for piece in pieces for one in read(piece, "lddl")] == local(tmp_path, f"a.txt{suffix}", content)
    assert {size for piece in pieces for size in piece.sizes} == {len(content)}


def test_a_query_is_no_part_of_a_file_s_name() -> None:
    path = "/a.jsonl.gz?download=true"
    with serving(Behaviour({path: gzip.compress(b'{"text": "One text."}\n')})) as address:
        assert [one.text for one in documents(f"jsonl:{address}{path}")] == ["One text."]
    assert [compression(name) for name in ("https://a/b.gz?c=d.xz", "https://a/b?c=d.gz", "/a/b?.gz", "/a/b#.XZ")] == [
        ".gz", "", ".gz", ".xz"
    ]  # fmt: skip


def test_an_empty_file_holds_no_text() -> None:
    with serving(Behaviour({"/a.txt": b""})) as address, pytest.raises(InputError, match="holds no text"):
        scan([Source("text", f"{address}/a.txt")])


def test_a_server_that_says_no_length_is_not_called_empty(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour({"/a.txt": b"One text."}, parts=False, length=False)) as address:
        assert [one.text for one in documents(f"text:{address}/a.txt")] == ["One text."]
    assert "read once to count" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "until it ends"])
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".jsonl"])
def test_a_dropped_connection_is_read_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, suffix: str
) -> None:
    content = LDDL
    if suffix == ".jsonl":
        content = "\n".join(json.dumps({"text": line}) for line in LINES).encode()
    if suffix == ".txt.gz":
        content = gzip.compress(LDDL)
    drops = [0, 1, 17, 70_000, 65_536, 3, len(content) - 1]
    given = SERVERS[name]
    behaviour = Behaviour({f"/a{suffix}": content}, given.parts, given.length, drops=drops)
    with serving(behaviour) as address:
        source = Source("jsonl" if suffix == ".jsonl" else "lddl", f"{address}/a{suffix}")
        assert read_all(source, 400_000) == local(tmp_path, f"a{suffix}", content)
    assert behaviour.drops == []
    said = capsys.readouterr().err
    assert "early; trying again in 0.01 s" in said
    assert f"{address}/a{suffix}: " in said


def test_a_connection_that_always_drops_is_a_failure_and_not_bad_input() -> None:
    behaviour = Behaviour({"/a.txt": LDDL})
    with serving(behaviour) as address:
        (piece, *_) = scan([Source("lddl", f"{address}/a.txt")], 1 << 30)
        behaviour.dropping = 0
        asked = len(behaviour.asked)
        with pytest.raises(UnavailableError, match=r"ended .* bytes early") as caught:
            list(read(piece, "lddl"))
    assert caught.value.exit_code == 70
    assert len(behaviour.asked) - asked == 6


def test_each_byte_that_was_read_gives_new_tries(tmp_path: Path) -> None:
    behaviour = Behaviour({"/a.txt": LDDL}, dropping=30_000)
    with serving(behaviour) as address:
        assert read_all(Source("lddl", f"{address}/a.txt"), 1 << 30) == local(tmp_path, "a.txt", LDDL)
    assert len(behaviour.asked) > 20


@pytest.mark.parametrize("status", [401, 403, 451])
def test_a_refusal_is_said_as_it_is(status: int) -> None:
    behaviour = Behaviour({"/a.txt": LDDL}, statuses=[status])
    with serving(behaviour) as address, pytest.raises(UnavailableError, match=f"refuses .*: {status}") as caught:
        scan([Source("lddl", f"{address}/a.txt")])
    assert "does not exist" not in str(caught.value)
    assert caught.value.exit_code == 70
    assert len(behaviour.asked) == 1


def test_only_404_is_a_file_that_does_not_exist() -> None:
    with serving(Behaviour()) as address, pytest.raises(InputError, match="does not exist") as caught:
        scan([Source("lddl", f"{address}/a.txt")])
    assert caught.value.exit_code == 64


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour({"/a.txt": b"One text."}, statuses=[status, status, 0, status])
    with serving(behaviour) as address:
        assert [one.text for one in documents(f"text:{address}/a.txt")] == ["One text."]
        assert f"the server answers {status}" in capsys.readouterr().err
        behaviour.statuses = [status] * 99
        with pytest.raises(UnavailableError, match=str(status)) as caught:
            list(documents(f"text:{address}/a.txt"))
    assert "does not exist" not in str(caught.value)


def test_nobody_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    for url, says in ((f"{address}/a.txt", "refused"), ("http://nosuch.invalid/a.txt", "nosuch.invalid")):
        with pytest.raises(UnavailableError, match=says) as caught:
            scan([Source("text", url)])
        assert caught.value.exit_code == 70
        assert "does not exist" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://user:word@127.0.0.1/a.txt", "http://127.0.0.1:port/a b.txt", "http://[::1/a.txt"]
)
def test_what_is_not_an_address_is_bad_input(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="cannot read"):
        scan([Source("text", url)])
    assert capsys.readouterr().err == ""


def test_a_stall_is_given_up_said_and_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour({"/a.txt": b"One text."})
    with serving(behaviour) as address:
        (piece,) = scan([Source("text", f"{address}/a.txt")])
        behaviour.stalls = 1
        assert [one.text for one in read(piece, "text")] == ["One text."]
        assert "the server sent nothing for 0.5 s; trying again" in capsys.readouterr().err
        behaviour.stalls = 99
        with pytest.raises(UnavailableError, match=r"sent nothing for 0\.5 s"):
            list(read(piece, "text"))


def test_a_damaged_file_is_bad_input_also_behind_a_server() -> None:
    for suffix, content in ((".bz2", b"BZh9 is not what follows"), (".gz", gzip.compress(LDDL)[:-9]), (".xz", b"no")):
        with serving(Behaviour({f"/a.txt{suffix}": content})) as address, pytest.raises(InputError) as caught:
            list(documents(f"lddl:{address}/a.txt{suffix}"))
        assert caught.value.exit_code == 64


def test_a_hugging_face_folder_needs_no_index(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    table = pa.table({"text": [f"Text {row}." for row in range(2000)]})
    with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=100)
    files = {f"/d/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    with serving(Behaviour(files)) as address:
        assert [one.text for one in documents(f"hf:{address}/d")] == [f"Text {row}." for row in range(2000)]


def test_columns_need_parts() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": [f"Text {row}." for row in range(5000)]}), buffer, row_group_size=1000)
    behaviour = Behaviour({"/a.parquet": buffer.getvalue()}, drops=[-1, 100, 5])
    with serving(behaviour) as address:
        source = Source("parquet", f"{address}/a.parquet")
        assert [one.text for one in read_all(source, 10_000)] == [f"Text {row}." for row in range(5000)]
        behaviour.parts = False
        with pytest.raises(InputError, match="cannot send parts of a file"):
            scan([source])
