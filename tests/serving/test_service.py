"""The service over sockets: routes, options, limits, refusals, clients that misbehave, full queues, the end."""

import base64
import contextlib
import io
import json
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from .conftest import Client, served

pytest.importorskip("starlette", reason="the service needs crnn[serve]")

from crnn.errors import ConfigError
from crnn.serving import server as server_module
from crnn.serving.app import Limits, create_app
from crnn.serving.openapi import openapi


@pytest.fixture
def slow_reader(barcode_reader):
    """A reader of barcodes whose network waits for an event: ``(reader, event)``."""
    reader, event = barcode_reader(), threading.Event()
    compute = reader._engine.log_probs

    def waiting(images):
        event.wait(20)
        return compute(images)

    reader._engine.log_probs = waiting
    yield reader, event
    event.set()


def until(condition):
    """Wait for something that another thread does."""
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- Reading


def test_an_image_is_the_body(client, barcode, barcode_reader):
    status, found = client.post("/read", barcode("word7"))
    expected = barcode_reader().read(barcode("word7"))
    assert (status, found) == (200, {"image": "", **json.loads(json.dumps(expected.as_dict()))})


def test_several_images_are_a_form_and_a_bad_one_spoils_no_other(client, barcode):
    files = [("a.png", barcode("one")), ("b.png", b"text"), ("c.png", barcode("three")), ("d.png", b"")]
    status, found = client.form("/read", files)
    assert status == 200
    readings = found["readings"]
    assert [(r["image"], r.get("text")) for r in readings] == [
        ("a.png", "one"), ("b.png", None), ("c.png", "three"), ("d.png", None),
    ]  # fmt: skip
    assert "not an image" in readings[1]["error"]
    status, found = client.post("/read", b"text")
    assert (status, list(found)) == (422, ["image", "error"])


def test_options_are_those_of_the_request(client, barcode):
    image = barcode("ab1")
    assert set(client.post("/read?allow=ab", image)[1]["text"]) == {"a", "b"}
    assert client.post("/read?pattern=%5Ba-z%5D%7B2%7D1", image)[1]["text"] == "ab1"
    found = client.post("/read?n_best=3", image)[1]
    assert len(found["alternatives"]) == 2
    status, found = client.form("/read", [("x", image)], lexicon="abc\nab2\n", n_best="1")
    assert (status, found["readings"][0]["text"]) in ((200, "abc"), (200, "ab2"))
    assert client.post("/read", image)[1]["text"] == "ab1"  # as before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("beam=3", "'beam' is no option; expected some of: decode"),
        ("n_best=0", "n_best is '0'; expected 1 to 10"),
        ("n_best=1e9", "n_best is '1e9'"),
        ("n_best=0000000010" + "0" * 5000, "expected 1 to 10"),
        ("decode=best", "decode is 'best'"),
        ("decode=" + "x" * 5000, "decode is 'xxxxxxxxxxxxxxxxxxxx'"),
        ("allow=" + "a1" * 2001, "allow has more than 4,000 characters"),
        ("pattern=(?R)|a", "pattern calls itself"),
        ("lm=/etc/passwd", "lm is '/etc/passwd'; expected auto or none"),
        ("pattern=(a", "no regular expression"),
        ("pattern=" + "a" * 201, "pattern has more than 200 characters"),
        ("lexicon=%0A", "lexicon has 0 words"),
        ("allow=%E4%B8%AD", "which is not in the charset"),
    ],
)
def test_wrong_options_are_named(client, barcode, query, message):
    status, found = client.post(f"/read?{query}", barcode("a"))
    assert (status, list(found)) == (400, ["error"])
    assert message in found["error"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "image/png"), (b"", "multipart/form-data; boundary=X"), (b"--X--\r\n", "multipart/form-data; boundary=X"),
        (b"x" * 100, "multipart/form-data"), (b"--Y\r\n\r\n", "multipart/form-data; boundary=X"),
        (b'--X\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--X--\r\n', "multipart/form-data; boundary=X"),
    ],
)  # fmt: skip
def test_bodies_without_an_image_are_refused(client, body, kind):
    status, found = client.post("/read", body, {"Content-Type": kind})
    assert (status, list(found)) == (400, ["error"])


