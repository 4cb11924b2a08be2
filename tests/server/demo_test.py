"""The web page's server, asked as programs ask it; what a browser shows is in demo_browser_test.py."""

import base64
import contextlib
import io
import json
import math
import os
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx  # comes with Gradio
import keras
import numpy as np
import pytest
from conftest import ROOT, make_tiny_trunk
from PIL import Image

import agegender as ag
from agegender.demo import build_demo, launch
from agegender.demo.guard import MAX_BYTES, _refusal
from agegender.demo.page import _EXAMPLES
from agegender.demo.wording import _table, answer, decode
from agegender.inference.images import ImageError
from agegender.inference.results import Face, Photograph
from agegender.synthetic.faces import draw_people
from benchmarks.clients import ask_at_once

# In a process of its own, as users run it: Gradio has warnings that would be errors here. A line that it is sent makes
# it say how many visitors it remembers; at the end of them it ends. It tells whom it asks for anything.
SERVER = """
import sys
asks = {"socket.getaddrinfo": lambda args: args[0], "socket.connect": lambda args: args[1][0]}
sys.addaudithook(lambda event, args: event in asks and print("asks", asks[event](args), file=sys.stderr, flush=True))
from agegender import Predictor
from agegender.demo import build_demo, start
predictor = Predictor(sys.argv[1])
page = build_demo(predictor)
print(start(page, port=None), flush=True)
try:
    start(build_demo(predictor), port=page.server_port)
except OSError as error:
    print(error, flush=True)
for _ in sys.stdin:
    print(len(page.state_holder.session_data), flush=True)
"""
COUPLE = draw_people([(23, 1, 4, 39), (47, 0, 3, 36)])


def file_of(pixels: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def make_model() -> keras.Model:
    keras.utils.set_random_seed(2)
    model, random = ag.build_model(make_tiny_trunk()), np.random.default_rng(2)
    for weight in model.trainable_weights:  # new heads answer the same for every image
        weight.assign(weight + random.normal(scale=0.02, size=weight.shape))
    return model


@pytest.fixture(scope="module")
def predictor() -> ag.Predictor:
    return ag.Predictor(make_model())


class Page:
    """The page in its process, and where that puts what it writes for a while."""

    def __init__(self, served: subprocess.Popen, folder: pathlib.Path, said: pathlib.Path) -> None:
        assert served.stdout is not None
        self.served, self.folder, self.said = served, folder, said
        self.address, self.trouble = served.stdout.readline().strip(), served.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), said.read_text()

    def visitors(self) -> int:
        assert self.served.stdin is not None and self.served.stdout is not None
        self.served.stdin.write("?\n")
        self.served.stdin.flush()
        return int(self.served.stdout.readline())

    def files(self) -> list[pathlib.Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@contextlib.contextmanager
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    run, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("temporary")
    make_model().save(run / "best.keras")
    environ = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "gradio"), "TMPDIR": str(folder)}
    command, pipe = [sys.executable, "-c", SERVER, str(run)], subprocess.PIPE
    with (run / "said").open("w") as said:
        served = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=pipe, stdout=pipe, stderr=said, text=True)
    with served:
        yield Page(served, folder, run / "said")
    assert served.returncode == 0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with serve(tmp_path_factory) as served:
        yield served


@pytest.fixture(scope="module")
def client(page: Page) -> Any:
    from gradio_client import Client

    return Client(page.address, verbose=False, analytics_enabled=False)


