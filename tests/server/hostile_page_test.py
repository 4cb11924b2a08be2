"""Hostile requests to the web page: each is refused in words, nothing is kept or logged, and it goes on answering.

Images themselves are in hostile_images_test.py; what a well-meant client gets wrong is in demo_test.py.
"""

import json
import socket
import time
from collections.abc import Iterator

import httpx  # comes with Gradio
import pytest
from demo_test import COUPLE, Page, file_of, serve, text_of
from hostile_images_test import EPS, FILES, JPEG, SVG

CALL, JOIN = "gradio_api/call/predict", "gradio_api/queue/join"
JSON = {"content-type": "application/json"}
GOOD = text_of(file_of(COUPLE))
MARK = GOOD[1000:1100]  # of the image, by which it would be known in a log
NO_FILES, NOT_JSON = "it takes no files", "The request must be JSON"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with serve(tmp_path_factory) as served:
        yield served


@pytest.fixture(autouse=True)
def goes_on(page: Page) -> Iterator[None]:
    """After each case: a good image is answered, nothing is kept, the log has neither a traceback nor a image."""
    yield
    assert len(answer(page, {"data": [GOOD, True]})["faces"]) == 1
    end = time.monotonic() + 5  # we have read an answer a moment before it is forgotten
    while page.visitors() and time.monotonic() < end:
        time.sleep(0.05)
    assert page.visitors() == 0 and page.files() == []
    said = page.said.read_text()
    assert "Traceback" not in said and MARK not in said


def answer(page: Page, body: object) -> dict:
    """What a program gets: the answer, or {"error": what is wrong}."""
    asked = httpx.post(page.address + CALL, content=json.dumps(body), headers=JSON)
    told = httpx.get(f"{page.address}{CALL}/{asked.json()['event_id']}", timeout=60).text
    data = json.loads(told[told.index("data: ") + 6 :].splitlines()[0])
    return data[0] if isinstance(data, list) else data