def test_many_clients_at_once_get_what_they_would_alone(client, barcode):
    words = [
        f"{a}{b}" * (1 + n % 5) for n, (a, b) in enumerate(zip("abcdefghij" * 8, "0123456789klmn" * 6, strict=False))
    ]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda word: client.post("/read", barcode(word))[1], words))
    assert [reading["text"] for reading in found] == words
    alone = [client.post("/read", barcode(word))[1] for word in words[:10]]
    assert found[:10] == alone


def test_images_that_wait_are_read_together(slow_reader, barcode):
    reader, event = slow_reader
    with served(create_app(reader)) as client, ThreadPoolExecutor(9) as pool:
        first = pool.submit(client.post, "/read", barcode("aa"))
        until(lambda: b"crnn_batch_images_sum 1.0" in client.get("/metrics")[1])
        others = [pool.submit(client.post, "/read", barcode("bb")) for _ in range(8)]
        until(lambda: b"crnn_images_waiting 9.0" in client.get("/metrics")[1])
        time.sleep(0.2)  # they are opened
        event.set()
        assert {r.result()[1]["text"] for r in [first, *others]} == {"aa", "bb"}
        assert [shape[0] for shape in reader._engine.shapes] == [1, 8]


# ---- Other forms


def test_the_form_of_ocr_servers(client, barcode):
    status, found = client.form("/ocr", [("file", barcode("word"))], language="en")
    (result,) = found["results"]
    assert (status, result["text"], result["bbox"]) == (200, "word", [0, 0, 80, 32])
    assert 0 < result["confidence"] <= 1
    assert client.form("/ocr", [("file", barcode(""))])[1] == {"results": []}
    assert client.form("/ocr", [("file", b"none")])[0] == 400


def infer(client, model, request, binary=None):
    if binary is None:
        return client("POST", f"/v2/models/{model}/infer", json.dumps(request).encode())
    head = json.dumps(request).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return client("POST", f"/v2/models/{model}/versions/1/infer", head + binary, headers)


def test_the_open_inference_protocol_in_json(client, barcode):
    images = [base64.b64encode(barcode(word)).decode() for word in ("one", "two")]
    given = {"id": "7", "inputs": [{"name": "images", "datatype": "BYTES", "shape": [2], "data": images}]}
    status, _, found = infer(client, "crnn", given)
    outputs = {of["name"]: of for of in found["outputs"]}
    assert (status, found["model_name"], found["id"]) == (200, "crnn", "7")
    assert (outputs["text"]["data"], outputs["text"]["shape"], outputs["text"]["datatype"]) == (
        ["one", "two"],
        [2],
        "BYTES",
    )
    assert all(0 < c <= 1 for c in outputs["confidence"]["data"])
    only = infer(client, "crnn", given | {"outputs": [{"name": "text"}]})[2]["outputs"]
    assert [of["name"] for of in only] == ["text"]


def test_the_open_inference_protocol_in_binary(client, barcode, barcode_reader):
    words = [barcode("one"), barcode("three")]
    data = b"".join(struct.pack("<I", len(word)) + word for word in words)
    tensor = {"name": "images", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(data)}}
    given = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    status, headers, body = infer(client, "crnn", given, data)
    head = json.loads(body[: int(headers["Inference-Header-Content-Length"])])
    rest = body[int(headers["Inference-Header-Content-Length"]) :]
    sizes = [of["parameters"]["binary_data_size"] for of in head["outputs"]]
    assert (status, sum(sizes)) == (200, len(rest))
    assert rest[: sizes[0]] == b"\3\0\0\0one\5\0\0\0three"
    scores = np.frombuffer(rest[sizes[0] : sizes[0] + sizes[1]], dtype="<f4")
    assert scores == pytest.approx([r.score for r in barcode_reader().read(words)])


def test_the_tensors_of_doclings_client(client, barcode):
    from crnn.image import load_image

    pixels = load_image(barcode("line"), 3)
    image = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, *pixels.shape],
        "parameters": {"binary_data_size": pixels.size},
    }
    language = {"name": "lang_type", "datatype": "BYTES", "shape": [1, 1], "data": ["en"]}
    status, _, found = infer(client, "ocr", {"inputs": [image, language]}, pixels.tobytes())
    outputs = {of["name"]: of for of in found["outputs"]}
    assert (status, outputs["txts"]["data"]) == (200, ["line"])
    assert outputs["boxes"]["shape"] == [1, 4, 2]
    assert outputs["boxes"]["data"] == [0, 0, 80, 0, 80, 32, 0, 32]


