"""The `agegender` command: predict, evaluate, export, serve, demo, info.

Each command imports what it needs, so that `agegender --help` answers at once.
"""

import argparse
import itertools
import os
import pathlib
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from agegender import __version__
from agegender.environment import load_backend
from agegender.released import INT8_MODEL, ONNX_MODEL, find_released
from agegender.schema import AGE

if TYPE_CHECKING:
    from agegender import ImageError, Photograph, Predictor

UNREADABLE: Final = 1  # exit code: some images could not be used
WRONG: Final = 2  # exit code: a wrong option, another error, or no image could be used
INTERRUPTED: Final = 130  # by Ctrl-C, as of any command
EXPORTS: Final = {  # formats and the default name of a file
    "saved_model": "saved_model",
    "onnx": ONNX_MODEL,
    "onnx_int8": INT8_MODEL,
    "litert_float16": "model-float16.tflite",
    "litert_int8": "model-int8.tflite",
}
_LONGEST: Final = 200  # bytes: most file systems take names of 255
_NONE: Final = "none: "
_NAMED: Final = 10  # files that are not images, in the line that names them
_SERVER_PACKAGES: Final = ("starlette", "uvicorn", "prometheus_client", "python_multipart", "multipart")
_NOT_FOR: Final = (
    "It guesses from appearance and is often wrong. Not for deciding about people. Models trained on UTKFace or from "
    "VGGFace weights are for non-commercial research only."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: as in a shell, without the command's name; by default those of this process.

    Returns:
        The exit code: 0 if all went well, 1 if some images could not be used, 2 if nothing could be done.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (closed by `>&-`)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    args = _parser().parse_args(arguments)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # the answer says what is wrong with an image
    try:
        if _needs_keras(args):
            load_backend()
        return args.run(args)
    except BrokenPipeError:  # as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f"agegender {args.command}: {_format_error(error, args.command)}", file=sys.stderr)
        return WRONG
    except Exception as error:
        if not type(error).__module__.startswith("tensorflow"):
            raise
        # Such as a damaged shard, or a device without memory.
        print(f"agegender {args.command}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        return WRONG


def _needs_keras(args: argparse.Namespace) -> bool:
    if args.command == "info":  # works without, and says so
        return False
    from agegender.inference.face_model import find_model_file

    file = find_model_file(args.model, getattr(args, "dtype", None))
    return args.command == "export" or (args.command == "evaluate" and not args.labels) or file.suffix == ".keras"


def predict(args: argparse.Namespace) -> int:
    """Predicts each image and writes the answers in order."""
    from agegender.inference.images import ImageError
    from agegender.inference.output import WRITERS, printable

    if args.draw and args.draw.exists() and not args.draw.is_dir():
        raise ValueError(f"--draw must be a folder, there already or not. Received: {args.draw}, a file")
    images = list(_images(args.images, args.draw))
    predictor = _predictor(args)
    if AGE in predictor.heads and (predictor.calibration is None or predictor.calibration.ages is None):
        _print_message("The model is not calibrated: no age intervals. `python -m experiments.calibrate` fits them.")
    if args.draw:
        args.draw.mkdir(parents=True, exist_ok=True)
    unreadable = [image.source for image in images if _is_no_image(image)]
    if unreadable:
        names = ", ".join(map(printable, unreadable[:_NAMED]))
        others = f" and {len(unreadable) - _NAMED} others" if len(unreadable) > _NAMED else ""
        _print_message(f"Not read, because they are not images: {names}{others}")
    answered, failed, drawn = 0, 0, 0
    is_writing, is_interrupted = False, False

    def interrupt(*_: object) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        if not is_writing:  # otherwise the answer is written whole and counted
            raise KeyboardInterrupt

    def answers() -> Iterator["Photograph | ImageError"]:
        nonlocal answered, failed, drawn, is_writing
        streamed = predictor.stream(images, aligned=args.aligned)
        for image, answer in zip(images, _progress(streamed, len(images)), strict=True):
            if isinstance(image, bytes):
                answer.source = "standard input"
            if _is_no_image(image):
                pass
            elif isinstance(answer, ImageError):
                failed += 1
                _print_message(f"agegender predict: {printable(answer.source)}: {answer.reason}")
            elif args.draw:
                predictor.draw(image, answer).save(_make_path(args.draw, answer.source))
                drawn += 1
            is_writing = True
            yield answer
            answered, is_writing = answered + 1, False
            if is_interrupted:
                raise KeyboardInterrupt

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name of a file need not be text
    is_ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        WRITERS[args.form](answers(), sys.stdout)
    except KeyboardInterrupt:
        _print_message(f"Interrupted after {answered} of {len(images)}.")
        return INTERRUPTED
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if args.draw:
        _print_message(f"{drawn} drawn, in {args.draw}")
    if failed:
        _print_message(f"{failed} of {len(images) - len(unreadable)} could not be used.")
    if not failed and not unreadable:
        return 0
    return WRONG if failed + len(unreadable) == len(images) else UNREADABLE


def evaluate(args: argparse.Namespace) -> int:
    """Evaluates a model on a split of a prepared data set, or on photographs with a table of labels."""
    if args.labels:
        from agegender.evaluation.photographs import evaluate_photographs

        predictor = _predictor(args)
        print(evaluate_photographs(args.labels, folder=args.images, predictor=predictor, out=args.out))
        return 0
    from agegender.evaluation.evaluate import evaluate_run

    report = evaluate_run(
        args.model,
        args.split,
        data_dir=args.data_dir,
        out=args.out,
        flip=args.flip,
        batch_size=args.batch_size,
        verbose=sys.stderr.isatty(),
    )
    print(report)
    if args.out:
        print(f"\nReport: {args.out / 'report.html'}")
    return 0


def export(args: argparse.Namespace) -> int:
    """Writes the model in another format."""
    from agegender.export.export import export_model
    from agegender.inference.face_model import find_model_file
    from agegender.inference.images import each_image, read_image

    images = [read_image(each) for each in each_image(args.images)] if args.images is not None else None
    out = args.out or (find_model_file(args.model).parent if args.model else pathlib.Path()) / EXPORTS[args.format]
    print(export_model(args.model, out, format=args.format, flip=args.flip, images=images))
    return 0


def serve(args: argparse.Namespace) -> int:
    """Runs the server until it is stopped."""
    from agegender.server import serve

    serve(
        args.model,
        host=args.host,
        port=args.port,
        workers=args.workers,
        allowed_hosts=[name for names in args.allowed_hosts for name in names.split(",") if name],
        root_path=args.root_path,
        open_page=args.command == "demo",
    )
    return 0


def info(args: argparse.Namespace) -> int:
    """Prints versions, devices, the model, the data and the run."""
    print(f"agegender {__version__}, {_describe_frameworks()}")
    record = _read_record(args.model)
    data_dir = args.data_dir or record.get("data_dir")
    model, data = _first_line(lambda: _describe_model(args)), _first_line(lambda: _describe_data(data_dir))
    print(f"model     {model}")
    print(f"data      {data}")
    if record:
        from agegender.training.run_record import describe_run

        print(f"\nthe run\n{describe_run(args.model)}")
        return 0
    named = (args.model, model), (args.data_dir, data)
    return WRONG if any(name and found.startswith(_NONE) for name, found in named) else 0


def _describe_frameworks() -> str:
    import onnxruntime

    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    try:
        load_backend()
    except ModuleNotFoundError:
        return f"{runtime}; no Keras, which training needs: pip install 'agegender[train]'"
    except ImportError as error:
        return f"{runtime}; no Keras: {error}"
    import keras

    from agegender.models.dtypes import fastest_dtype, list_devices

    devices = ", ".join(list_devices())
    return f"{runtime}, Keras {keras.__version__} on {keras.backend.backend()}, {devices}, {fastest_dtype()}"


def _read_record(model: str | None) -> dict[str, Any]:
    if model is None or not (pathlib.Path(model) / "run.json").exists():
        return {}
    from agegender.training.run_record import read_record

    return read_record(model) or {}


def _describe_model(args: argparse.Namespace) -> str:
    predictor = _predictor(args)
    height, width = predictor.image_size
    intervals = predictor.calibration and f"age intervals of {predictor.calibration.coverage:.0%}"
    return (
        f"{args.model or find_released()}: {', '.join(predictor.heads)} from {height} x {width} pixels, "
        f"{intervals or 'not calibrated'}{', mean over mirror images' if predictor.flip else ''}, {predictor.dtype}"
    )


def _describe_data(data_dir: str | None) -> str:
    from agegender.data.prepared import find_prepared

    found = find_prepared(data_dir).info
    counts = ", ".join(f"{name} {split.num_examples:,}" for name, split in found.splits.items())
    return f"{found.full_name} in {found.data_dir}: {counts}"


def _first_line(describe: Callable[[], str]) -> str:
    try:
        return describe()
    except (OSError, ValueError, ImportError) as error:
        return f"{_NONE}{_format_error(error).splitlines()[0]}"


def _predictor(args: argparse.Namespace) -> "Predictor":
    import agegender as ag

    options = {name: getattr(args, name) for name in ("batch_size", "flip", "min_face", "dtype") if hasattr(args, name)}
    return ag.Predictor(args.model, **options)


def _format_error(error: Exception, command: str = "") -> str:
    """The message of an error, without the number of a system error."""
    if isinstance(error, ModuleNotFoundError) and error.name and "pip install" not in str(error):
        package = error.name.partition(".")[0]
        extra = "server" if package in _SERVER_PACKAGES else "export" if command == "export" else "train"
        return f"needs {package}: pip install 'agegender[{extra}]'"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    return str(error)


def _print_message(message: str) -> None:
    import tqdm

    tqdm.tqdm.write(message, file=sys.stderr)  # above the progress bar


def _images(patterns: Iterable[str], drawn: pathlib.Path | None) -> Iterator[Any]:
    """Yields paths, errors, or the bytes of standard input, without images that --draw wrote into the folder."""
    from agegender.inference.images import MAX_BYTES, ImageError, list_images

    for pattern in patterns:
        if pattern == "-":
            if sys.stdin is None:
                yield ImageError("standard input", "is closed")
            else:
                yield sys.stdin.buffer.read(MAX_BYTES + 1)  # a device may have no end
            continue
        try:
            found = list_images(pattern)
            kept = found if len(found) == 1 else [each for each in found if not _is_drawn(each, drawn)]
            if skipped := len(found) - len(kept):
                _print_message(f"{skipped} skipped in {pattern}: named *-faces.jpg, as --draw names its files")
            yield from kept
        except ImageError as error:
            yield error


def _is_no_image(image: Any) -> bool:
    """Whether this is a file of a folder that is not an image."""
    from agegender.inference.images import ImageError, describe_formats

    return isinstance(image, ImageError) and image.reason == describe_formats()


def _progress(answers: Iterable[Any], count: int) -> Iterable[Any]:
    """Shows a progress bar on a terminal, unless the answers go there too."""
    import tqdm

    quiet = count < 2 or sys.stdout.isatty() or not sys.stderr.isatty()
    return tqdm.tqdm(answers, total=count, unit="image", disable=quiet)


def _is_drawn(path: "pathlib.Path | ImageError", folder: pathlib.Path | None) -> bool:
    if not isinstance(path, pathlib.Path):
        return False
    named = re.search(r"-faces(-\d+)?\.jpg\Z", path.name)
    return bool(folder and named and folder.is_dir() and path.parent.samefile(folder))


def _make_path(folder: pathlib.Path, source: str) -> pathlib.Path:
    """Returns a new path for a drawn photograph, so that no file is overwritten."""
    stem = os.fsdecode(os.fsencode(pathlib.Path(source).stem)[:_LONGEST]) + "-faces"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for path in (folder / f"{name}.jpg" for name in names) if not path.exists())


def _parse_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must name a file or a folder; '.' is the current folder. Received: ''")
    return text


def _parse_path(text: str) -> pathlib.Path:
    return pathlib.Path(_parse_name(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "agegender", description="Guesses age and recorded gender from faces.", epilog=_NOT_FOR, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"agegender {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    args = _command(commands, "predict", predict, "find the faces of photographs, guess age and gender of each")
    args.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="file, folder, glob in quotes, or - for stdin; after -- if its name starts with -",
    )
    _add_model(args, "--model")
    form = args.add_mutually_exclusive_group()
    form.add_argument(
        "--json", dest="form", action="store_const", const="json", help="one JSON array, one image per line"
    )
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="CSV, one row per face")
    args.add_argument(
        "--draw",
        type=_parse_path,
        metavar="FOLDER",
        help="also write the photographs with boxes here, NAME-faces.jpg",
    )
    args.add_argument("--aligned", action="store_true", help="each image is one face, cropped like UTKFace")
    args.add_argument(
        "--min-face",
        type=int,
        default=40,
        metavar="PIXELS",
        help="smallest face to look for; somewhat smaller ones are found too (40)",
    )
    args.add_argument(
        "--dtype",
        choices=("float32", "int8", "auto"),
        help="int8 is twice as fast on chips with VNNI, less exact; auto: the fastest here (as the model was saved)",
    )
    args.set_defaults(form="words")

    args = _command(commands, "evaluate", evaluate, "measure a model on a prepared data set")
    _add_model(args, "model")
    _add_data_dir(args)
    args.add_argument(
        "--split", default="test", help="train, validation or test, or a slice such as test[:20%%] (test)"
    )
    args.add_argument(
        "--labels",
        type=_parse_name,
        metavar="CSV",
        help="measure photographs instead: a table of file, age or age_band, gender",
    )
    args.add_argument(
        "--images", type=_parse_name, metavar="FOLDER", help="where the photographs of --labels are (beside the table)"
    )
    args.add_argument("--out", type=_parse_path, metavar="FOLDER", help="write the report here, one HTML page")

    args = _command(commands, "export", export, "write a model for other programs")
    _add_model(args, "model", batches=False)
    args.add_argument("--out", type=_parse_path, metavar="PATH", help="what to write (beside the model)")
    args.add_argument("--format", choices=EXPORTS, default="saved_model", help="(saved_model)")
    args.add_argument("--images", metavar="FOLDER", help="aligned faces, on which int8 formats measure their ranges")

    for name, words in (
        ("serve", "serve a REST API and a web page"),
        ("demo", "serve the API and page, and open the page"),
    ):
        args = _command(commands, name, serve, f"{words}; needs the extra [server]")
        _add_model(args, "model", batches=False, flips=False)
        args.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
        args.add_argument("--port", type=int, default=7860, help="(7860)")
        args.add_argument("--workers", type=int, default=1, metavar="N", help="processes, each with its own model (1)")
        args.add_argument(
            "--allowed-hosts",
            action="append",
            default=[],
            metavar="NAMES",
            help="names of this server beside localhost and IP addresses, with commas; *.example.org, or * for all",
        )
        args.add_argument("--root-path", default="", metavar="PATH", help="prefix that a proxy does not remove")

    args = _command(commands, "info", info, "devices, dtype, model and data that are found")
    _add_model(args, "model", batches=False, flips=False)
    _add_data_dir(args)
    return parser


def _command(commands: Any, name: str, run: Callable[[Any], int], words: str) -> argparse.ArgumentParser:
    args = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.", epilog=_NOT_FOR)
    args.set_defaults(run=run)
    return args


def _add_data_dir(args: argparse.ArgumentParser) -> None:
    words = "where `tfds build` wrote (~/tensorflow_datasets)"
    args.add_argument("--data-dir", "--data_dir", metavar="FOLDER", help=words)


def _add_model(args: argparse.ArgumentParser, name: str, *, batches: bool = True, flips: bool = True) -> None:
    words = ".onnx file, or with [train] .keras file or folder of a run (the released model)"
    args.add_argument("--model", metavar="MODEL", help=words if name == "--model" else argparse.SUPPRESS)
    if name == "model":  # as an argument, or with --model as for predict
        args.add_argument("model", metavar="MODEL", nargs="?", default=argparse.SUPPRESS, help=words)
    if batches:
        args.add_argument("--batch-size", type=int, default=64, metavar="N", help="faces per batch (64)")
    if flips:
        args.add_argument(
            "--flip",
            action=argparse.BooleanOptionalAction,
            help="average over the face and its mirror image (default: as calibrated)",
        )


if __name__ == "__main__":
    sys.exit(main())
