r"""Looks for what breaks the image reader or the parser of file names: 100,000 cases of each, guided by coverage.

    python -m experiments.fuzz --target=images
    python -m experiments.fuzz --target=names --cases=1000000 --seed=2
    python -m experiments.fuzz --case=FILE --target=images       # tries one file again

Begins with drawn images in every format that is read, or with good names, and changes bytes and structures of them:
chunks, segments, fields, and compressed pixels under a right checksum, for random bytes do not get past the first four.
What leads to code that no case before reached is kept and changed further (atheris, which is libFuzzer;
`pip install atheris`). A case is good if it is answered, or refused with the documented error, in words of one line.
Any other error, a case that takes longer than --seconds, or memory beyond --megabytes ends the search with exit status
77, 70 or 71, and the case is left in --out, as is the slowest one if it took more than a second. At the end one line
says what was run.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from absl import app, flags

from experiments.fuzzing import check_image, check_name, image_seeds, mutate_image, mutate_name, name_seeds

_TARGET = flags.DEFINE_enum("target", "images", ["images", "names"], "What is tried.")
_CASES = flags.DEFINE_integer("cases", 100_000, "How many, the ones to begin with included.", lower_bound=1)
_SECONDS = flags.DEFINE_integer("seconds", 10, "A case that takes longer hangs.", lower_bound=1)
_MEGABYTES = flags.DEFINE_integer("megabytes", 2048, "The memory that all may take.", lower_bound=256)
_SEED = flags.DEFINE_integer("seed", 1, "Of the changes.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/fuzz", "Folder for a case that ended the search.")
_CASE = flags.DEFINE_string("case", None, "A file to try, and no others.")

_LARGEST = 16_384  # bytes of a case
_SLOW = 1.0  # seconds; the slowest case is kept if it took longer
_SEEDS = {"images": image_seeds, "names": name_seeds}
_CHECK = {"images": check_image, "names": check_name}
_MUTATE = {"images": mutate_image, "names": mutate_name}


class Counted:
    """Tries cases and ends the process, with one line, after so many of them."""

    def __init__(self, check: Callable[[bytes], bool], cases: int, finish: Callable[[float, bytes], None]) -> None:
        self.check, self.cases, self.finish = check, cases, finish
        self.count, self.good, self.slowest, self.begun = 0, 0, (0.0, b""), time.monotonic()

    def __call__(self, data: bytes) -> None:
        """Tries one; libFuzzer sees what it raises."""
        before = time.perf_counter()
        self.good += self.check(data)
        if (seconds := time.perf_counter() - before) > self.slowest[0]:
            self.slowest = seconds, data
        self.count += 1
        if self.count == self.cases:
            print(self, flush=True)
            self.finish(*self.slowest)
            os._exit(0)  # libFuzzer itself never returns

    def __str__(self) -> str:
        return (
            f"{self.count:,} cases in {time.monotonic() - self.begun:.0f} s: {self.good:,} answered, "
            f"{self.count - self.good:,} refused in words, no other error; the slowest took {self.slowest[0]:.2f} s"
        )


def search(target: str, out: pathlib.Path) -> None:
    """Tries cases until there were enough or one is bad; does not return."""
    import atheris

    with atheris.instrument_imports(include=["PIL", "agegender.inference.images", "utkface.labels"]):
        check = _CHECK[target]()
    change, seeds = _MUTATE[target], _SEEDS[target]()
    corpus = pathlib.Path(tempfile.mkdtemp())
    for number, seed in enumerate(seeds):
        (corpus / f"{number:03d}").write_bytes(seed)
    out.mkdir(parents=True, exist_ok=True)

    def finish(seconds: float, slowest: bytes) -> None:
        shutil.rmtree(corpus)
        if seconds > _SLOW:
            (out / f"{target}-slowest").write_bytes(slowest)

    counted = Counted(check, _CASES.value, finish)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        if seed % 2:  # else most are changes of changes, and break on their first bytes
            data = seeds[seed // 2 % len(seeds)]
        return change(data, seed, lambda part: atheris.Mutate(part, most))[:most]

    options = [f"-seed={_SEED.value}", f"-timeout={_SECONDS.value}", f"-rss_limit_mb={_MEGABYTES.value}"]
    options += [f"-max_len={_LARGEST}", f"-artifact_prefix={out}/{target}-", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], counted, custom_mutator=mutate)
    atheris.Fuzz()


def main(_: list[Any]) -> None:
    try:
        if _CASE.value:
            good = _CHECK[_TARGET.value]()(pathlib.Path(_CASE.value).read_bytes())
            print(f"{_CASE.value}: {'answered' if good else 'refused in words'}")
        else:
            search(_TARGET.value, pathlib.Path(_OUT.value))
    except ImportError as error:
        sys.exit(f"The search needs atheris: pip install atheris ({error})")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    app.run(main)