@pytest.mark.parametrize(
    "request_",
    [
        "[]", "{", "{}", '{"inputs": 3}', '{"inputs": [{"name": "images"}]}', "[" * 50_000,
        '{"inputs": [{"name": "images", "datatype": "BYTES", "shape": [5], "data": ["x"]}]}',
        '{"inputs": [{"name": "images", "datatype": "FP64", "shape": [1], "data": [1]}]}',
        '{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 9, 9, 3], "data": [1, 2]}]}',
        '{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1], "data": [1, 2]}]}',
        '{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 1], "data": [300]}]}',
        '{"inputs": [{"name": "images", "datatype": "BYTES", "shape": [0], "data": []}]}',
        '{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [8000000, 0, 0, 0], "data": []}]}',
        '{"inputs": [{"name": "images", "datatype": "UINT8", "data": [1], "shape": [' + "9" * 4000 + ",9]}]}",
        '{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1.9, 1, 1, 1], "data": [1]}]}',
        '{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 1], "data": [1.7]}]}',
        '{"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [[[1], "%s"]]}]}' % ("a" * 100_000),
        '{"inputs": [%s[]]}' % ("[]," * 2_100_000),
        '{"inputs": [{"name": "images", "datatype": "\\ud800", "shape": [1], "data": ["x"]}]}',
        *(
            '{"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": ["x"]}], ' + more + "}"
            for more in (
                '"outputs": 5', '"outputs": [{}]', '"outputs": ["text"]', '"outputs": [{"name": ["x"]}]',
                '"outputs": [{"name": "text", "parameters": 5}]', '"parameters": 5', '"id": "\\ud800"',
            )
        ),
    ],
    ids=lambda text: text[-60:],
)  # fmt: skip
def test_requests_that_are_none_are_refused(client, request_):
    status, _, found = client("POST", "/v2/models/crnn/infer", request_.encode())
    assert (status, list(found)) == (400, ["error"])
    assert len(found["error"]) < 400


def test_models_of_the_protocol_are_described(client):
    assert client.get("/v2")[1]["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/crnn/ready", "/v2/models/ocr/versions/1/ready"):
        assert client.get(path)[0] == 200
    assert client.get("/v2/models/ocr")[1]["outputs"][1] == {"name": "txts", "datatype": "BYTES", "shape": [-1]}
    assert client.get("/v2/models/other")[0] == client.get("/v2/models/crnn/versions/2")[0] == 404


def test_health_metrics_and_description(client, barcode):
    client.post("/read", barcode("a"))
    assert client.get("/health/live") == (200, {"live": True})
    assert client.get("/health/ready") == (200, {"ready": True})
    counts = client.get("/metrics")[1].decode()
    assert float(re.search(r'crnn_images_total\{outcome="read"\} (\S+)', counts)[1]) >= 1
    assert "crnn_request_seconds_bucket" in counts
    shown = client.get("/docs")[1].decode()
    assert all(f" {path}</h2>" in shown for path in openapi(64, 50_000)["paths"])
    described = client.get("/openapi.json")[1]
    assert described == json.loads(json.dumps(openapi(64, 50_000)))
    for path, methods in described["paths"].items():  # each is there
        method = next(iter(methods)).upper()
        assert client(method, path.replace("{model}", "crnn"), b"x" if method == "POST" else b"")[0] not in (404, 405)


# ---- Limits


def test_bodies_above_the_limit_are_refused(barcode_reader, barcode):
    with served(create_app(barcode_reader(), limits=Limits(max_bytes=2000))) as client:
        assert client.post("/read", bytes(2001))[0] == 413
        chunked = (part for part in [bytes(1500), bytes(1500)])
        assert client("POST", "/read", chunked, {"Transfer-Encoding": "chunked"})[0] == 413
        assert client.form("/read", [("a", bytes(3000))])[0] == 413
        assert client.post("/read", barcode("a"))[1]["text"] == "a"


def test_more_images_than_one_request_may_have_are_refused(client, barcode):
    assert client.form("/read", [("a", barcode("a"))] * 64)[0] == 200
    assert client.form("/read", [("a", barcode("a"))] * 65)[0] == 400
    assert client.form("/read", [("a", barcode("a"))] * 200)[0] == 400


