"""Pulling and pushing, against local servers: one takes PUT, one answers as the Hugging Face Hub does."""

import base64
import hashlib
import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from safetensors.torch import save_file

from keywarp.cli import main
from keywarp.errors import UserError
from keywarp.loading import identified, load
from keywarp.methods import METHODS
from keywarp.networks.sharing import find, is_address, model_card, pull, pulled, push
from keywarp.networks.weight_files import read_description, save_model


class Store(BaseHTTPRequestHandler):
    """Files by path: GET, and PUT."""

    def do_GET(self):
        self.server.requests.append(f"GET {self.path}")
        self.give(self.server.files.get(self.path))

    def do_PUT(self):
        content = self.body()
        if "readonly" in self.path:
            return self.send_error(405)
        self.server.files[self.path] = content
        self.give(b"")

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def give(self, content, headers=()):
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        for name, value in [("Content-Length", str(len(content))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


class Hub(Store):
    """What of the Hub's interface downloads and commits use: files lie in owner/repo/main; weights go by git-lfs."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        kind, *rest = self.path.lstrip("/").split("?")[0].split("/")
        if kind == "api":  # api/models/owner/repo
            repository = "/".join(rest[1:3])
            names = [path.removeprefix(f"/{repository}/") for path in self.server.files if repository in path]
            tree = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
            return self.give(json.dumps(tree).encode() if names else None)
        content = self.server.files.get(self.path.replace("/resolve/main", ""))
        etag = hashlib.sha256(content or b"").hexdigest()
        self.give(content, [("ETag", f'"{etag}"'), ("X-Repo-Commit", "c" * 40)])

    def do_POST(self):
        body, path = self.body(), self.path.split("?")[0]
        self.server.requests.append(f"POST {path}")
        if path == "/api/repos/create":
            self.server.created = json.loads(body)
            answer = {"url": f"{self.server.url}/someone/{self.server.created['name']}"}
        elif "/preupload/" in path:
            mode = {True: "lfs", False: "regular"}
            files = [(f["path"], f["path"].endswith(".safetensors")) for f in json.loads(body)["files"]]
            answer = {"files": [{"path": p, "uploadMode": mode[lfs], "shouldIgnore": False} for p, lfs in files]}
        elif path.endswith("/objects/batch"):
            href = f"{self.server.url}/lfs/"
            objects = [o | {"actions": {"upload": {"href": href + o["oid"]}}} for o in json.loads(body)["objects"]]
            answer = {"transfer": "basic", "objects": objects}
        elif "/commit/" in path:
            repository = "/".join(path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[f"/{repository}/{value['path']}"] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    self.server.files[f"/{repository}/{value['path']}"] = self.server.files[f"/lfs/{value['oid']}"]
            answer = {"commitUrl": f"{self.server.url}/{repository}/commit/c", "commitOid": "c" * 40}
        else:
            answer = {"errors": [], "warnings": []}  # the check of README.md
        self.give(json.dumps(answer).encode(), [("Content-Type", "application/json")])


def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.files, server.requests = {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def store():
    yield from serving(Store)


@pytest.fixture
def hub(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    for server in serving(Hub):
        # What HF_ENDPOINT and HF_HUB_DISABLE_XET set; they are read when the client is imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KEYWARP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    model = METHODS["rfcn"]("resnet-tiny", classes=("cat", "dog"), num_classes=2, shorter=64, longer=96)
    path = tmp_path_factory.mktemp("weights") / "pets.safetensors"
    save_model(path, model, model.description | {"classes": ["cat", "dog"], "metrics": {"mAP": 0.5}})
    return path


def kept(cache):
    return sorted(p.name for p in cache.rglob("*") if p.is_file())


def test_what_was_pushed_is_pulled_shown_and_runs(store, weights, cache, tmp_path, capsys):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert main(["models", "push", str(weights), f"{store.url}/shelf/"]) == 0
    pushed = capsys.readouterr().out.splitlines()
    assert digest in pushed[0]
    assert pushed[1] == f"keywarp models pull {store.url}/shelf/pets.safetensors"
    assert main([*pushed[1].split()[1:], "--sha256", digest.upper()]) == 0
    first, command = capsys.readouterr().out.splitlines()
    assert digest in first
    assert "rfcn, 2 classes" in first
    assert command == "keywarp detect VIDEO --model pets"
    assert load("pets", device="cpu").classes == ("cat", "dog")
    assert kept(cache) == ["pets.json", "pets.safetensors"]
    assert main(["models", "show", str(cache / "models/pets.safetensors")]) == 0
    shown = capsys.readouterr().out
    assert "cat, dog" in shown
    assert "mAP 0.5" in shown
    assert digest in shown
    assert main(["models", "show", "pets"]) == 0
    assert capsys.readouterr().out == shown
    assert main(["models", "show", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == digest


def test_the_demo_s_file_is_shown_by_name(cache, capsys):
    assert main(["models", "show", "demo"]) == 0
    assert "impression-d" in capsys.readouterr().out
    assert main(["models", "show", "demos"]) == 2
    assert "no weight file and no pulled model demos" in capsys.readouterr().err


def test_an_address_is_pulled_once_by_model(store, weights):
    store.files["/pets.safetensors"] = weights.read_bytes()
    address = f"{store.url}/pets.safetensors"
    for _ in range(2):
        assert load(address, device="cpu").classes == ("cat", "dog")
    assert store.requests == ["GET /pets.safetensors"]
    assert [model.address for model in pulled()] == [address]
    pull(address)  # asked for expressly, it is fetched anew
    assert len(store.requests) == 2


@pytest.mark.parametrize(
    ("content", "sha256", "message"),
    [
        (None, None, "404"),
        (b"<html>sign in</html>", None, r"no keywarp weight file \(it is no \.safetensors file"),
        ("cut", None, r"no keywarp weight file \(it is no \.safetensors file"),
        ("plain", None, r"no keywarp weight file \(it does not say how to build its model\)"),
        ("whole", "0" * 64, "should have SHA-256 0{64}, came with [0-9a-f]{64}; nothing was kept"),
    ],
)
def test_what_is_wrong_is_one_line_and_not_kept(store, weights, cache, tmp_path, content, sha256, message, capsys):
    save_file({"a": METHODS["rfcn"]("resnet-tiny").head.score_maps.cls.weight.detach()}, tmp_path / "plain.safetensors")
    files = {
        "cut": weights.read_bytes()[:-10],
        "plain": (tmp_path / "plain.safetensors").read_bytes(),
        "whole": weights.read_bytes(),
    }
    if content is not None:
        store.files["/pets.safetensors"] = files.get(content, content)
    with pytest.raises(UserError, match=message) as caught:
        pull(f"{store.url}/pets.safetensors", sha256=sha256)
    assert "\n" not in str(caught.value)
    assert kept(cache) == []
    arguments = ["--sha256", sha256] if sha256 else []
    assert main(["models", "pull", f"{store.url}/pets.safetensors", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_failed_pull_leaves_the_earlier_file(store, weights, cache):
    store.files["/pets.safetensors"] = weights.read_bytes()
    model = pull(f"{store.url}/pets.safetensors")
    store.files["/pets.safetensors"] = weights.read_bytes()[:-10]
    with pytest.raises(UserError, match="nothing was kept"):
        pull(f"{store.url}/pets.safetensors")
    assert find("pets") == model.path


def test_a_changed_copy_is_refused(store, weights):
    store.files["/pets.safetensors"] = weights.read_bytes()
    model = pull(f"{store.url}/pets.safetensors")
    model.path.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UserError, match=f"should have SHA-256 {model.sha256}, has .*pull"):
        load("pets", device="cpu")


def test_names_are_not_taken_twice(store, weights):
    for folder in ("a", "b"):
        store.files[f"/{folder}/pets.safetensors"] = weights.read_bytes()
    pull(f"{store.url}/a/pets.safetensors")
    with pytest.raises(UserError, match=f"there is a model pets from {store.url}/a/pets.safetensors already"):
        pull(f"{store.url}/b/pets.safetensors")
    assert pull(f"{store.url}/b/pets.safetensors", name="other").path.stem == "other"
    for name in ("dff", "a/b", "../up"):
        assert main(["models", "pull", f"{store.url}/a/pets.safetensors", "--name", name]) == 2
    with pytest.raises(UserError, match="did you mean pets"):
        load("pet", device="cpu")


@pytest.mark.parametrize("address", ["file:///etc/hosts", "ftp://host/a.safetensors", "pets", "owner/repo/a.pth", ""])
def test_other_addresses_are_refused(address, weights):
    with pytest.raises(UserError, match=r"https://.*, got"):
        pull(address)
    with pytest.raises(UserError, match=r"https://.*, got"):
        push(weights, address)


def test_what_a_model_name_may_be():
    assert is_address("owner/repo")
    assert is_address("https://host/a.safetensors")
    for name in ("pets", "runs/pets.safetensors", "runs/pets.pth", "./runs/x", "owner/repo/more", "/tmp/x"):
        assert not is_address(name)


def test_a_server_that_takes_no_put(store, weights, tmp_path):
    with pytest.raises(UserError, match=r"could not upload to .*405.*take PUT"):
        push(weights, f"{store.url}/readonly")
    (tmp_path / "no.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        push(tmp_path / "no.safetensors", f"{store.url}/x")
    assert store.files == {}


def test_through_the_hub(hub, weights, cache, capsys):
    assert main(["models", "push", str(weights), "someone/pets", "--private"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "keywarp models pull someone/pets"
    assert hub.created.items() >= {"organization": "someone", "name": "pets"}.items()
    assert hub.created.get("private", hub.created.get("visibility") == "private")  # by version of the client
    assert hub.files["/someone/pets/model.safetensors"] == weights.read_bytes()
    card = hub.files["/someone/pets/README.md"].decode()
    assert card == model_card(
        read_description(weights), "someone/pets", hashlib.sha256(weights.read_bytes()).hexdigest()
    )
    assert "pipeline_tag: object-detection" in card
    assert "| classes | 2: cat, dog |" in card
    assert "keywarp detect VIDEO --model someone/pets" in card
    assert load("someone/pets", device="cpu").classes == ("cat", "dog")
    assert kept(cache) == ["pets.json", "pets.safetensors"]
    assert pull("someone/pets/model.safetensors", name="again").sha256 == find_sha256(weights)


def find_sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_the_hub_has_not(hub, weights, cache):
    for name in ("a", "b"):
        hub.files[f"/someone/two/{name}.safetensors"] = weights.read_bytes()
    hub.files["/someone/none/README.md"] = b"x"
    for address, message in (
        ("someone/absent", "someone/absent on http://.*: 404: no such file or repository"),
        ("someone/two", "several: a.safetensors, b.safetensors; name one as someone/two/FILE.safetensors"),
        ("someone/none", "has no .safetensors file"),
        ("someone/two/c.safetensors", "someone/two on http"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            pull(address)
        assert "\n" not in str(caught.value)
    assert kept(cache) == []
    assert pull("someone/two/b.safetensors").name == "b"


def test_without_the_hubs_client(monkeypatch, weights):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: pull("someone/pets"), lambda: push(weights, "someone/pets")):
        with pytest.raises(UserError, match=r"pip install 'keywarp\[hub\]'"):
            act()


@pytest.mark.parametrize("address", ["http://127.0.0.1:port/x", "http://127.0.0.1:1/a b"])
def test_an_address_that_is_none_is_one_line(weights, address):
    with pytest.raises(UserError, match="could not upload to"):
        push(weights, address)


def test_a_name_with_a_space_is_pushed(store, weights, tmp_path):
    named = shutil.copy(weights, tmp_path / "my model.safetensors")
    assert push(named, f"{store.url}/dir/").endswith("/dir/my%20model.safetensors")


@pytest.mark.parametrize("record", ["{", "[]", '{"address": "https://a/b"}'])
def test_a_damaged_record_is_told(record, weights, cache):
    (cache / "models").mkdir(parents=True)
    shutil.copy(weights, cache / "models/x.safetensors")
    (cache / "models/x.json").write_text(record)
    with pytest.raises(UserError, match=f"^{cache / 'models/x.json'} is no"):
        load("typo")
    assert identified("yolox-nano") == {"model": "yolox-nano", "sha256": {}}  # which is none of the pulled


def test_what_a_file_is_called_does_not_matter(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torchvision").mkdir()
    for name in ("yolox-mine.safetensors", "torchvision/mine.safetensors"):
        shutil.copy(weights, tmp_path / name)
        assert load(name, device="cpu").description["model"] == name
