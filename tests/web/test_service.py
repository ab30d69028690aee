"""Access to the page and to cables: requests to the service as browsers, other pages and other programs send them."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is an extra: pip install ibbond[web]")

from ibbond.backend.control_server import ControlServer
from ibbond.backend.control_socket import made_runtime_directory
from ibbond.cli.main import run
from ibbond.errors import Refused
from ibbond.web.lab_watch import LabWatch
from ibbond.web.service import MAX_BODY_BYTES, listen, page_files, server

TOKEN = "a-token"
CUT = json.dumps({"cables": ["h1/ib0"]})


class Service:
    """The service over a lab that knows two requests, and what was asked of it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.cut: list[str] = []

    def refuse_or_cut(self, cables: list[str]) -> object:
        if cables != ["h1/ib0"]:
            raise Refused("cannot cut it", why="there is no such cable", fix="Name another one")
        self.cut += cables
        return {}

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, named)
        return connection.getresponse()

    def post(self, body: str = CUT, path: str = f"/{TOKEN}/cut", kind: str = "application/json", **also: str) -> int:
        return self.ask("POST", path, body, **({"Origin": self.origin, "Content_Type": kind} | also)).status


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch, listen(0) as listener:
        patch.setattr(
            "ibbond.backend.control_socket.runtime_directory", lambda: tmp_path_factory.getbasetemp() / "ibbond"
        )
        made = Service(listener.getsockname()[1])
        control = ControlServer(Path(made_runtime_directory()) / "lab.sock", {"cut": made.refuse_or_cut})
        control.start()
        serving = server(LabWatch("lab", 60), TOKEN, made.port)
        thread = threading.Thread(target=serving.run, args=([listener],))
        thread.start()
        try:
            while not serving.started:
                time.sleep(0.01)
            yield made
        finally:
            serving.should_exit = True
            thread.join()
            control.close()


def test_the_page_and_its_files_are_there_for_who_knows_the_token(service: Service) -> None:
    for name in ("", *page_files()):
        answer = service.ask("GET", f"/{TOKEN}/{name}")
        assert answer.status == 200
        assert answer.read() == page_files()[name or "index.html"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert service.ask("GET", f"/{TOKEN}").headers["Location"].endswith(f"/{TOKEN}/")
    assert service.ask("GET", f"/{TOKEN}/nothing").status == 404


@pytest.mark.parametrize("path", ["/", "/events", "/page.js", "/wrong/", "/wrong/events", f"/{TOKEN}x/", "//", "/%ff/"])
def test_without_the_token_there_is_nothing(service: Service, path: str) -> None:
    answer = service.ask("GET", path)
    assert answer.status == 403
    assert "token" in answer.read().decode()


def test_other_pages_are_refused_even_with_the_token(service: Service) -> None:
    for origin in ("https://example.org", "null", "http://127.0.0.1:1", service.origin + ".example.org", "file://"):
        assert service.post(Origin=origin) == 403
        assert service.ask("GET", f"/{TOKEN}/events", Origin=origin).status == 403
    assert not service.cut


def test_another_name_of_this_machine_is_refused(service: Service) -> None:
    assert service.ask("GET", f"/{TOKEN}/", Host=f"rebound.example.org:{service.port}").status == 403
    assert service.ask("GET", f"/{TOKEN}/", Host="127.0.0.1:1").status == 403
    assert service.ask("GET", f"/{TOKEN}/", Host=f"localhost:{service.port}").status == 200


def test_a_change_must_say_where_it_comes_from(service: Service) -> None:
    assert service.ask("POST", f"/{TOKEN}/cut", CUT, Content_Type="application/json").status == 403
    assert service.ask("GET", f"/{TOKEN}/cut").status == 405
    assert not service.cut


def test_what_is_no_request_is_refused(service: Service) -> None:
    bad = ("", "{", "[]", "7", '{"cables": []}', '{"cables": [1]}', '{"cables": "h1/ib0"}', "[" * 60_000, '"\xff"')
    assert {service.post(body) for body in bad} == {400}
    assert service.post(kind="text/plain") == 415
    assert service.post(" " * (MAX_BODY_BYTES + 1)) == 413
    assert not service.cut


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00 no HTTP\r\n\r\n",
        b"GET /a-token/ HTTP/1.1\r\n\r\n",
        b"GET /a-token/ HTTP/1.0\r\n\r\n",
        b"GET /a-token/../a-token/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
        b"POST /a-token/cut HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /a-token/events HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_bytes_that_no_browser_sends_change_nothing(service: Service, raw: bytes) -> None:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=10)
    with connection, contextlib.suppress(ConnectionError):
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in connection.recv(100)
    assert service.ask("GET", f"/{TOKEN}/").status == 200
    assert not service.cut


def test_a_cable_is_cut_or_the_refusal_reported(service: Service) -> None:
    assert service.post() == 200
    assert service.cut == ["h1/ib0"]
    service.cut.clear()
    answer = service.ask(
        "POST", f"/{TOKEN}/cut", '{"cables": ["x"]}', Origin=service.origin, Content_Type="application/json"
    )
    assert answer.status == 409
    assert json.loads(answer.read())["why"] == "there is no such cable"


def test_events_are_a_stream(service: Service) -> None:
    answer = service.ask("GET", f"/{TOKEN}/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.readline().startswith(b"event: ")
    answer.close()


def test_a_port_that_is_taken_is_refused(service: Service) -> None:
    with pytest.raises(Refused, match=f"cannot listen on port {service.port}"):
        listen(service.port)


def test_without_the_extra_the_fix_names_it() -> None:
    script = "import sys; sys.modules['uvicorn'] = None; from ibbond.cli.main import run; sys.exit(run(['lab', 'web']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'ibbond[web]'" in done.stderr


def test_without_a_lab_there_is_no_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "web", "--name", "nosuchlab"]) == 2
    assert "no lab nosuchlab is running" in capsys.readouterr().err