def alike(ours: Any, theirs: Any) -> bool:
    """Equal but for the last digits of numbers: two processes may add in another order."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(alike(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    return math.isclose(ours, theirs, rel_tol=1e-5) if isinstance(ours, float) else ours == theirs


def test_a_program_gets_what_the_predictor_answers(client: Any, predictor: ag.Predictor) -> None:
    expected = json.loads(json.dumps(predictor(file_of(COUPLE)).to_dict()))
    assert len(expected["faces"]) == 2 and expected["faces"][0]["age"] != expected["faces"][1]["age"]
    for text in (text_of(file_of(COUPLE)), f"data:image/png;base64,{text_of(file_of(COUPLE))}"):
        assert alike(client.predict(text, api_name="/predict"), expected)


def test_a_program_can_say_that_it_is_one_aligned_face(client: Any, predictor: ag.Predictor) -> None:
    expected = json.loads(json.dumps(predictor(file_of(COUPLE), aligned=True).to_dict()))
    assert alike(client.predict(text_of(file_of(COUPLE)), True, api_name="/predict"), expected)
    assert [face["score"] for face in expected["faces"]] == [None]


def test_a_image_without_a_face_gives_no_faces(client: Any) -> None:
    grey = file_of(np.full((64, 80, 3), 128, "uint8"))
    assert client.predict(text_of(grey), api_name="/predict")["faces"] == []


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("", "is missing"),
        (7, "must be the bytes of a file as base64"),
        (None, "is missing"),
        ("no base64!", "as base64"),
        ("data:image/png;base64,", "is an empty file"),
        (text_of(b"hello"), "is no image"),
        (text_of(file_of(COUPLE)[:2000]), "cannot be read as a image"),
        ("A" * (MAX_BYTES * 4 // 3 + 4), "is too large. The limit is 20 MB"),
        (f"{text_of(file_of(COUPLE))[:400]}é", "as base64"),
        ({"path": "http://127.0.0.1:9/a.jpg", "meta": {"_type": "gradio.FileData"}}, "takes no files"),
    ],
)
def test_what_is_no_image_gets_a_clean_error(client: Any, page: Page, image: Any, words: str) -> None:
    with pytest.raises(Exception, match=words) as error:
        client.predict(image, api_name="/predict")
    assert "Traceback" not in str(error.value) + page.said.read_text()


@pytest.mark.parametrize("aligned", ["false", 7, []])
def test_whether_it_is_aligned_is_said_with_yes_or_no(client: Any, page: Page, aligned: Any) -> None:
    with pytest.raises(Exception, match="`aligned` must be"):
        client.predict(text_of(file_of(COUPLE)), aligned, api_name="/predict")
    assert "Traceback" not in page.said.read_text()


def test_after_an_answer_nothing_of_the_image_is_left(client: Any, page: Page) -> None:
    client.predict(text_of(file_of(COUPLE)), api_name="/predict")
    assert page.visitors() == 0
    assert page.files() == []


def test_no_file_can_be_left_on_the_server(page: Page) -> None:
    for address in ("gradio_api/upload", "upload", "gradio_api/upload/", "gradio_api//upload"):
        said = httpx.post(page.address + address, files={"files": ("a.png", file_of(COUPLE))})
        assert said.status_code == 403, address
    assert page.files() == []


@pytest.mark.parametrize("address", ["file=/etc/hostname", "proxy=http://127.0.0.1:9/", "deep_link", "run/predict"])
def test_an_address_that_the_page_does_not_need_is_refused(page: Page, address: str) -> None:
    said = httpx.get(f"{page.address}gradio_api/{address}")
    assert said.status_code == 403 and "takes no files" in said.json()["detail"]
    assert httpx.post(f"{page.address}gradio_api/{address}", json={"data": []}).status_code == 403


def test_a_request_that_is_too_large_or_does_not_say_its_length_is_refused(page: Page) -> None:
    address = f"{page.address}gradio_api/call/predict"
    said = httpx.post(address, content=b"1" * (MAX_BYTES * 4 // 3 + 30_000))
    assert said.status_code == 413 and "The limit is 20 MB" in said.json()["detail"]
    assert httpx.post(address, content=iter([b"{}"])).status_code == 411


BODY = {"content-length": "10", "content-type": "application/json"}
REQUESTS: list[tuple[str, str, dict[str, str], int | None]] = [
    ("GET", "/", {}, None),
    ("HEAD", "/theme.css", {}, None),
    ("GET", "/gradio_api/queue/data", {}, None),
    ("GET", "/gradio_api/upload_progress", {}, 403),
    ("GET", "/gradio_api/file=/etc/hostname", {}, 403),
    ("POST", "/", BODY, 403),
    ("PUT", "/anything", BODY, 403),
    ("POST", "/gradio_api/upload", BODY, 403),
    ("POST", "/gradio_api/queue/join", BODY, None),
    ("POST", "/gradio_api/call/predict", BODY | {"content-type": "Application/JSON; charset=utf-8"}, None),
    ("POST", "/gradio_api/call/predict", BODY | {"content-type": "text/plain"}, 415),
    ("POST", "/gradio_api/call/predict", {"content-length": "10"}, 415),
    ("POST", "/gradio_api/call/predict", {"content-type": "application/json"}, 411),
    ("POST", "/gradio_api/call/predict", BODY | {"content-length": "-1"}, 411),
    ("POST", "/gradio_api/call/predict", BODY | {"transfer-encoding": "chunked"}, 411),
    ("POST", "/gradio_api/call/predict", BODY | {"content-length": str(MAX_BYTES * 4 // 3 + 20_000)}, None),
    ("POST", "/gradio_api/call/predict", BODY | {"content-length": str(MAX_BYTES * 4 // 3 + 20_001)}, 413),
]


@pytest.mark.parametrize(("method", "path", "headers", "status"), REQUESTS)
def test_what_is_let_in(method: str, path: str, headers: dict[str, str], status: int | None) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    refused = _refusal({"type": "http", "method": method, "path": path, "headers": encoded})
    assert (refused and refused[0]) == status


def test_the_page_loads_nothing_from_elsewhere(page: Page) -> None:
    root, style = (httpx.get(page.address + path).text for path in ("", "theme.css"))
    assert "Age and gender from faces" in root and "font" in style
    loaded = re.compile(r"""(?:<(?:script|img|iframe|link)\b[^>]*(?:src|href)=|url\(|@import)\s*["']?https?://""")
    assert not loaded.search(root) and not loaded.search(style)
    assert '"analytics_enabled":false' in root and "fonts.googleapis" not in root + style


def test_the_server_asks_nobody_for_anything(client: Any, page: Page) -> None:
    client.predict(text_of(file_of(COUPLE)), api_name="/predict")
    asked = set(re.findall(r"^asks (.*)$", page.said.read_text(), re.MULTILINE))
    assert "127.0.0.1" in asked and asked <= {"127.0.0.1", "localhost"}  # whether its own page is there


def test_the_words_about_what_it_is_not_for_are_on_the_page(page: Page) -> None:
    root = httpx.get(page.address).text
    for words in ("Do not use this to decide about people", "non-commercial research only", "is written nowhere"):
        assert words in root


def test_many_clients_at_once_all_get_the_right_answer(page: Page, predictor: ag.Predictor) -> None:
    photographs = [file_of(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), "uint8")) for seed in range(9)]
    right = [json.loads(json.dumps(predictor(each, aligned=True).to_dict())) for each in photographs]
    assert len({each["faces"][0]["age"] for each in right}) == len(photographs)
    got = ask_at_once(page.address, photographs, clients=50, answers=100, aligned=True)
    assert len(got) == 100 and all(alike(answer, right[which]) for which, answer, _ in got)


