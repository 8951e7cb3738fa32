"""How the page is asked: within its time whatever the server does, and without a trace on the app's port."""

from __future__ import annotations

import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.app import page as pages
from launcher.instances import port as ports
from tests.support.apps import eventually, free_port


class Page(http.server.BaseHTTPRequestHandler):
    status = 200
    chunked = False

    def do_GET(self) -> None:
        body = b"<html><script>window.gradio_config = {}</script></html>"
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        if self.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(**attributes: object) -> Iterator[int]:
    """Serve a page of this kind in a thread and yield its port."""
    handler = type("Handler", (Page,), attributes)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def answering(work: Callable[[socket.socket], None]) -> Iterator[int]:
    """Have a thread deal with one connection after the other; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        work(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("chunked", [False, True])
def test_no_question_keeps_the_port_from_who_binds_plainly(protocol: str, chunked: bool) -> None:
    with serving(protocol_version=protocol, chunked=chunked) as port:
        for _ in range(10):
            page = pages.page("127.0.0.1", port)
            assert page == pages.Page(f"http://127.0.0.1:{port}", 200, "text/html", gradio=True)
    assert eventually(lambda: ports.is_free_for_a_plain_bind("127.0.0.1", port))


def test_what_a_client_leaves_does_keep_it(tmp_path: Path) -> None:
    with serving(protocol_version="HTTP/1.0") as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while connection.recv(65536):
            pass
    assert not ports.is_free_for_a_plain_bind("127.0.0.1", port)
    assert ports.probe("127.0.0.1", port) == "free"


@pytest.mark.parametrize(("status", "ready", "for_people"), [(401, True, True), (307, True, True), (404, True, False)])
def test_a_log_in_and_a_redirect_are_answers(status: int, ready: bool, for_people: bool) -> None:
    with serving(status=status) as port:
        page = pages.page("127.0.0.1", port)
    assert page
    assert (page.status, page.ready, page.for_people) == (status, ready, for_people)


def test_a_server_error_is_not_ready_yet() -> None:
    with serving(status=503) as port:
        page = pages.page("127.0.0.1", port)
    assert page
    assert not page.ready


def test_a_page_that_drips_is_given_up_in_time() -> None:
    ticks = []

    def drip(connection: socket.socket) -> None:
        for letter in b"HTTP/1.1 200 OK" + b"k" * 999:
            connection.send(bytes([letter]))
            time.sleep(0.3)

    with answering(drip) as port:
        begun = time.monotonic()
        assert pages.page("127.0.0.1", port, 1.0, lambda: ticks.append(1)) is None
        assert 0.9 <= time.monotonic() - begun < 10
    assert ticks


@pytest.mark.slow
def test_a_body_without_an_end_is_an_answer() -> None:
    def stream(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        while True:
            connection.sendall(b"more")
            time.sleep(0.05)

    with answering(stream) as port:
        begun = time.monotonic()
        page = pages.page("127.0.0.1", port, 30)
        assert page
        assert page.status == 200
        assert time.monotonic() - begun < 20


def test_a_page_that_takes_its_time_is_waited_for() -> None:
    def late(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        time.sleep(1.5)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with answering(late) as port:
        assert pages.page("127.0.0.1", port, 30)


def test_what_does_not_speak_http_has_no_page() -> None:
    with answering(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")) as port:
        assert pages.page("127.0.0.1", port, 5) is None
    assert pages.page("127.0.0.1", free_port(), 5) is None


def test_a_certificate_of_the_apps_own_will_do(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    made = subprocess.run(
        ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=app", "-days", "1")
        + ("-keyout", key, "-out", certificate),
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("there is no openssl to make a certificate with")
    code = (
        "import ssl, sys; from http.server import HTTPServer, SimpleHTTPRequestHandler\n"
        "server = HTTPServer(('127.0.0.1', 0), SimpleHTTPRequestHandler)\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(sys.argv[2], sys.argv[1])\n"
        "server.socket = context.wrap_socket(server.socket, server_side=True)\n"
        "print(server.server_address[1], flush=True); server.serve_forever()"
    )
    with subprocess.Popen(
        (sys.executable, "-c", code, key, certificate), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path
    ) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        try:
            page = pages.page("127.0.0.1", port, 30)
        finally:
            server.kill()
    assert page
    assert page.url == f"https://127.0.0.1:{port}"
    assert eventually(lambda: ports.is_free_for_a_plain_bind("127.0.0.1", port))


@pytest.mark.parametrize(
    ("asked", "addresses", "host"),
    [
        (None, ("0.0.0.0",), "0.0.0.0"),
        (None, ("10.8.0.2",), "10.8.0.2"),
        (None, ("10.8.0.2", "127.0.0.1"), "127.0.0.1"),
        (None, ("::1",), "::1"),
        ("127.0.0.1", ("10.8.0.2",), "10.8.0.2"),
        ("127.0.0.1", ("0.0.0.0",), "0.0.0.0"),
        ("10.8.0.2", ("10.8.0.2", "127.0.0.1"), "10.8.0.2"),
        ("::", ("::",), "::"),
    ],
)
def test_the_page_is_asked_for_where_the_app_listens(asked: str | None, addresses: tuple[str, ...], host: str) -> None:
    assert pages.host_to_ask(asked, addresses) == host


@pytest.mark.parametrize(
    ("asked", "addresses", "words"),
    [
        (None, ("0.0.0.0",), None),
        ("127.0.0.1", ("127.0.0.1",), None),
        ("localhost", ("127.0.0.1",), None),
        ("0.0.0.0", ("0.0.0.0",), None),
        ("0.0.0.0", ("::",), None),
        ("my-box", ("192.168.1.7",), None),
        ("127.0.0.1", ("0.0.0.0",), "it listens on every interface (0.0.0.0), not on 127.0.0.1 only"),
        ("localhost", ("::",), "it listens on every interface (::), not on localhost only"),
        ("0.0.0.0", ("127.0.0.1",), "it listens on 127.0.0.1 only, not on every interface (0.0.0.0)"),
        ("127.0.0.1", ("10.8.0.2",), "it listens on 10.8.0.2, not on 127.0.0.1"),
    ],
)
def test_another_address_than_asked_is_put_in_words(
    asked: str | None, addresses: tuple[str, ...], words: str | None
) -> None:
    assert ports.mismatch(asked, addresses) == words
