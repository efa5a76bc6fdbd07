import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from keywarp.errors import UserError
from keywarp.networks import download
from keywarp.networks.download import fetch, weights_path

CONTENT = bytes(range(256)) * 4000
HASH = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == "/missing.onnx":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/short.onnx" else self.server.content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.content = [], CONTENT
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_downloads_once(server, tmp_path):
    path = fetch(f"{server.url}/net.onnx?raw=1", sha256=HASH, folder=tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b" / "net.onnx"
    assert path.read_bytes() == CONTENT
    assert fetch(f"{server.url}/net.onnx", sha256=HASH, folder=tmp_path / "a" / "b") == path
    assert len(server.requests) == 1
    assert list(path.parent.iterdir()) == [path]


def test_wrong_hash_names_both_and_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError) as error:
        fetch(f"{server.url}/net.onnx", sha256="0" * 64, folder=tmp_path)
    assert "0" * 64 in str(error.value)
    assert HASH in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_cached_file_that_changed_is_refused(server, tmp_path):
    path = fetch(f"{server.url}/net.onnx", sha256=HASH, folder=tmp_path)
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=f"SHA-256 {HASH}.*delete it"):
        fetch(f"{server.url}/net.onnx", sha256=HASH, folder=tmp_path)


@pytest.mark.parametrize(
    ("path", "reason"), [("/missing.onnx", "404"), ("/short.onnx", f"ended after 1000 of {len(CONTENT)} bytes")]
)
def test_failed_downloads_say_why_and_leave_nothing(server, tmp_path, path, reason):
    with pytest.raises(UserError) as error:
        fetch(server.url + path, sha256=HASH, folder=tmp_path)
    for part in (server.url + path, reason, "--model FILE", "KEYWARP_CACHE"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_no_network(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"could not download http://127.0.0.1.*refused"):
        fetch(f"http://127.0.0.1:{port}/net.onnx", sha256=HASH, folder=tmp_path)


def test_an_address_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"could not download weights/net.onnx"):
        fetch("weights/net.onnx", sha256=HASH, folder=tmp_path)


def test_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*KEYWARP_CACHE"):
        fetch(f"{server.url}/net.onnx", sha256=HASH, folder=tmp_path / "file")


def test_named_weights_come_from_the_mirror_into_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KEYWARP_CACHE", str(tmp_path))
    monkeypatch.setenv("KEYWARP_WEIGHTS_URL", f"{server.url}/mirror/")
    monkeypatch.setitem(download.YOLOX, "yolox-nano", HASH)
    assert weights_path("yolox-nano") == tmp_path / "yolox_nano.onnx"
    assert server.requests == ["/mirror/yolox_nano.onnx"]
    with pytest.raises(UserError, match="came with"):
        weights_path("yolox-s")  # the mirror's file is not the release's
    with pytest.raises(UserError, match="did you mean yolox-tiny"):
        weights_path("yolox-tinny")


def test_every_named_hash_is_whole():
    assert all(len(bytes.fromhex(value)) == 32 for value in download.YOLOX.values())
    assert len(set(download.YOLOX.values())) == len(download.YOLOX)
