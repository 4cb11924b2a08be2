"""The web page as visitors meet it: the command's own server, a real browser, the real detector."""

import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from demo_test import COUPLE, file_of, make_model  # skips where there is no Gradio

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("there is no Chromium: apt-get install chromium chromium-driver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="drives the browser: pip install selenium")
Service = pytest.importorskip("selenium.webdriver.chrome.service").Service
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

CSS = "css selector"
SECONDS = 60
# No sandbox: containers have none. Nothing of the browser's own goes out, and its camera is a drawn one.
ARGUMENTS = """--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-sync
 --disable-background-networking --disable-component-update --use-fake-device-for-media-stream
 --use-fake-ui-for-media-stream"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the page that `launch` serves until it is interrupted."""
    run = tmp_path_factory.mktemp("run")
    make_model().save(run / "best.keras")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # A shell hands a command in its background an interrupt that is ignored.
    interruptible = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{interruptible}; from agegender.demo import launch; launch({str(run)!r}, port={port})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        assert f"http://127.0.0.1:{port}/" in served.stdout.readline()
        yield f"http://127.0.0.1:{port}/"
        served.send_signal(signal.SIGINT)
        assert served.wait(SECONDS) == 0


@pytest.fixture(scope="module")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in (*ARGUMENTS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        resize(browser, 1280)
        yield browser
    finally:
        browser.quit()


@pytest.fixture
def visit(browser: Any, address: str) -> Any:
    """The page, freshly loaded."""
    browser.get(address)
    find(browser, "#picker input")
    return browser


def resize(browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def find(browser: Any, selector: str) -> Any:
    wait = WebDriverWait(browser, SECONDS)
    return wait.until(lambda browser: browser.find_elements(CSS, selector))[0]


def choose(browser: Any, path: pathlib.Path) -> None:
    browser.find_element(CSS, "#picker input").send_keys(str(path))


def rows(browser: Any) -> int:
    find(browser, "#answer table")
    return len(browser.find_elements(CSS, "#answer tbody tr"))


def write(path: pathlib.Path, pixels: np.ndarray, form: str = "PNG") -> pathlib.Path:
    path.write_bytes(file_of(pixels, form))
    return path


def test_two_faces_are_marked_and_listed_and_nothing_is_asked_of_anybody_else(
    visit: Any, address: str, tmp_path: pathlib.Path
) -> None:
    choose(visit, write(tmp_path / "couple.jpg", COUPLE, "JPEG"))
    assert rows(visit) == 2
    shown = find(visit, "#answer img.photograph")
    assert visit.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", shown) == [360, 200]
    assert "2 faces" in find(visit, "#answer").text
    events = [json.loads(entry["message"])["message"] for entry in visit.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    foreign = [each for each in asked if not each.startswith((address, "data:", "blob:", "chrome:"))]
    assert any(each.startswith(address) for each in asked) and foreign == []
    assert [entry for entry in visit.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_image_without_a_face_and_a_broken_file_are_said_to_be_so(visit: Any, tmp_path: pathlib.Path) -> None:
    choose(visit, write(tmp_path / "grey.png", np.full((64, 80, 3), 128, "uint8")))
    assert "No face was found" in find(visit, "#answer .trouble").text
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no image")
    choose(visit, broken)
    wait = WebDriverWait(visit, SECONDS)
    wait.until(lambda browser: "it is no image" in browser.find_element("id", "answer").text)
    choose(visit, write(tmp_path / "couple.png", COUPLE))
    assert rows(visit) == 2


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(visit: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "large.jpg").write_bytes(bytes(20_000_001))
    choose(visit, tmp_path / "large.jpg")
    WebDriverWait(visit, SECONDS).until(
        lambda browser: "too large: 20.0 MB" in browser.find_element(CSS, "#picker .trouble").text
    )
    assert visit.find_element("id", "answer").text == ""


def test_an_example_is_answered_and_then_again_as_one_aligned_face(visit: Any) -> None:
    find(visit, "#picker .example").click()
    assert rows(visit) == 2
    find(visit, "input[type=checkbox]").click()
    WebDriverWait(visit, SECONDS).until(lambda browser: "One face." in browser.find_element("id", "answer").text)


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_dropped_and_a_pasted_image_are_answered(visit: Any, event: str) -> None:
    visit.execute_script(
        """
        const [event, values] = arguments, data = new DataTransfer();
        data.items.add(new File([new Uint8Array(values)], "couple.png", { type: "image/png" }));
        document.dispatchEvent(event === "drop"
          ? new DragEvent("drop", { dataTransfer: data, cancelable: true })
          : new ClipboardEvent("paste", { clipboardData: data }));
        """,
        event,
        list(file_of(COUPLE)),
    )
    assert rows(visit) == 2


def test_a_image_of_the_camera_is_answered(visit: Any) -> None:
    find(visit, "input[type=checkbox]").click()  # what it sees is no face
    find(visit, "#picker .camera").click()
    WebDriverWait(visit, SECONDS).until(
        lambda browser: browser.execute_script("return document.querySelector('#picker video').videoWidth") > 0
    )
    find(visit, "#picker .shoot").click()
    assert rows(visit) == 1
    assert visit.execute_script("return document.querySelector('#picker video').srcObject") is None


@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_fits_a_screen_and_a_telephone(visit: Any, width: int, tmp_path: pathlib.Path) -> None:
    resize(visit, width)
    wide = np.pad(np.concatenate([COUPLE] * 4, axis=1), ((0, 0), (100, 100), (0, 0)))
    choose(visit, write(tmp_path / "wide.png", wide))
    assert rows(visit) == 8
    assert visit.execute_script("return document.documentElement.scrollWidth") <= width
    parts = "#picker .drop, #picker .examples, #answer img, #answer table, #answer td"
    edges = "return [...document.querySelectorAll(arguments[0])].map((e) => e.getBoundingClientRect().right)"
    assert max(visit.execute_script(edges, parts)) <= width
    assert "Do not use this to decide about people" in find(visit, "body").text
    resize(visit, 1280)
