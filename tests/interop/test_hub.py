"""Models on the Hugging Face Hub: its own client against a stand-in of the hub on this machine."""

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

import crnn
from crnn.errors import CheckpointError, ConfigError, DataError
from crnn.interop.push import _without_folders, push
from crnn.model.weights import read_weights, shipped_weights, weights_to_calibrate

hub = pytest.importorskip("huggingface_hub", reason="the hub needs crnn[hub]")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # between the client and its httpx

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "x" * 20
SHIPPED = shipped_weights("crnn-small").read_bytes()


class Hub(http.server.ThreadingHTTPServer):
    """What the client asks of the hub, of repositories held here; ``asked`` are the requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        # file of each repository and revision; a number is the size that a file is said to have
        self.files = {
            ("o/reader", "main", "model.safetensors"): SHIPPED,
            ("o/reader", "v1", "model.safetensors"): shipped_weights("crnn-vgg").read_bytes(),
            ("o/foreign", "main", "model.safetensors"): b"\x02\0\0\0\0\0\0\0{}",
            ("o/page", "main", "model.safetensors"): b"<html>",
            ("o/huge", "main", "model.safetensors"): 1 << 40,
            ("o/empty", "main", "README.md"): b"",
        }
        self.asked, self.stored, self.created = [], {}, []


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", size=None, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body) if size is None else size, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def do_HEAD(self):
        if self.path != "/api/agent-harnesses":  # which the client asks once, by itself
            self.server.asked.append((self.command, self.path))
        if self.path.startswith("/api/"):  # of a repository
            return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="no")
        owner, name, _, revision, file = self.path.lstrip("/").split("/", 4)
        repository, files = f"{owner}/{name}", self.server.files
        if repository == "o/gated":
            return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="no")
        if repository not in {key[0] for key in files}:
            return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="no")
        revision = "main" if revision == COMMIT else revision
        if not any(key[:2] == (repository, revision) for key in files):
            return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="no")
        if (data := files.get((repository, revision, file))) is None:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="no", X_Repo_Commit=COMMIT)
        size, data = (data, b"") if isinstance(data, int) else (len(data), data)
        commit = COMMIT if revision == "main" else hashlib.sha1(revision.encode()).hexdigest()
        return self.answer(200, data, size, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=commit)

    def do_GET(self):
        self.do_HEAD()

    def do_POST(self):
        self.server.asked.append((self.command, self.path.partition("?")[0]))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(403, {"error": "You don't have the rights"})
        if self.path == "/api/repos/create":
            server.created.append(json.loads(body))
            return self.answer(200, {"url": f"{server.url}/o/new", "name": "o/new"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] > 10_000 else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": modes})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{server.url}/store/{item['oid']}", "header": {}}}}
                for item in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        assert "/commit/" in self.path
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                server.files["o/new", "main", value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                server.files["o/new", "main", value["path"]] = server.stored[value["oid"]]
        return self.answer(200, {"commitUrl": f"{server.url}/o/new/commit/{COMMIT}", "commitOid": COMMIT})

    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(data).hexdigest() == self.path.rpartition("/")[2]
        self.server.stored[self.path.rpartition("/")[2]] = data
        self.answer(200)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The stand-in, as the hub of this process and of those it starts; an empty cache, no token."""
    for key in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    with Hub() as stand_in:
        threading.Thread(target=stand_in.serve_forever, daemon=True).start()
        from huggingface_hub import constants

        home = tmp_path / "hf"
        for key, value in {
            "HF_ENDPOINT": stand_in.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
        }.items():  # fmt: skip
            monkeypatch.setenv(key, value)
        for key, value in {
            "ENDPOINT": stand_in.url, "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token"),
            "HUGGINGFACE_CO_URL_TEMPLATE": stand_in.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
        }.items():  # fmt: skip
            monkeypatch.setattr(constants, key, value)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", stand_in.url)
        yield stand_in
        hub.close_session()
        stand_in.shutdown()


def backbone(name):
    return read_weights(name).config.model.backbone


def test_a_name_on_the_hub_is_read_with(server, image_of):
    reader = crnn.load("hf://o/reader", engine="onnx")
    assert reader.read(image_of("hello")).text == "hello"
    assert {path for _, path in server.asked} == {"/o/reader/resolve/main/model.safetensors"}
    assert backbone("hf://o/reader@v1") == "vgg"


def test_what_is_in_the_cache_is_used_without_a_network(server, monkeypatch):
    assert backbone("hf://o/reader") == "small"
    server.asked.clear()
    assert backbone("hf://o/reader") == "small"
    assert {method for method, _ in server.asked} == {"HEAD"}  # the file is not fetched again
    server.asked.clear()
    assert backbone(f"hf://o/reader@{COMMIT}") == "small"
    assert server.asked == []  # a commit does not change
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert backbone("hf://o/reader") == "small"
    assert server.asked == []
    with pytest.raises(CheckpointError, match="hf://o/empty: HF_HUB_OFFLINE is set, and the file is not in the cache"):
        backbone("hf://o/empty")


