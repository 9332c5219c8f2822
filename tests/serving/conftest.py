"""Servers on free ports of the loopback, and their clients."""

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("starlette", reason="the service needs crnn[serve]")


class Client:
    """HTTP over sockets; answers are ``(status, headers, body)``, a JSON body parsed."""

    def __init__(self, port):
        self.port = port

    def __call__(self, method, path, body=b"", headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            headers = headers or {}
            connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.headers.get_content_type() == "application/json":
            data = json.loads(data)
        return answer.status, answer.headers, data

    def post(self, path, body, headers=None):
        status, _, data = self("POST", path, body, headers)
        return status, data

    def get(self, path, headers=None):
        status, _, data = self("GET", path, b"", headers)
        return status, data

    def form(self, path, files=(), **fields):
        """POST a multipart body of files, as pairs of name and content, and fields."""
        parts = [f'name="{name}"\r\n\r\n'.encode() + value.encode() for name, value in fields.items()]
        parts += [
            f'name="images"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'.encode() + data
            for name, data in files
        ]
        body = (
            b"".join(b"--XYZ\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--XYZ--\r\n"
        )
        return self.post(path, body, {"Content-Type": "multipart/form-data; boundary=XYZ"})

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def served(app, **settings):
    """A client of an application that is served, on a free port, by a thread of this process."""
    import uvicorn

    from crnn.serving.server import _Protocol, listen

    bound = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, http=_Protocol, ws="none", access_log=False, log_config=None, timeout_graceful_shutdown=5, **settings
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield Client(bound.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


@pytest.fixture(scope="module")
def client(barcode_reader):
    """A service of barcodes."""
    from crnn.serving.app import create_app

    with served(create_app(barcode_reader(batch_size=8), name="barcodes")) as found:
        yield found