IMAGES = {
    "svg": (text_of(SVG), "is no image"),
    "svg-as-a-data-url": (f"data:image/svg+xml;base64,{text_of(SVG)}", "is no image"),
    "html-as-a-data-url": ("data:text/html,<script>alert(1)</script>", "as base64"),
    "eps": (text_of(EPS), "is no image"),
    "bomb": (text_of(FILES["png-profile-that-inflates"][0]()), "cannot be read as a image"),
    "scans": (text_of(FILES["jpeg-of-five-thousand-scans"][0]()), "more than 100 scans"),
    "huge": (text_of(FILES["jpeg-that-says-65500-squared"][0]()), "pixels. The limit is 64 million"),
    "cut": (text_of(JPEG[:200]), "cannot be read as a image"),
    "path": ("../../../../etc/passwd", "as base64"),
    "address": ("file:///etc/passwd", "as base64"),
    "address-of-a-machine": ("http://127.0.0.1:9/a.jpg", "as base64"),
    "nul": ("\0" * 99, "as base64"),
    "half-a-character": ("\ud800", "as base64"),
    "list": ([GOOD], "must be the bytes of a file as base64"),
    "nested": ({"data": {"path": "/etc/passwd"}}, "must be the bytes of a file as base64"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_hostile_image_gets_words(page: Page, name: str) -> None:
    image, words = IMAGES[name]
    assert words in answer(page, {"data": [image, False]})["error"]


BODIES = {
    "no-inputs": (b'{"data": []}', "`data` must hold 2 values. Received: 0"),
    "one-input": (json.dumps({"data": [GOOD]}).encode(), "`data` must hold 2 values. Received: 1"),
    "many-inputs": (json.dumps({"data": [GOOD] * 5}).encode(), "`data` must hold 2 values. Received: 5"),
    "not-a-number": (f'{{"data": ["{GOOD}", NaN]}}'.encode(), "`aligned` must be"),
    "data-is-text": (b'{"data": "x"}', "valid list"),
    "no-data": (b"{}", "Field required"),
    "a-list": (b"[]", "valid dictionary"),
    "cut-short": (b'{"data": [', "JSON decode error"),
    "nothing": (b"", "Field required"),
    "no-text": (b"\xff\xfe", "JSON decode error"),
    "nested-for-ever": (b"[" * 100_000, "error parsing the body"),
    "a-session-of-a-million-letters": (
        json.dumps({"data": [GOOD, False], "session_hash": "x" * 1_000_000}).encode(),
        "faces",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_gets_words(page: Page, name: str) -> None:
    body, words = BODIES[name]
    said = httpx.post(page.address + CALL, content=body, headers=JSON)
    if said.status_code == 200:
        said = httpx.get(f"{page.address}{CALL}/{said.json()['event_id']}", timeout=60)
    assert words in said.text and said.status_code < 500


REQUESTS = {
    "a-image-as-it-is": ("POST", CALL, {"content-type": "image/png"}, file_of(COUPLE), 415, NOT_JSON),
    "json-that-says-it-is-text": ("POST", CALL, {"content-type": "text/plain"}, b"{}", 415, NOT_JSON),
    "no-content-type": ("POST", CALL, {}, b"{}", 415, NOT_JSON),
    "a-form": ("POST", CALL, {"content-type": "application/x-www-form-urlencoded"}, b"data=x", 415, NOT_JSON),
    "a-form-with-a-file": ("POST", CALL, {"content-type": "multipart/form-data; boundary=x"}, b"--x--", 415, NOT_JSON),
    "a-function-that-is-not-there": ("POST", "gradio_api/call/evil", JSON, b'{"data": []}', 400, "not understood"),
    "a-number-of-no-function": ("POST", JOIN, JSON, b'{"fn_index": 99, "data": [], "session_hash": "a"}', 400, "not"),
    "a-number-below-zero": ("POST", JOIN, JSON, b'{"fn_index": -9, "data": [], "session_hash": "a"}', 400, "not"),
    "the-pages-own-function-with-a-wrong-box": (
        *("POST", JOIN, JSON, json.dumps({"fn_index": 0, "data": [GOOD, "no"], "session_hash": "a"}).encode(), 200),
        "event_id",
    ),
    "the-pages-own-function-with-no-image": (
        *("POST", JOIN, JSON, b'{"fn_index": 0, "data": [{"path": "/etc/passwd"}, 5], "session_hash": "b"}', 200),
        "event_id",
    ),
    "an-event-of-nobody": ("GET", f"{CALL}/nobody", {}, b"", 200, ""),
    "a-queue-of-nobody": ("GET", "gradio_api/queue/data?session_hash=nobody", {}, b"", 200, ""),
    "put": ("PUT", CALL, JSON, b"{}", 405, "Not Allowed"),
    "trace": ("TRACE", CALL, JSON, b"{}", 405, "Not Allowed"),
    "delete-outside": ("DELETE", "config", JSON, b"{}", 403, NO_FILES),
    "upload-with-an-escaped-name": ("POST", "gradio_api/uplo%61d", JSON, b"{}", 403, NO_FILES),
    "upload-through-dots": ("POST", "gradio_api/call/%2e%2e/upload", JSON, b"{}", 405, "Not Allowed"),
    "upload-in-capitals": ("POST", "GRADIO_API/UPLOAD", JSON, b"{}", 403, NO_FILES),
    "file-by-path": ("GET", "gradio_api/file=/etc/passwd", {}, b"", 403, NO_FILES),
    "path-out-of-static": ("GET", "static/..%2f..%2f..%2f..%2fetc%2fpasswd", {}, b"", 403, "Forbidden"),
    "path-out-of-assets": ("GET", "assets/..%2f..%2fsetup.cfg", {}, b"", 403, "Forbidden"),
    "path-to-the-root": ("GET", "..%2f..%2f..%2fetc%2fpasswd", {}, b"", 404, "Not Found"),
    "path-with-a-nul": ("GET", "static/%00", {}, b"", 404, "Not Found"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_hostile_request_is_refused_and_the_page_goes_on(page: Page, name: str) -> None:
    method, address, headers, body, status, words = REQUESTS[name]
    said = httpx.request(method, page.address + address, headers=headers, content=body, timeout=60)
    assert said.status_code == status and words in said.text and "root:" not in said.text


BOTH = b"POST /%s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" % CALL.encode()
RAW = {
    "two-lengths": (BOTH + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"411"),
    "a-length-below-zero": (BOTH + b"Content-Length: -1\r\n\r\n", b"400"),
    "a-length-that-is-none": (BOTH + b"Content-Length: many\r\n\r\n", b"400"),
    "a-header-of-a-megabyte": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n", b"400"),
    "no-http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"400"),
}


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_no_request_are_refused(page: Page, name: str) -> None:
    sent, status = RAW[name]
    host, port = page.address.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(sent)
            assert connection.recv(100).startswith(b"HTTP/1.1 " + status)
        except ConnectionError:  # it was cut off while it still sent
            assert name == "a-header-of-a-megabyte"
