"""Downloads from a real server on loopback that is honest, broken, slow, or not there; and the command."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import io
import json
import logging
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securedl import datasets
from securedl.datasets import CATALOGUE, Patience, Source, store
from securedl.errors import FormatError, InputError, ServerError

QUICK = Patience(timeout=5, total=20, tries=3, pause=0.01)
#: Of scikit-learn's wine: the digest of the catalogue is that of these values.
REAL = datasets.load("wine", folder=Path(__file__).parent)


def official(x: np.ndarray = REAL.x) -> bytes:
    """wine.zip."""
    rows = [",".join([str(k + 1), *map(repr, map(float, row))]) for row, k in zip(x, REAL.y, strict=True)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wine.data", "\n".join(rows) + "\n")
    return buffer.getvalue()


GOOD = official()
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def body(data: bytes, length: int | None = None, status: int = 200) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(data) if length is None else length))
        request.end_headers()
        request.wfile.write(data)

    return answer


def without_length(data: bytes) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(data)

    return answer


@dataclass
class Web:
    """What to answer next at each path; the last answer is repeated."""

    address: str
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    #: Set at the end, so that hanging answers end.
    over: threading.Event = field(default_factory=threading.Event)

    def wine(self, *answers: Answer, checksum: str | None = None, limit: int = 1 << 20) -> Source:
        """Wine, fetched from here."""
        self.answers["/wine.zip"] = [*answers]
        (file,) = CATALOGUE["wine"].files
        file = replace(file, urls=(f"{self.address}/wine.zip",), checksum=checksum, limit=limit)
        full = replace(CATALOGUE["wine"].full, embedded=None)
        return replace(CATALOGUE["wine"], files=(file,), variants=(full,))

    def hang(self, first: bytes = b"", every: float = 0.0) -> Answer:
        """`first` of a longer answer, then silence, or one byte `every` so many seconds."""

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            if first:
                request.send_response(200)
                request.send_header("Content-Length", "100000")
                request.end_headers()
                request.wfile.write(first)
            while not self.over.wait(every or 30) and every:
                request.wfile.write(b"x")

        return answer


@pytest.fixture
def web() -> Iterator[Web]:
    """A server on a port of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            answers = site.answers.get(self.path) or [body(b"nothing here", status=404)]
            with contextlib.suppress(OSError):  # the client may be gone
                (answers.pop(0) if len(answers) > 1 else answers[0])(self)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        block_on_close = True
        daemon_threads = False

    with Server(("127.0.0.1", 0), Handler) as server:
        site = Web(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, no folder of the user's, no proxy on the way to loopback."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SECUREDL_DATA", raising=False)
    return tmp_path / "cache" / "securedl" / "datasets"


def load(source: Source, **options: Any) -> datasets.Dataset:
    return datasets.load(source, **{"progress": False, "patience": QUICK, **options})


def refused(source: Source, error: type[Exception], words: str, cache: Path, **options: Any) -> str:
    """That loading fails so, and leaves nothing behind."""
    before = sorted(cache.iterdir()) if cache.exists() else []
    with pytest.raises(error, match=words) as caught:
        load(source, **options)
    assert (sorted(cache.iterdir()) if cache.exists() else []) == before
    return str(caught.value)


class TestFetching:
    @pytest.mark.parametrize("name", ["wine", "wdbc", "iris"])
    def test_what_scikit_learn_has_is_at_hand(self, name, cache, monkeypatch):
        """`fetch` agrees with `load`: nothing is asked for, also where there is an official address."""
        monkeypatch.setattr(datasets, "download", None)
        assert datasets.fetch(name, progress=False) == datasets.load(name).where == "scikit-learn"
        assert not cache.exists()

    def test_once_and_then_from_the_cache(self, web, cache):
        source = web.wine(body(GOOD))
        for _ in range(3):
            data = load(source)
            np.testing.assert_array_equal(data.x, REAL.x)
            np.testing.assert_array_equal(data.y, REAL.y)
            assert data.where == str(cache / "wine.csv.gz")
        assert web.asked == ["/wine.zip"]
        assert [p.name for p in cache.iterdir()] == ["wine.csv.gz"]
        assert [p.kind for p in datasets.where(source)] == ["cache"]

    def test_the_file_can_be_moved_to_a_folder_of_the_user(self, web, cache, tmp_path):
        source = web.wine(body(GOOD))
        path = Path(datasets.fetch(source, progress=False, patience=QUICK))
        (tmp_path / "mine").mkdir()
        path.rename(tmp_path / "mine" / path.name)
        assert load(source, folder=tmp_path / "mine").where == str(tmp_path / "mine" / "wine.csv.gz")
        assert len(web.asked) == 1

    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    def test_a_passing_fault(self, web, status):
        load(web.wine(body(b"", status=status), body(b"", status=status), body(GOOD)))
        assert len(web.asked) == 3

    def test_a_lasting_fault(self, web, cache):
        words = r"http.*wine.zip: the server answered 500 Internal Server Error \(3 tries\). By hand: get "
        refused(web.wine(body(b"", status=500)), ServerError, words, cache)
        assert len(web.asked) == 3

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_an_answer_that_no_second_try_betters(self, web, cache, status):
        refused(web.wine(body(b"", status=status)), ServerError, f"answered {status}", cache)
        assert len(web.asked) == 1

    def test_the_second_address(self, web):
        source = web.wine(body(GOOD))
        file = replace(source.files[0], urls=(f"{web.address}/gone.zip", *source.files[0].urls))
        load(replace(source, files=(file,)))
        assert web.asked == ["/gone.zip", "/wine.zip"]

    def test_a_redirection(self, web):
        def move(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("Location", "/new.zip")
            request.send_header("Content-Length", "0")
            request.end_headers()

        web.answers["/new.zip"] = [body(GOOD)]
        load(web.wine(move))
        assert web.asked == ["/wine.zip", "/new.zip"]

    def test_a_server_that_names_no_length(self, web):
        load(web.wine(without_length(GOOD)))

    def test_a_published_checksum(self, web, cache):
        import hashlib

        md5 = hashlib.md5(GOOD).hexdigest()
        load(web.wine(body(GOOD), checksum=f"md5:{md5}"))
        (cache / "wine.csv.gz").unlink()
        bad = web.wine(body(GOOD), checksum="md5:" + "0" * 32)
        refused(bad, ServerError, "checksum of what came is not the published one", cache)

    def test_a_truncated_answer(self, web, cache):
        source = web.wine(body(GOOD[:-100], len(GOOD)))
        refused(source, ServerError, r"the answer broke off \(3 tries\)", cache)
        load(web.wine(body(GOOD[:-100], len(GOOD)), body(GOOD)))

    def test_a_truncated_answer_without_a_length(self, web, cache):
        words = "what the official source sent is not wine: wine.zip is no zip archive, or a damaged one"
        refused(web.wine(without_length(GOOD[:-100])), FormatError, words, cache)

    def test_another_edition_of_the_data(self, web, cache):
        x = REAL.x.copy()
        x[3, 3] += 0.1
        words = (
            "what the official source sent is not wine: wine.zip reads like wine, but its values are others"
        )
        refused(web.wine(body(official(x))), FormatError, words, cache)

    def test_a_page_instead_of_a_file(self, web, cache):
        page = b"<html>Please log in, or do not: 13 columns, 178 rows</html>"
        refused(web.wine(body(page)), FormatError, "what the official source sent is not wine", cache)

    def test_more_than_was_asked_for(self, web, cache):
        words = "the answer is longer than 1000 bytes"
        refused(web.wine(body(GOOD), limit=1000), ServerError, words, cache)
        refused(web.wine(without_length(GOOD), limit=1000), ServerError, words, cache)
        assert len(web.asked) == 2

    @pytest.mark.parametrize("first", [b"", b"PK"])
    def test_a_server_that_hangs(self, web, cache, first):
        began = time.monotonic()
        source = web.wine(web.hang(first))
        words = r"no answer in time \(2 tries\)"
        refused(source, ServerError, words, cache, patience=replace(QUICK, timeout=0.2, tries=2))
        assert time.monotonic() - began < 5

    def test_a_server_that_drips(self, web, cache):
        source = web.wine(web.hang(b"PK", every=0.05), limit=1 << 30)
        began = time.monotonic()
        patience = replace(QUICK, total=0.3, tries=1)
        refused(source, ServerError, r"not complete after 0\.3 s", cache, patience=patience)
        assert time.monotonic() - began < 3

    def test_chunks_and_packed_answers(self, web, cache):
        """Transfer encodings: the file is what they unpack to."""

        def chunked(request: http.server.BaseHTTPRequestHandler) -> None:
            request.protocol_version = "HTTP/1.1"
            request.send_response(200)
            request.send_header("Transfer-Encoding", "chunked")
            request.send_header("Connection", "close")
            request.end_headers()
            for at in range(0, len(GOOD), 500):
                part = GOOD[at : at + 500]
                request.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            request.wfile.write(b"0\r\n\r\n")

        def packed(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Encoding", "gzip")
            request.end_headers()
            request.wfile.write(gzip.compress(GOOD))

        def bomb(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Encoding", "gzip")
            request.end_headers()
            request.wfile.write(gzip.compress(bytes(8 << 20)))

        refused(web.wine(bomb), ServerError, "longer than 1048576 bytes", cache)
        for answer in (chunked, packed):
            load(web.wine(answer))
            (cache / "wine.csv.gz").unlink()

    def test_nobody_listens(self, web, cache):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/wine.zip"
            file = replace(CATALOGUE["wine"].files[0], urls=(url,))
            source = replace(web.wine(), files=(file,))
            said = refused(source, ServerError, "cannot fetch wine. Tried", cache)
        assert f"{url}: the connection was refused (3 tries)" in said
        assert said.endswith(
            f"get wine.zip (see https://doi.org/10.24432/C5PC7J), put what you get into {cache}"
        )

    def test_no_network(self, web, cache, monkeypatch):
        def offline(*_: Any, **__: Any) -> None:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", offline)
        file = replace(CATALOGUE["wine"].files[0], urls=("http://archive.invalid/wine.zip",))
        source = replace(web.wine(), files=(file,))
        refused(source, ServerError, r"its name cannot be resolved \(no network\?\)\. By hand", cache)

    @pytest.mark.parametrize("url", ["http://", "nonsense", "http://[::1/x", "ftp:/x"])
    def test_an_address_that_is_none(self, web, cache, url):
        file = replace(CATALOGUE["wine"].files[0], urls=(url,))
        refused(replace(web.wine(), files=(file,)), ServerError, "cannot fetch wine", cache)

    def test_control_c_leaves_nothing(self, web, cache, monkeypatch):
        import pooch

        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(pooch.get_logger(), "level", logging.INFO)
        source = web.wine(body(GOOD))
        told = list[tuple[str, int, int]]()

        def stop(*at: Any) -> None:
            told.append(at)
            if at[1]:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("securedl.progress.LEAST_S", 0.0)
            with pytest.raises(KeyboardInterrupt):
                load(source, progress=stop)
        assert told[-1] == ("download", len(GOOD), len(GOOD))
        assert [*cache.iterdir()] == []
        assert pooch.get_logger().level == logging.INFO
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", interrupt)
            with pytest.raises(KeyboardInterrupt):
                load(source)
        assert [*cache.iterdir()] == []
        load(source)

    def test_two_at_once(self, web, cache):
        source, errors = web.wine(body(GOOD)), []

        def run() -> None:
            try:
                np.testing.assert_array_equal(load(source).x, REAL.x)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert [p.name for p in cache.iterdir()] == ["wine.csv.gz"]


class TestTheCache:
    def spoil(self, web: Web, cache: Path, how: Callable[[bytes], bytes]) -> Source:
        source = web.wine(body(GOOD))
        load(source)
        path = cache / "wine.csv.gz"
        path.write_bytes(how(path.read_bytes()))
        return source

    @pytest.mark.parametrize(
        "how", [lambda d: b"", lambda d: d[:-9], lambda d: d[:99] + b"?" + d[100:], lambda d: b"PK" + d]
    )
    def test_a_damaged_file_is_told_of_and_fetched_again(self, web, cache, caplog, how):
        source = self.spoil(web, cache, how)
        np.testing.assert_array_equal(load(source).x, REAL.x)
        assert len(web.asked) == 2
        assert "the cached file is damaged" in caplog.text
        assert "getting wine again" in caplog.text
        caplog.clear()
        load(source)
        assert not caplog.text

    def test_another_table_in_its_place(self, web, cache, caplog):
        source = self.spoil(web, cache, lambda d: d)
        store.write(source, source.full, REAL.x + 1, REAL.y, cache / "wine.csv.gz")
        np.testing.assert_array_equal(load(source).x, REAL.x)
        assert "its values are others" in caplog.text

    def test_damaged_and_offline(self, web, cache):
        source = self.spoil(web, cache, lambda d: d[:-9])
        web.answers.clear()
        refused(source, ServerError, "cannot fetch wine", cache)
        assert (cache / "wine.csv.gz").exists()

    def test_fetch_repairs_too(self, web, cache):
        source = self.spoil(web, cache, lambda d: d[:-9])
        datasets.fetch(source, progress=False, patience=QUICK)
        assert len(web.asked) == 2
        datasets.fetch(source, progress=False, patience=QUICK)
        assert len(web.asked) == 2

    def test_it_cannot_be_made(self, web, cache):
        cache.parent.parent.mkdir(parents=True)
        cache.parent.write_bytes(b"a file")
        with pytest.raises(InputError, match=r"cannot make the cache folder .*: (Not a|File exists)"):
            load(web.wine(body(GOOD)))
        assert not web.asked


class TestByHand:
    def test_an_official_file_in_a_folder_of_the_user(self, web, cache, tmp_path):
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / "wine.zip").write_bytes(GOOD)
        assert load(web.wine(body(b"")), folder=folder).where == str(cache / "wine.csv.gz")
        assert not web.asked
        assert [p.name for p in folder.iterdir()] == ["wine.zip"]

    def test_a_wrong_one(self, web, cache, tmp_path):
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / "wine.zip").write_bytes(b"not it")
        words = "mine/wine.zip: this is not wine: "
        refused(web.wine(body(b"")), FormatError, words, cache, folder=folder)

    def test_a_set_that_nobody_may_fetch(self, cache):
        words = "ovarian cannot be fetched. It has no public licence: .* MATLAB .* put that file into "
        refused(CATALOGUE["ovarian"], InputError, words, cache)

    def test_a_subset_that_no_source_offers(self, cache):
        with pytest.raises(InputError, match=r"gtsrb_subset.npz is a part of gtsrb .* or load 'gtsrb'"):
            datasets.load("gtsrb", variant="gtsrb_subset")


class TestCommand:
    @pytest.fixture
    def run(self, command) -> Callable[..., tuple[int, str, str]]:
        """`securedl datasets ...`: exit status, stdout, stderr."""
        return partial(command, "datasets")

    def test_the_list(self, run, tmp_path, cache):
        status, out, err = run("--json", tmp_path / "list.json")
        assert (status, err) == (0, "")
        assert max(map(len, out.replace(str(cache), "").splitlines())) <= 80
        table = out.split("to cite")[0].splitlines()
        for name, source in CATALOGUE.items():
            (line,) = [line for line in table if line.split()[:1] == [name]]
            assert str(source.full.rows) in line
            assert line.rstrip().endswith(
                "scikit-learn" if name in ("wine", "wdbc", "iris") else "not fetched"
            )
            assert source.page in out
        facts = json.loads((tmp_path / "list.json").read_text())
        assert [fact["name"] for fact in facts] == list(CATALOGUE)
        assert facts[3]["places"] == [{"kind": "scikit-learn", "variant": "wine", "path": None}]
        assert facts[12]["sample"] == [32, 32, 3]

    def test_a_part_is_marked(self, run, tmp_path, monkeypatch):
        (tmp_path / "cifar10_subset.npz").touch()
        monkeypatch.setenv("SECUREDL_DATA", str(tmp_path))
        _, out, _ = run()
        assert "SECUREDL_DATA *" in out
        assert "* a part only: cifar10_subset" in out

    def test_fetch(self, run, web, cache, monkeypatch, tmp_path):
        monkeypatch.setitem(CATALOGUE, "wine", web.wine(body(GOOD)))
        status, out, err = run("fetch", "wine", "iris", "wine", "--json", tmp_path / "f.json")
        assert (status, err) == (0, "")
        assert out == f"wine: {cache / 'wine.csv.gz'}\niris: scikit-learn\n"
        wine, iris = json.loads((tmp_path / "f.json").read_text())
        assert wine["places"] == [{"kind": "cache", "variant": "wine", "path": str(cache / "wine.csv.gz")}]
        assert (wine["error"], wine["failed"], iris["failed"]) == (None, False, False)
        assert "wine" in run()[1]
        assert len(web.asked) == 1

    def test_what_fails_is_told_and_the_others_are_fetched(self, run, web, monkeypatch):
        monkeypatch.setitem(CATALOGUE, "wine", web.wine(body(b"", status=404)))
        status, out, err = run("fetch", "wine", "iris", "ovarian")
        assert status == 1
        assert err == "securedl: 2 of 3 data sets could not be fetched: wine, ovarian\n"
        lines = out.splitlines()
        assert lines[0].startswith("wine: cannot fetch wine. Tried http://127.0.0.1")
        assert lines[1] == "iris: scikit-learn"
        assert lines[2].startswith("ovarian: ovarian cannot be fetched. It has no public licence")

    def test_all_that_may_be_fetched(self, run, web, monkeypatch, tmp_path):
        """Nothing but wine, iris and ovarian, so that no other address is asked."""
        some = {name: CATALOGUE[name] for name in ("ovarian", "iris")} | {"wine": web.wine(body(GOOD))}
        monkeypatch.setattr(datasets, "CATALOGUE", some)
        monkeypatch.setattr("securedl.datasets.listing.CATALOGUE", some)
        status, out, err = run("fetch", "all", "--json", tmp_path / "f.json")
        assert (status, err) == (0, "")
        assert out.startswith("ovarian: ovarian cannot be fetched. It has no public licence")
        ovarian, *_ = json.loads((tmp_path / "f.json").read_text())
        assert ovarian["failed"] is False
        assert ovarian["error"].startswith("ovarian cannot be fetched")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("fetch", "win"), "unknown: win; the data sets are all, breast_tissue, "),
            (("--json", "/"), "cannot write /: it is a folder; name a file"),
            (("--json", "/none/x.json"), "cannot write /none/x.json: there is no folder /none"),
            (("fetch", "wine", "--json", "/none/x.json"), "cannot write /none/x.json: there is no folder"),
            (("--json", "x.json", "fetch", "wine"), "--json goes behind fetch and the names: "),
        ],
    )
    def test_mistakes(self, run, words, said):
        """Nothing is printed and nothing fetched before they are told."""
        status, out, err = run(*words)
        assert (status, out) == (1, "")
        assert err.startswith(f"securedl: {said}")
        assert err.count("\n") == 1

    def test_a_folder_that_is_not_there(self, run, monkeypatch):
        monkeypatch.setenv("SECUREDL_DATA", "/none")
        assert run()[::2] == (1, "securedl: SECUREDL_DATA names /none, which is no folder\n")