def test_a_full_queue_says_when_to_come_back(slow_reader, barcode):
    reader, event = slow_reader
    with served(create_app(reader, limits=Limits(max_waiting=3))) as client, ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(client.post, "/read", barcode("ab")) for _ in range(3)]
        until(lambda: client.get("/health/ready")[0] == 503)
        status, headers, found = client("POST", "/read", barcode("ab"))
        assert (status, headers["Retry-After"], found) == (503, "1", {"error": "too many images wait; try again"})
        assert client.get("/health/live")[0] == 200
        event.set()
        assert [t.result()[0] for t in taken] == [200] * 3
        assert client.post("/read", barcode("ab"))[0] == 200


def test_a_request_ends_in_time(slow_reader, barcode):
    reader, event = slow_reader
    with served(create_app(reader, limits=Limits(timeout_s=0.3))) as client:
        status, found = client.post("/read", barcode("ab"))
        assert (status, found) == (408, {"error": "the request took more than 0.3 s"})
        event.set()
        until(lambda: client.post("/read", barcode("ab"))[0] == 200)
        with client.connect() as slow:  # a body that never comes
            slow.sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
            while slow.recv(1000):
                pass


def test_connections_that_send_no_request_are_closed(client, monkeypatch):
    monkeypatch.setattr(server_module, "_HEADER_S", 0.2)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(client.connect()) for _ in range(50)]
        silent[0].sendall(b"GET /health/live HTTP/1.1\r\nHost: loc")
        for connection in silent:
            assert connection.recv(10) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n",  # on the connection of an answer
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nab",  # that nobody reads
    ],
)
def test_connections_are_closed_that_send_nothing_of_use_behind_an_answer(client, monkeypatch, sent):
    monkeypatch.setattr(server_module, "_HEADER_S", 0.3)
    with client.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(sent)
        while connection.recv(1000):
            pass


def test_endless_trailers_are_cut_off(client):
    with client.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        endless = b"".join([b"X: " + b"a" * 4000 + b"\r\n"] * 10_000)
        with pytest.raises(ConnectionError):
            connection.sendall(endless)


def test_a_request_may_follow_another_in_pieces(client, barcode):
    image = barcode("ab") + bytes(70_000)  # behind the end of a PNG anything may stand
    head = b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(image)
    with client.connect() as connection:
        connection.sendall(head + image + b"GET /health/live HTTP/1.1\r\nHost: loc")
        found = connection.recv(10_000)
        while b'"ab"' not in found:
            found += connection.recv(10_000)
        connection.sendall(b"alhost\r\nConnection: close\r\n\r\n")
        while more := connection.recv(10_000):
            found += more
    assert found.count(b"HTTP/1.1 200") == 2


def test_a_body_behind_an_answer_may_take_its_time(client, barcode, monkeypatch):
    monkeypatch.setattr(server_module, "_HEADER_S", 0.2)
    image = barcode("ab")
    post = b"POST /read HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(image)
    with client.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" + post + image[:9])
        time.sleep(0.5)  # above the limit for headers, below that of a request
        connection.sendall(image[9:])
        found = b""
        while more := connection.recv(10_000):
            found += more
    assert (found.count(b"HTTP/1.1 200"), b'"ab"' in found) == (2, True)


def test_chunks_of_single_bytes_are_taken(client, barcode):
    image = barcode("ab") + bytes(15_000)
    chunks = (image[k : k + 1] for k in range(len(image)))
    assert client("POST", "/read", chunks, {"Transfer-Encoding": "chunked"})[2]["text"] == "ab"


def test_a_slow_pattern_fails_alone(client, barcode):
    slow = "/read?" + urlencode({"pattern": r"(.*)(.*)(.*)(.*)(.*)(.*)\1\2\3\4\5\6z|.*"})
    fine = barcode("cde")
    assert client.post(slow, fine)[1]["text"] == "cde"
    status, found = client.post(slow, barcode("ab" * 8))
    assert (status, "takes too long" in str(found)) in ((400, True), (200, False))
    assert client.post(slow, fine)[1]["text"] == "cde"


def test_endless_headers_are_cut_off(client):
    endless = b"".join(b"X-%d: " % n + b"a" * 100 + b"\r\n" for n in range(3000))
    with client.connect() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + endless + b"\r\n")
        with contextlib.suppress(ConnectionError):
            assert connection.recv(10) == b""


