"""Hostile requests: each is refused in one sentence, nothing is logged or kept, and the server keeps answering.

Hostile images themselves are in hostile_images_test.py.
"""

import asyncio
import contextlib
import io
import logging
import socket
import struct
import time
import types
import zlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from running_server import COUPLE, encode, load_released, run_server

from agegender.server import refusals, runner, uploads
from agegender.server.refusals import Refusal

OCTETS = {"content-type": "application/octet-stream"}
GOOD = encode(COUPLE)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with run_server(load_released(), allowed_hosts=["Faces.example.org", "*.example.net"]) as address:
        yield address


@pytest.fixture(autouse=True)
def server_keeps_answering(
    server: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.WARNING] == []
    answer = httpx.post(f"{server}/v1/predict?aligned=1", content=GOOD, headers=OCTETS, timeout=60)
    assert len(answer.json()["faces"]) == 1
    assert "agegender_waiting_images 0.0" in httpx.get(f"{server}/metrics").text
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# ---- whose request it is


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:7860", 200),
        ("localhost:1", 200),
        ("LOCALHOST.", 200),
        ("[::1]:7860", 200),
        ("192.0.2.7", 200),
        (socket.gethostname().upper(), 200),
        ("faces.example.org", 200),
        ("a.b.example.net", 200),
        ("example.net", 421),
        ("evil.example", 421),
        ("faces.example.org.evil.example", 421),
        ("evilexample.net", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("evil.example:localhost", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_host_must_be_a_name_of_this_server(server: str, host: str, status: int) -> None:
    response = httpx.get(f"{server}/v1/model", headers={"host": host})
    assert response.status_code == status
    if status == 421:
        assert response.json()["error"].startswith("Host not allowed; see --allowed-hosts.")


def test_two_hosts_are_refused(server: str) -> None:
    assert send_raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n").startswith(
        b"HTTP/1.1 4"
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"origin": "SERVER"}, 200),
        ({"origin": "https://faces.example.org"}, 200),  # behind a proxy that rewrites Host
        ({"origin": "https://faces.example.org", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),  # another server on this machine
        ({"origin": "http://localhost"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"origin": "SERVER", "sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(server: str, headers: dict[str, str], status: int) -> None:
    headers = {name: value.replace("SERVER", server) for name, value in headers.items()}
    response = httpx.post(f"{server}/v1/predict?aligned=1", content=GOOD, headers=OCTETS | headers, timeout=60)
    assert response.status_code == status
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_no_method_or_path_reaches_anything_else(server: str) -> None:
    for method, path, status in [
        ("GET", "/v1/predict", 405),
        ("PUT", "/v1/predict", 405),
        ("TRACE", "/v1/predict", 405),
        ("OPTIONS", "/v1/predict", 405),
        ("DELETE", "/v1/model", 405),
        ("POST", "/", 405),
        ("POST", "/v1/predict/", 404),
        ("GET", "/index.html", 404),
        ("GET", "/static/page.js", 404),
        ("GET", "/docs", 404),
        ("GET", "/examples/-1.jpg", 404),
        ("GET", "/examples/99999999999999999999.jpg", 404),
    ]:
        response = httpx.request(method, server + path)
        assert (method, path, response.status_code) == (method, path, status)
        assert response.json()["error"].endswith(".")


@pytest.mark.parametrize(
    "path",
    [
        "/../app.py",
        "/..%2fapp.py",
        "/%2e%2e/%2e%2e/setup.cfg",
        "/..\\app.py",
        "/static/../../app.py",
        "//etc/passwd",
        "/etc/passwd",
        "/%00",
        "/style.css%00.html",
        "/examples/..%2f..%2fapp.jpg",
    ],
)
def test_paths_do_not_reach_the_disk(server: str, path: str) -> None:
    answer = send_raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404") and b"There is nothing at this path." in answer


# ---- bodies


def make_png(width: int, height: int, *, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def make_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(COUPLE).save(file, "JPEG")
    return file.getvalue()


JPEG = make_jpeg()
IMAGES = {
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "not an image"),
    "huge-header": (make_png(65_000, 65_000, data=zlib.compress(bytes(1000))), "pixels"),
    "cut-short": (JPEG[: len(JPEG) // 2], "cannot be read"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_hostile_image_is_422(server: str, name: str) -> None:
    body, words = IMAGES[name]
    response = httpx.post(f"{server}/v1/predict", content=body, headers=OCTETS, timeout=60)
    assert response.status_code == 422 and words in response.json()["error"]


def test_bomb_is_bounded_by_its_pixels(server: str) -> None:
    bomb = make_png(5_000, 5_000, data=zlib.compress(bytes(5_000 * 15_001), 9))  # 75 MB in 75 KB
    assert len(bomb) < 100_000
    response = httpx.post(f"{server}/v1/predict?aligned=1", content=bomb, headers=OCTETS, timeout=60)
    assert (response.status_code, response.json()["width"]) == (200, 5_000)


def test_large_content_length_is_refused_early(server: str) -> None:
    for media_type, length, words in [
        ("image/png", 20_000_001, b"The image is larger than 20 MB."),
        ("image/png", 10**18, b"The image is larger than 20 MB."),
        ("multipart/form-data; boundary=x", 60_000_001, b"The body is larger than 60 MB."),
    ]:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n"
        answer = send_raw(server, f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 413") and words in answer


def test_body_of_200_megabytes_is_refused_early(server: str) -> None:
    def megabytes() -> Iterator[bytes]:  # sent in chunks, without a length
        for _ in range(200):
            yield bytes(1_000_000)

    for media_type in ("image/png", "multipart/form-data; boundary=x"):
        with contextlib.suppress(httpx.WriteError):  # the server stops listening two seconds after its answer
            response = httpx.post(f"{server}/v1/predict", content=megabytes(), headers={"content-type": media_type})
            assert response.status_code in (400, 413)


def test_large_image_in_multipart_is_413(server: str) -> None:
    files = {"image": ("a.png", bytes(20_000_001))}
    response = httpx.post(f"{server}/v1/predict", files=files, timeout=60)
    assert response.status_code == 413 and response.json() == {"error": "The image is larger than 20 MB."}


def test_memory_of_all_bodies_is_bounded_and_given_back(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gauge = uploads.MemoryGauge()
    gauge.add(400_000_000)
    with pytest.raises(Refusal, match="too many images in memory"):
        gauge.add(1)
    monkeypatch.setattr(uploads, "_MAX_BYTES_IN_MEMORY", len(GOOD))
    for body, status in ((GOOD, 200), (GOOD + b"x", 503), (GOOD, 200)):
        response = httpx.post(f"{server}/v1/predict?aligned=1", content=body, headers=OCTETS, timeout=60)
        assert response.status_code == status and response.headers.get("retry-after") == (
            "5" if status == 503 else None
        )


@pytest.mark.parametrize(("seconds", "refused"), [(21.9, False), (22.1, True)])
def test_body_may_take_twenty_seconds_and_a_second_for_20_kb(
    monkeypatch: pytest.MonkeyPatch, seconds: float, refused: bool
) -> None:
    now, limits = 0.0, []
    monkeypatch.setattr(uploads, "time", types.SimpleNamespace(monotonic=lambda: now))

    def limit(seconds: float) -> asyncio.Timeout:
        limits.append(seconds)
        return asyncio.timeout(seconds)

    monkeypatch.setattr(uploads, "asyncio", types.SimpleNamespace(timeout=limit))

    async def send() -> AsyncIterator[bytes]:
        nonlocal now
        yield bytes(40_000)
        now = seconds
        yield b"last"
        await asyncio.sleep(0.01)

    async def read() -> int:
        request = types.SimpleNamespace(headers={}, stream=send)
        with uploads.BodyReader(request, uploads.MemoryGauge()) as reader:  # type: ignore[arg-type]
            ((upload,), _) = await reader.read()
            return len(upload.data)

    if refused:
        with pytest.raises(Refusal, match="arrives too slowly") as error:
            asyncio.run(read())
        assert error.value.status == 408
    else:
        assert asyncio.run(read()) == 40_004
    assert limits[:2] == [10, 10] and limits[2] == pytest.approx(0 if refused else 0.1, abs=1e-3)  # ten for each chunk


def test_rest_of_a_refused_body_is_thrown_away_for_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, sent = [], []

    def limit(seconds: float) -> asyncio.Timeout:
        limits.append(seconds)
        return asyncio.timeout(0.01)

    monkeypatch.setattr(refusals, "asyncio", types.SimpleNamespace(timeout=limit))

    async def receive() -> dict:
        await asyncio.sleep(0.001)
        return {"more_body": True}

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(refusals.RefusalResponse(Refusal(413, "Too large.", unread=True))({}, receive, send))
    assert limits == [2] and [message.get("more_body", False) for message in sent] == [False, True, False]


def test_header_must_arrive_in_ten_seconds() -> None:
    waited: list[float] = []
    connection = types.SimpleNamespace(
        loop=types.SimpleNamespace(call_later=lambda seconds, _: waited.append(seconds)), _check_progress=None
    )
    runner._Connection._check_later(connection)
    assert waited == [10]


def test_too_many_files_are_refused(server: str) -> None:
    files = [("image", (f"{number}.png", b"x")) for number in range(65)]
    response = httpx.post(f"{server}/v1/predict", files=files)
    assert response.status_code == 400 and "64" in response.json()["error"]


def test_file_name_in_multipart_is_only_repeated(server: str) -> None:
    for name in ("../../etc/passwd", "<script>.png", "a\x1b[2J.png", "x" * 3000):
        response = httpx.post(f"{server}/v1/predict", files={"image": (name, b"hello")})
        (answer,) = response.json()
        assert answer["image"].replace("%1B", "\x1b") == name and "not an image" in answer["error"]
        assert response.headers["content-type"] == "application/json"


# ---- connections


def send_raw(server: str, data: bytes) -> bytes:
    """What the server says until it closes the connection or is silent for a while."""
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        connection.settimeout(3)
        return receive(connection)


def receive(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while b'."}' not in answer and (part := connection.recv(65_536)):
            answer += part
    return answer


def connect(server: str) -> socket.socket:
    address = urlsplit(server)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=20)


HEAD = b"POST /v1/predict?aligned=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: many\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["length-below-zero", "length-of-words", "two-lengths", "megabyte-of-header", "tls", "no-host"],
)
def test_bytes_that_are_no_request_are_refused(server: str, sent: bytes) -> None:
    answer = send_raw(server, sent)
    assert answer.startswith(b"HTTP/1.1 4") or (not answer and len(sent) > 100_000)  # cut off while it still sent


def test_cut_connections_cost_nothing_more(server: str) -> None:
    for body in (b"", GOOD[:100], GOOD):
        for _ in range(20):
            with connect(server) as connection:
                connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + body)
    end = time.monotonic() + 10
    lines = "agegender_waiting_images 0.0", 'agegender_requests_total{path="/v1/predict",status="499"}'
    while not all(line in httpx.get(f"{server}/metrics").text for line in lines):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_slow_senders_do_not_block_others_and_are_cut_off(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(runner, "_HEADER_SECONDS", 1.0)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(300)]
        for number, connection in enumerate(slow):
            connection.sendall(HEAD if number % 2 else HEAD + b"Content-Length: 99\r\n\r\nx")  # half of a header
        answer = httpx.post(f"{server}/v1/predict?aligned=1", content=GOOD, headers=OCTETS, timeout=60)
        assert answer.status_code == 200
        answers = [receive(connection) for connection in slow]
    assert all(each.startswith(b"HTTP/1.1 408") and b"The body arrives too slowly." in each for each in answers[::2])
    assert not any(answers[1::2])