def test_each_drawn_example_shows_the_faces_that_were_drawn(predictor: ag.Predictor) -> None:
    found = {name: len(predictor(draw_people(people))) for name, people in _EXAMPLES.items()}
    assert found == {name: len(people) for name, people in _EXAMPLES.items()}


def test_the_answer_is_a_photograph_and_a_table_row_for_each_face(predictor: ag.Predictor) -> None:
    html = answer(predictor, text_of(file_of(COUPLE, "JPEG")))
    (address,) = re.findall(r'src="([^"]*)"', html)
    shown = np.asarray(Image.open(io.BytesIO(decode(address))), int)
    assert shown.shape == COUPLE.shape and np.abs(shown - COUPLE).max() > 100  # the boxes
    assert html.count("<tr>") == 3 and "2 faces, from left to right." in html and "not been calibrated" in html


def test_a_large_photograph_is_shown_smaller(predictor: ag.Predictor) -> None:
    html = answer(predictor, text_of(file_of(np.full((100, 3200, 3), 128, "uint8"))), aligned=True)
    assert Image.open(io.BytesIO(decode(re.findall(r'src="([^"]*)"', html)[0]))).size == (1600, 50)


def test_the_answer_says_what_is_wrong(predictor: ag.Predictor) -> None:
    assert "No face was found" in answer(predictor, text_of(file_of(np.full((64, 80, 3), 128, "uint8"))))
    assert "it is no image" in answer(predictor, text_of(b"hello"))
    assert "it is missing" in answer(predictor, None)


def test_a_table_row_has_the_numbers_of_its_face_and_a_dash_for_what_is_not_known() -> None:
    face = Face((0, 0, 9, 9), 31.4, 0.2, (22.0, 41.6), score=0.987, note="small: 9 < 40")
    html = _table(Photograph([face, Face((0, 0, 9, 9), None, None)]), "")
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*)</tr>", html)]
    assert rows[-2:] == [["31", "22-42", "male", "80 %", "0.99", "small: 9 &lt; 40"], ["-"] * 6]


def test_text_that_is_no_image_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ImageError, match="too large"):
        decode("A" * (MAX_BYTES * 4 // 3 + 4))


def test_base64_may_be_broken_into_lines() -> None:
    assert decode(base64.encodebytes(file_of(COUPLE)).decode()) == file_of(COUPLE)


def test_a_place_that_cannot_be_had_is_refused_before_the_model_is_looked_for(
    page: Page, tmp_path: pathlib.Path
) -> None:
    port = int(page.address.rstrip("/").rsplit(":", 1)[1])
    assert page.trouble == f"Port {port} is in use; another: --port={port + 1}"
    with pytest.raises(OSError, match=f"^{page.trouble}$"):
        launch(tmp_path, port=port)
    for number in (0, -4, 65_536):
        with pytest.raises(ValueError, match=f"Received: port={number}"):
            launch(tmp_path, port=number)
    with pytest.raises(OSError, match=r"`host` and `port` must be free on this machine: .* host='192.0.2.1'"):
        launch(tmp_path, host="192.0.2.1")


def test_without_gradio_the_error_says_what_to_install(
    predictor: ag.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # an import now raises
    with pytest.raises(ImportError, match=re.escape("pip install 'agegender[demo]'")):
        build_demo(predictor)


def test_a_missing_model_is_named_before_anything_is_served(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(FileNotFoundError, match="no trained model"):
        launch(tmp_path, port=port)