def test_the_work_for_a_client_that_goes_away_is_given_up(slow_reader, barcode):
    reader, event = slow_reader
    with served(create_app(reader)) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/read", barcode("aa"))
        until(lambda: b"crnn_batch_images_sum 1.0" in client.get("/metrics")[1])
        image = barcode("gone")
        with client.connect() as gone:
            gone.sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(image) + image)
            until(lambda: b"crnn_images_waiting 2.0" in client.get("/metrics")[1])
        until(lambda: b"crnn_images_waiting 1.0" in client.get("/metrics")[1])
        event.set()
        assert first.result()[1]["text"] == "aa"
        assert client.post("/read", barcode("bb"))[1]["text"] == "bb"
        assert len(reader._engine.shapes) == 2  # of "aa" and "bb"


# ---- Security


def test_a_token_is_asked_for(barcode_reader, barcode):
    with served(create_app(barcode_reader(), token="open-sesame-open")) as client:
        for given in (None, "Bearer wrong", "Basic open-sesame-open", "open-sesame-open", "Bearer é"):
            headers = {} if given is None else {"Authorization": given.encode("latin-1")}
            status, answer, _ = client("POST", "/read", barcode("a"), headers)
            assert (status, answer["WWW-Authenticate"]) == (401, "Bearer")
            assert client.get("/metrics", headers)[0] == client.get("/v2/models/crnn", headers)[0] == 401
        assert client.post("/read", barcode("a"), {"Authorization": "Bearer open-sesame-open"})[0] == 200
        assert client.get("/health/ready")[0] == client.get("/")[0] == 200


def test_headers_of_pages_and_answers(client):
    for path in ("/", "/page.js", "/page.css", "/health/live", "/nothing"):
        _, headers, _ = client("GET", path)
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
    assert client("GET", "/page.js")[1].get_content_type() == "text/javascript"


def test_other_sites_are_let_in_by_name_alone(barcode_reader):
    origin = {"Origin": "https://one.example"}
    with served(create_app(barcode_reader(), origins=["https://one.example"])) as client:
        assert client("GET", "/info", b"", origin)[1]["Access-Control-Allow-Origin"] == "https://one.example"
        other = client("GET", "/info", b"", {"Origin": "https://two.example"})[1]
        assert "Access-Control-Allow-Origin" not in other


def test_on_the_loopback_no_other_host_name_is_taken(barcode_reader):
    with served(create_app(barcode_reader(), hosts=("127.0.0.1", "localhost"))) as client:
        assert client.get("/info")[0] == 200
        assert client.get("/info", {"Host": f"LOCALHOST:{client.port}"})[0] == 200
        for name in ("rebound.example", "localhost.example", "localhost:80@rebound.example", ""):
            status, found = client.get("/info", {"Host": name})
            assert status == 400
            assert "answers to the names 127.0.0.1, localhost" in found["error"]


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/page/../app.py", "/%2e%2e/app.py", "/app.py", "//page.js", "/read"]
)
def test_no_file_of_the_server_is_sent(client, path):
    assert client.get(path)[0] in (404, 405)


def test_errors_show_nothing_of_the_inside(barcode_reader, barcode):
    reader = barcode_reader()
    reader._engine.log_probs = lambda _: 1 / 0
    with served(create_app(reader)) as client:
        status, found = client.post("/read", barcode("a"))
        assert (status, found) == (500, {"error": "the service has an error of its own; its log says more"})


def test_an_image_that_ends_in_an_error_of_ours_is_answered(barcode_reader, barcode):
    reader = barcode_reader()
    reader.fit = lambda _: 1 / 0
    with served(create_app(reader)) as client:
        assert client.post("/read", barcode("a"))[0] == 500


def test_lines_of_the_log_cannot_be_forged(client, caplog):
    with caplog.at_level(logging.INFO, logger="crnn.serve"):
        client.get("/x%0d%0aGET%20/forged%20200?a=%1b[31m")
        client("GE\x7fT".replace("\x7f", ""), "/health/live")
    lines = [record.getMessage() for record in caplog.records if record.name == "crnn.serve"]
    assert lines
    assert all(line.isprintable() and "forged" not in line for line in lines)


# ---- The process


@pytest.fixture
def process():
    """A function that starts ``crnn serve`` and returns its process and port."""
    started = []

    def start(*arguments):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "crnn", "serve", *map(str, arguments), "--port", "0"]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
        started.append(running)
        line = running.stderr.readline()
        return running, int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])

    yield start
    for running in started:
        with contextlib.suppress(ProcessLookupError):  # with its workers
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        running.stderr.close()


def ready(client):
    with contextlib.suppress(OSError):
        return client.get("/health/ready")[0] == 200
    return False