def test_a_hub_that_is_away_is_said_at_once_and_does_no_harm_to_the_cache(server, monkeypatch):
    assert backbone("hf://o/reader") == "small"
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}"
    )
    assert backbone("hf://o/reader") == "small"
    with pytest.raises(CheckpointError, match=r"^hf://o/other: no success with http://.*check the network"):
        backbone("hf://o/other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("o/none", "no such repository, or a private one; check the name, or log in with: hf auth login"),
        ("o/gated", "is open to those alone whom its owner lets in"),
        ("o/reader@v9", "no such revision; expected a branch, a tag or a commit"),
        ("o/empty", "has no model.safetensors; expected a repository that crnn push wrote"),
        ("o/huge", "has 1099511627776 bytes; expected at most 1073741824"),
        ("o/foreign", "a safetensors file without crnn's metadata"),
        ("o/page", "is an HTML or XML page"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(server, name, message):
    with pytest.raises(CheckpointError) as caught:
        backbone(f"hf://{name}")
    assert str(caught.value).startswith(f"hf://{name}: ")
    assert message in str(caught.value)
    assert "GET" not in {method for method, _ in server.asked} or name in ("o/foreign", "o/page")


@pytest.mark.parametrize(
    "name",
    ["hf://o", "hf://", "hf://o/n/m", "hf://o/n@", "hf://o/n@a b", "hf://../..", "hf://a/..", "hf://-a/b", "hf://é/ü"],
)
def test_names_of_another_form_are_refused(name):
    with pytest.raises(ConfigError, match=r"expected hf://OWNER/NAME\[@REVISION\]"):
        backbone(name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data/me/a.tsv", "a.tsv"),
        ("set=/data/me/a.lmdb", "set=a.lmdb"),
        ("C:\\Users\\me\\c.tsv", "c.tsv"),
        ("file:///data/me/d", "d"),
        ("../../me/e/", "e"),
        ({"/data/me": ["~/f", 3, "a/b", "1/2 = 0.5"]}, {"me": ["f", 3, "a/b", "1/2 = 0.5"]}),
    ],
)
def test_paths_of_a_machine_are_not_told(value, expected):
    assert _without_folders(value) == expected


def test_the_command_reads_by_such_names_and_a_revision_may_look_like_a_file(server, tmp_path, image_of):
    server.files["o/reader", "a.onnx", "model.safetensors"] = SHIPPED
    (tmp_path / "word.png").write_bytes(image_of("hello"))
    command = [sys.executable, "-m", "crnn", "read", str(tmp_path / "word.png"), "--engine", "onnx", "--model"]
    done = subprocess.run([*command, "hf://o/reader@a.onnx"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\t")[1] == "hello"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    again = subprocess.run([*command, "hf://o/reader@a.onnx"], capture_output=True, text=True, env=offline)
    assert (again.returncode, again.stdout, again.stderr) == (0, done.stdout, "")
    done = subprocess.run([*command, "hf://o/none"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_weights_on_the_hub_are_not_calibrated_in_the_cache(server):
    with pytest.raises(CheckpointError, match="hf://o/reader is on the hub and stays as it is; expected another file"):
        weights_to_calibrate("hf://o/reader")


RESULTS = {
    "model": "m", "protocol": "lines",
    "datasets": [{"name": "signs", "samples": 80, "accuracy": 0.875, "cer": 0.0312, "one_minus_ned": None}],
}  # fmt: skip


@pytest.mark.slow
def test_a_run_is_pushed_and_read_with_by_its_name(server, trained_run, tmp_path, monkeypatch, image_of):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    url = push(trained_run.folder, "o/new", private=True, license="mit", results=[str(tmp_path / "results.json")])
    assert url == f"{server.url}/o/new/commit/{COMMIT}"
    (created,) = server.created
    assert (created["name"], created["organization"]) == ("new", "o")
    assert created.get("private") or created.get("visibility") == "private"  # of its versions
    files = {key[2]: data for key, data in server.files.items() if key[0] == "o/new"}
    assert set(files) == {"README.md", "model.safetensors", "model.onnx"}
    (tmp_path / "here.onnx").write_bytes(files["model.onnx"])
    (tmp_path / "1.png").write_bytes((trained_run.words.parent / "images" / "1.png").read_bytes())
    for model in ("hf://o/new", tmp_path / "here.onnx"):
        assert crnn.load(model, engine="onnx").read(tmp_path / "1.png").text == trained_run.labels[0]
    # The card says what the run knows, in the form that the hub reads, and nothing says where it was made.
    card = hub.ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == ("mit", "crnn", "image-to-text")
    figures = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    validation = read_weights(trained_run.folder).info["validation"]["datasets"][0]
    assert figures[validation["name"], "accuracy"] == validation["accuracy"]
    assert (figures["signs", "accuracy"], figures["signs", "cer"]) == (0.875, 0.0312)
    assert ("signs", "1-NED") not in figures
    for line in ("| steps | 260 |", "| signs | 80 | 87.50 | 3.12 |", "| training data | labels.tsv |", 'hf://o/new")'):
        assert line in card.text
    assert str(trained_run.folder.parent).encode() not in b"".join(files.values())
    assert str(trained_run.folder.parent).encode() in (trained_run.folder / "best.safetensors").read_bytes()


def test_a_dry_run_writes_the_files_and_needs_no_hub(server, tmp_path):
    assert push("crnn-small", "o/new", dry_run=tmp_path / "repository") == str(tmp_path / "repository")
    card = hub.ModelCard.load(tmp_path / "repository" / "README.md")
    assert (card.data.license, card.data.eval_results) == ("apache-2.0", None)
    assert read_weights(tmp_path / "repository" / "model.safetensors").info == read_weights("crnn-small").info
    assert server.asked == []
    with pytest.raises(DataError, match="expected a new or empty folder"):
        push("crnn-small", "o/new", dry_run=tmp_path / "repository")


def test_pushing_says_in_one_line_what_is_missing(server, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="o/new: there is no token; log in with: hf auth login, or set HF_TOKEN"):
        push("crnn-small", "o/new")
    with pytest.raises(ConfigError, match="repository 'new': expected OWNER/NAME"):
        push("crnn-small", "new")
    (tmp_path / "other.json").write_text("[]")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(DataError, match="is not the JSON of crnn evaluate --json"):
        push("crnn-small", "o/new", results=[str(tmp_path / "other.json")])
    with pytest.raises(CheckpointError, match="o/new: the token may not do that"):
        push("crnn-small", "o/new")
