"""The page and its server, made with Gradio, which is imported when it is used."""

import errno
import os
import pathlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from agegender.demo.guard import MAX_BYTES, Guard, check_inputs, forbid_files
from agegender.demo.wording import answer, data_url, decode
from agegender.inference.predictor import Predictor
from agegender.synthetic.faces import draw_people

if TYPE_CHECKING:
    import gradio

WAITING: Final = 64  # requests that wait for their turn; whoever comes then is told that the queue is full
_HERE: Final = pathlib.Path(__file__).parent
_TITLE: Final = "Age and gender from faces"
_HEAD: Final = f"# {_TITLE}\nEvery face that is found, and a guess of its age and of the gender that would be recorded."
_NOT_FOR: Final = """### What this is not for
It guesses from looks, and it is often wrong: worse for children and old people than for young adults, and not equally
wrong for all groups. "Gender" is one of two words that somebody wrote down about a photograph; it is not how a person
identifies. **Do not use this to decide about people: not for checking ages at a door, not for hiring, policing, selling
or sorting.**

**Licence:** a model trained on UTKFace or from VGGFace weights is for non-commercial research only.

**Your image** goes to the computer that serves this page and to no other. It stays in memory until it is answered,
and is written nowhere.
"""
# Drawn by the project: age, gender, race and seed of each person.
_EXAMPLES: Final = {
    "two drawn people": ((23, 1, 4, 39), (47, 0, 3, 36)),
    "an old drawn man": ((72, 0, 0, 2),),
    "three drawn people": ((39, 0, 1, 22), (27, 1, 0, 1), (9, 1, 2, 6)),
}


def build_demo(predictor: Predictor) -> "gradio.Blocks":
    """Makes the page.

    It answers programs too, under the name `/predict`: they give a image's bytes as base64, and whether it is one
    aligned face; they get what `Photograph.to_dict` gives, or an error that says what is wrong.

    Args:
        predictor: who guesses. It is asked by one thread at a time.

    Returns:
        A page for `start`. Gradio's own `launch` would serve it too, but would let visitors store files.

    Raises:
        ImportError: if Gradio is not installed.

    Example: `start(build_demo(Predictor("runs/1")))`
    """
    gr = _import_gradio()
    with gr.Blocks(title=_TITLE, analytics_enabled=False) as page:
        gr.Markdown(_HEAD)
        picker = gr.HTML(
            html_template=_read("picker.html"),
            js_on_load=_read("picker.js"),
            elem_id="picker",
            examples=[
                {"name": name, "url": data_url(Image.fromarray(draw_people(people)))}
                for name, people in _EXAMPLES.items()
            ],
            max_megabytes=MAX_BYTES // 1_000_000,
        )
        aligned = gr.Checkbox(label="This is one face already, cut as UTKFace cuts them")
        shown = gr.HTML(elem_id="answer", js_on_load=None)
        gr.Markdown(_NOT_FOR)
        one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
        picker.upload(
            # The second answer empties what the page would otherwise hold of the image, here and in the browser.
            lambda image, aligned: (answer(predictor, image, aligned=aligned), None),
            inputs=[picker, aligned],
            outputs=[shown, picker],
            show_progress_on=shown,
            api_visibility="private",
            **one_at_a_time,
        )
        aligned.input(None, js="() => { document.dispatchEvent(new Event('agegender:again')); }")  # picker.js hears it
        gr.api(_endpoint(predictor), api_name="predict", **one_at_a_time)
    forbid_files(page)
    check_inputs(page)
    return page


def start(page: "gradio.Blocks", *, host: str = "127.0.0.1", port: int | None = 7860) -> str:
    """Serves a page of `build_demo` in a thread of its own, until its `close`.

    Args:
        page: what to serve.
        host: the address to listen on; 0.0.0.0 lets other machines in.
        port: where, 1 to 65,535; None is the first free one from 7860 on.

    Returns:
        The page's address.

    Raises:
        ValueError: if the port is out of range.
        OSError: if the port is taken, or the host is none of this machine's.
    """
    _check_place(host, port)
    gr = _import_gradio()
    from starlette.middleware import Middleware

    page.queue(max_size=WAITING)
    # Without `Google` in it, a theme's fonts are those of the visitor's system.
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    guard = Middleware(Guard, forget=lambda: page.state_holder.session_data.clear())
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=theme,
        css=_read("style.css"),
        footer_links=["api"],
        app_kwargs={"middleware": [guard]},
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        # Each of these would store something, or call somebody, and some can be switched on from outside.
        share=False,
        inbrowser=False,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    return address


def launch(model: str | os.PathLike | None = None, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until it is interrupted; what `agegender demo` does.

    Args:
        model: a `.keras` file or the folder of a run; None is the released model.
        host: the address to listen on; 0.0.0.0 lets other machines in.
        port: where, 1 to 65,535.

    Raises:
        ImportError: if Gradio is not installed.
        FileNotFoundError: if there is no model.
        ValueError: if the port is out of range.
        OSError: if the port is taken, or the host is none of this machine's.
    """
    _check_place(host, port)  # before the model is loaded
    page = build_demo(predictor := Predictor(model))
    predictor(draw_people(_EXAMPLES["two drawn people"]))  # loads the detector now and not for the first visitor
    print(f"The page is at {start(page, host=host, port=port)} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def _endpoint(predictor: Predictor) -> Callable[..., dict[str, Any]]:
    def predict(image: str, aligned: bool = False) -> dict[str, Any]:
        """Ages and genders of the faces of one photograph: its bytes as base64, alone or as a data URL."""
        try:
            return predictor(decode(image), aligned=aligned).to_dict()
        except ValueError as error:  # a ImageError, or about `aligned`
            raise _import_gradio().Error(str(error), print_exception=False) from None

    return predict


def _check_place(host: str, port: int | None) -> None:
    """Gradio says of all that may be wrong with a place that no port was free."""
    if port is not None and not 1 <= port <= 65_535:
        raise ValueError(f"`port` must be in 1..65535. Received: port={port}")
    try:
        address = socket.getaddrinfo(host.strip("[]"), port or 0, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[4][:2], family=address[0]).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"Port {port} is in use; another: --port={min((port or 0) + 1, 65_534)}") from None
        raise OSError(
            f"`host` and `port` must be free on this machine: {error.strerror}. Received: {host=}, {port=}"
        ) from None


def _read(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


def _import_gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The page needs Gradio: pip install 'agegender[demo]'") from error
    return gradio