def test_the_command_serves_and_ends_after_the_answers(process, barcode, trained_run):
    running, port = process("--model", trained_run.folder, "--engine", "onnx")
    client = Client(port)
    until(lambda: ready(client))
    image = (trained_run.words.parent / "images" / "1.png").read_bytes()
    assert client.post("/read", image)[1]["text"] == trained_run.labels[0]
    with ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(client.form, "/read", [("x", image)] * 64) for _ in range(8)]
        until(lambda: b"crnn_images_waiting 0.0" not in client.get("/metrics")[1])
        running.send_signal(signal.SIGTERM)
        answers = [answer.result() for answer in taken if answer.exception() is None]
    assert answers
    assert all(status == 200 and len(found["readings"]) == 64 for status, found in answers)
    assert running.wait(30) in (0, -signal.SIGTERM)
    assert "Traceback" not in running.stderr.read()


def test_two_workers_share_the_port_and_count_together(process, trained_run):
    running, port = process("--model", trained_run.folder, "--engine", "onnx", "--workers", "2")
    client = Client(port)
    until(lambda: ready(client))
    image = (trained_run.words.parent / "images" / "1.png").read_bytes()
    for _ in range(12):  # a connection each
        assert client.post("/read", image)[1]["text"] == trained_run.labels[0]
    for _ in range(4):  # whichever worker answers
        assert b'crnn_images_total{outcome="read"} 12.0' in client.get("/metrics")[1]
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) in (0, -signal.SIGTERM)


def test_workers_end_with_their_parent(process, trained_run):
    running, port = process("--model", trained_run.folder, "--engine", "onnx", "--workers", "2")
    client = Client(port)
    until(lambda: ready(client))
    running.kill()
    until(lambda: not ready(client))


def test_a_worker_that_dies_is_replaced_and_told(process, trained_run):
    running, port = process("--model", trained_run.folder, "--engine", "onnx", "--workers", "2")
    client = Client(port)
    until(lambda: ready(client))
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    if not children.exists():
        pytest.skip("the processes of another cannot be listed here")
    worker = int(children.read_text().split()[-1])
    os.kill(worker, signal.SIGKILL)
    lines = iter(running.stderr.readline, "")
    assert f"worker {worker} has ended by itself" in next(line for line in lines if "GET" not in line)
    until(lambda: ready(client))


