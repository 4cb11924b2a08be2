"""The page in headless Chromium, with the released model."""

import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from running_server import COUPLE, encode, load_released, run_server

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver")
Service = pytest.importorskip("selenium.webdriver.chrome.service").Service
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

pytestmark = pytest.mark.slow
CSS = "css selector"
SECONDS = 60
# Without a sandbox, as in a container. The camera is Chromium's own, and shows no face.
ARGUMENTS = """--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-sync
 --disable-background-networking --disable-component-update --use-fake-device-for-media-stream
 --use-fake-ui-for-media-stream"""


@pytest.fixture(scope="module", params=["", "/faces"], ids=["root", "prefix"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    with run_server(load_released(), root_path=request.param) as server:
        yield f"{server}{request.param}/"


@pytest.fixture(scope="module")
def open_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    opened = []

    def open_one(*arguments: str) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = str(BROWSER)
        for argument in (*ARGUMENTS.split(), *arguments, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        opened.append(webdriver.Chrome(options=options, service=Service(str(DRIVER))))
        resize(opened[-1], 1280)
        return opened[-1]

    yield open_one
    for browser in opened:
        browser.quit()


@pytest.fixture(scope="module")
def browser(open_browser: Callable[..., Any]) -> Any:
    return open_browser()


@pytest.fixture
def page(browser: Any, address: str) -> Any:
    browser.get(address)
    find(browser, "#picker:not([hidden])")
    return browser


def resize(browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def find(browser: Any, selector: str, words: str = "") -> Any:
    def matches(browser: Any) -> Any:
        return next((each for each in browser.find_elements(CSS, selector) if words in each.text), None)

    return WebDriverWait(browser, SECONDS).until(matches)


def choose(browser: Any, path: pathlib.Path, data: bytes) -> None:
    path.write_bytes(data)
    browser.find_element(CSS, ".choose input").send_keys(str(path))


def count_rows(browser: Any) -> int:
    find(browser, "#answer table")
    return len(browser.find_elements(CSS, "#answer tbody tr"))


def severe_logs(browser: Any) -> list[dict]:
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_two_faces_are_marked_and_listed(page: Any, address: str, tmp_path: pathlib.Path) -> None:
    page.get_log("performance"), severe_logs(page)
    page.get(address)
    choose(page, tmp_path / "couple.jpg", encode(COUPLE, "JPEG"))
    assert count_rows(page) == 2
    assert "2 faces, from left to right." in find(page, "#answer").text
    assert "The interval contains the recorded age 95 % of the time" in find(page, "#answer").text
    shown = find(page, "#answer canvas.photograph")
    assert page.execute_script("return [arguments[0].width, arguments[0].height]", shown) == [360, 200]
    pixels = page.execute_script("return [...arguments[0].getContext('2d').getImageData(0, 0, 360, 200).data]", shown)
    changed = np.abs(np.reshape(pixels, (200, 360, 4))[..., :3].astype(int) - COUPLE).max(-1) > 100
    assert 500 < changed.sum() < 36_000  # boxes and labels

    # No request went elsewhere, and the content security policy forbade nothing that the page does.
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requests = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith(f"{address}v1/predict") for url in requests)
    assert [url for url in requests if not url.startswith((address, "data:", "blob:", "chrome:"))] == []
    assert severe_logs(page) == []


def test_no_face_and_broken_file_are_explained(page: Any, tmp_path: pathlib.Path) -> None:
    choose(page, tmp_path / "grey.png", encode(np.full((64, 80, 3), 128, "uint8")))
    find(page, "#answer .trouble", "No face was found.")
    choose(page, tmp_path / "broken.jpg", b"\xff\xd8\xff no image")
    find(page, "#answer .trouble", "The file is not an image")
    choose(page, tmp_path / "couple.tiff", encode(COUPLE, "TIFF"))
    assert count_rows(page) == 2
    assert "Your browser cannot show images of this format." in find(page, "#answer").text


def test_large_or_empty_file_is_refused_before_it_is_sent(page: Any, tmp_path: pathlib.Path) -> None:
    choose(page, tmp_path / "empty.jpg", b"")
    find(page, "#picker .trouble", "This file is empty.")
    choose(page, tmp_path / "large.jpg", bytes(20_000_001))
    find(page, "#picker .trouble", "This file is too large: 20.0 MB. The limit is 20 MB.")
    assert find(page, "#answer").text == ""


def test_example_is_answered_again_as_aligned_face(page: Any) -> None:
    find(page, ".example").click()
    assert count_rows(page) == 2
    find(page, ".aligned input").click()
    find(page, "#answer caption", "One face.")


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_dropped_and_pasted_images_are_answered(page: Any, event: str) -> None:
    page.execute_script(
        """
        const [event, values] = arguments, data = new DataTransfer();
        data.items.add(new File([new Uint8Array(values)], "couple.png", { type: "image/png" }));
        document.dispatchEvent(event === "drop"
          ? new DragEvent("drop", { dataTransfer: data, cancelable: true })
          : new ClipboardEvent("paste", { clipboardData: data }));
        """,
        event,
        list(encode(COUPLE)),
    )
    assert count_rows(page) == 2


def open_camera(page: Any) -> None:
    find(page, ".aligned input").click()  # what the camera shows is no face
    find(page, ".camera").click()
    WebDriverWait(page, SECONDS).until(
        lambda page: page.execute_script("return document.querySelector('video').videoWidth") > 0
    )


def test_camera_image_is_answered(page: Any) -> None:
    open_camera(page)
    find(page, ".shoot").click()
    assert count_rows(page) == 1
    assert page.execute_script("return document.querySelector('video').srcObject") is None


def test_live_camera_draws_over_the_video(page: Any) -> None:
    open_camera(page)
    find(page, ".watch").click()
    find(page, ".rate", "frames a second")
    drawn = "const c = document.querySelector('.view canvas'); return c.width * c.height && " + (
        "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((value) => value)"
    )
    assert page.execute_script(drawn)
    find(page, ".watch").click()
    assert not page.execute_script(drawn)
    find(page, ".stop").click()
    assert page.execute_script("return document.querySelector('video').srcObject") is None


@pytest.mark.parametrize("width", [1280, 420, 320])
def test_page_fits_the_screen(page: Any, width: int, tmp_path: pathlib.Path) -> None:
    resize(page, width)
    wide = np.pad(np.concatenate([COUPLE] * 4, axis=1), ((0, 0), (100, 100), (0, 0)))
    choose(page, tmp_path / "wide.png", encode(wide))
    assert count_rows(page) == 8
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    edges = "return [...document.querySelectorAll('body *')].map((e) => e.getBoundingClientRect().right)"
    assert max(page.execute_script(edges)) <= width
    resize(page, 1280)


def test_page_without_javascript_says_what_it_needs(open_browser: Callable[..., Any], address: str) -> None:
    browser = open_browser("--blink-settings=scriptEnabled=false")
    browser.get(address)
    assert "This page needs JavaScript" in browser.find_element(CSS, "body").text
    assert not browser.find_element(CSS, "#picker").is_displayed()