def test_an_interrupt_during_the_start_leaves_no_traceback(process, trained_run):
    running, _ = process("--model", trained_run.folder, "--engine", "onnx", "--workers", "2")
    time.sleep(0.3)  # the workers import
    os.killpg(running.pid, signal.SIGINT)
    running.wait(60)
    assert "Traceback" not in running.stderr.read()


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "device", "expected"),
    [
        (1, None, None, "auto", (1, None)),
        (2, None, None, "auto", (2, 1)),
        (16, None, None, "cpu", (4, 4)),
        (16, None, 8, "auto", (2, 8)),
        (16, None, None, "cuda", (1, None)),
        (2, 1, None, "auto", (1, None)),
        (2, 3, None, "auto", (3, 1)),
    ],
)
def test_workers_share_out_the_cores(monkeypatch, cores, workers, threads, device, expected):
    from crnn.cli import serve
    from crnn.cli.arguments import EngineOptions

    monkeypatch.setattr(serve, "usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert serve._shared_out(workers, EngineOptions(device=device, threads=threads)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nothing"], "model 'nothing' is no weights file"),
        (["crnn-small"], "unexpected extra argument"),
        (["--port", "99999"], "--port"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
        (["--token-file", "absent"], "--token-file absent: cannot be read"),
        (["--token-file", "short"], "expected one word of 16 ASCII characters or more"),
        (["--lexicon", "absent"], "absent"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(arguments, message, tmp_path):
    (tmp_path / "short").write_text("secret")
    command = [sys.executable, "-m", "crnn", "serve", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(client):
    with pytest.raises(ConfigError, match=f"--port {client.port} of 127.0.0.1 is in use; expected a free one"):
        server_module.listen("127.0.0.1", client.port)


# ---- Whole photos


@pytest.fixture(scope="module")
def photo(barcode):
    """A photo of two barcodes, in a PNG, and their boxes, the lower one first."""
    image, boxes = Image.new("L", (300, 200), 255), []
    for text, (x, y) in (("below", (40, 120)), ("above", (60, 30))):
        bars = Image.open(io.BytesIO(barcode(text)))
        image.paste(bars, (x, y))
        boxes.append([(x, y), (x + bars.width, y), (x + bars.width, y + 32), (x, y + 32)])
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue(), np.array(boxes, dtype=np.float64)


@pytest.fixture
def photo_client(barcode_reader, photo):
    """A service that finds the lines of that photo."""

    def detector(pixels):
        return photo[1] if pixels.min() < 255 else np.zeros((0, 4, 2))

    with served(create_app(barcode_reader(), detector=detector)) as found:
        yield found


def test_the_lines_of_photos(photo_client, photo):
    status, found = photo_client.post("/read?detect=true", photo[0])
    assert (status, found["width"], found["height"]) == (200, 300, 200)
    assert [line["text"] for line in found["lines"]] == ["above", "below"]
    status, found = photo_client.form("/read", [("a", photo[0]), ("b", b"none")], detect="true", allow="above")
    assert status == 200
    assert found["readings"][0]["lines"][0]["text"] == "above"
    assert sorted(found["readings"][1]) == ["error", "image"]
    assert photo_client.post("/read?detect=true", b"none")[0] == 422
    assert "lines" not in photo_client.post("/read", photo[0])[1]
    assert photo_client.get("/info")[1]["detect"] is True


def test_the_lines_of_photos_for_other_projects_clients(photo_client, photo):
    status, found = photo_client.form("/ocr", [("file", photo[0])])
    assert status == 200
    first = found["results"][0]
    assert (first["text"], first["bbox"]) == ("above", [60, 30, 156, 62])
    assert first["polygon"] == [[60, 30], [156, 30], [156, 62], [60, 62]]
    pixels = np.asarray(Image.open(io.BytesIO(photo[0])).convert("RGB"))
    image = {"name": "image", "datatype": "UINT8", "shape": [1, *pixels.shape], "data": pixels.ravel().tolist()}
    status, _, found = infer(photo_client, "ocr", {"inputs": [image]})
    boxes, texts, scores = found["outputs"]
    assert (status, boxes["shape"], texts["data"]) == (200, [2, 4, 2], ["above", "below"])
    assert boxes["data"][:8] == photo[1][1].ravel().tolist()
    assert all(0 < score <= 1 for score in scores["data"])
    white = image | {"data": [255] * pixels.size}
    assert [o["shape"] for o in infer(photo_client, "ocr", {"inputs": [white]})[2]["outputs"]] == [[0, 4, 2], [0], [0]]


def test_photos_where_the_service_has_no_detector(client, photo):
    assert client.get("/info")[1]["detect"] is False
    status, found = client.post("/read?detect=true", photo[0])
    assert (status, found) == (400, {"error": "detect is 'true'; this service finds no lines"})


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("detect=yes", "detect is 'yes'; expected true or false"),
        ("detect=true&n_best=2", "n_best is for images of one line; expected it without detect"),
    ],
)
def test_options_that_photos_have_not(photo_client, photo, query, told):
    assert photo_client.post(f"/read?{query}", photo[0]) == (400, {"error": told})


def test_photos_wait_for_one_another_but_not_without_end(barcode_reader, photo, monkeypatch):
    monkeypatch.setattr("crnn.serving.app._MAX_PHOTOS", 2)
    going, begun, at_once = threading.Event(), threading.Semaphore(0), []

    def detector(pixels):
        at_once.append(None)
        begun.release()
        assert len(at_once) == 1  # one at a time
        assert going.wait(20)
        at_once.pop()
        return photo[1]

    app = create_app(barcode_reader(), detector=detector)
    with served(app) as client, ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.post, "/read?detect=true", photo[0])
        assert begun.acquire(timeout=20)
        head = f"POST /read?detect=true HTTP/1.1\r\nHost: a\r\nContent-Length: {len(photo[0])}\r\n\r\n"
        gone = client.connect()
        gone.sendall(head.encode() + photo[0])

        until(lambda: app.state.service._photos == 2)
        assert client.post("/read?detect=true", photo[0])[0] == 503
        gone.close()  # its photo is never looked at
        until(lambda: app.state.service._photos == 1)
        assert client.post("/read", photo[0])[0] == 200  # others are read meanwhile
        going.set()
        assert [line["text"] for line in first.result()[1]["lines"]] == ["above", "below"]
        assert not begun.acquire(timeout=0.2)
