"""Mutation testing of a package: which small faults do its tests not notice?

    make mutants PACKAGE=evaluation            a sample of 100 mutants
    make mutants PACKAGE=evaluation SAMPLE=0   all of them

Lists each mutant that survives with its change, and the share that was killed. Results:
docs/measurements/mutants.md.

mutmut changes one number, word, operator or argument, also in constants and defaults. The changed file is written into
a copy of the project, and pytest runs there: first the doctests of the module and the test file of its name, then the
tests of the whole package.
"""

import argparse
import difflib
import importlib
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import sys
import time
from typing import Final, NamedTuple

ROOT: Final = pathlib.Path(__file__).parents[1]
# pytest runs in forks of this process, which imports these once and uses none: TensorFlow hangs in a fork of a process
# that has computed with it, and takes longer to import than most tests take.
PRELOADED: Final = (
    *("pytest", "scipy.stats", "scipy.sparse", "sklearn.metrics", "matplotlib.figure", "PIL.Image", "onnxruntime"),
    *("tensorflow", "keras", "tensorflow_datasets"),
)


class Mutant(NamedTuple):
    path: pathlib.Path  # relative to the project
    code: str
    change: str
    tests: list[list[str]]  # arguments of pytest; the second only if the first pass


def find_modules(package: str) -> list[pathlib.Path]:
    """The files of a package such as "evaluation" or "datasets/utkface", or of a module such as "schema"."""
    paths = [path for base in ("agegender", ".") for path in (ROOT / base / package, ROOT / base / f"{package}.py")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        sys.exit(f"No package or module {package!r}")
    files = [path] if path.is_file() else sorted(path.glob("*.py"))
    return [file.relative_to(ROOT) for file in files if not file.name.endswith("_test.py")]


def find_tests(module: pathlib.Path) -> list[list[str]]:
    """The tests of a module, doctests included, and those of its package."""
    whole = pathlib.Path("tests", *module.parts[1:-1]) if module.parts[0] == "agegender" else module.parent
    own = whole / f"{module.stem}_test.py"
    first = [str(module), *([str(own)] if (ROOT / own).exists() else [])]
    return [first] if whole.name == "tests" else [first, [str(whole)]]


def make_mutants(modules: list[pathlib.Path], size: int, seed: int) -> tuple[list[Mutant], int]:
    """A random sample of the mutants of some modules, or all if `size` is 0, and how many there are."""
    from mutmut.mutation.file_mutation import create_mutations

    found = []
    for module in modules:
        tree, mutations, *_ = create_mutations(str(module), (ROOT / module).read_text())
        found += [(module, tree, mutation) for mutation in mutations]
    chosen = random.Random(seed).sample(found, min(size, len(found))) if size else found
    mutants = []
    for module, tree, mutation in chosen:
        code = tree.deep_replace(mutation.original_node, mutation.mutated_node).code
        before, name = (ROOT / module).read_text(), str(module)
        change = difflib.unified_diff(before.splitlines(), code.splitlines(), name, name, "", "", 1, "")
        mutants.append(Mutant(module, code, "\n".join(change), find_tests(module)))
    return mutants, len(found)


def run_tests(folder: pathlib.Path, selections: list[list[str]]) -> None:
    """Runs pytest in a copy of the project. Exits with 0 if all tests pass; called in a process of its own."""
    import pytest

    os.setsid()  # one group with all that the tests start
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = sys.path[0] = str(folder)
    options = ["-x", "-p", "no:cacheprovider", f"--basetemp={folder.parent / 'tmp'}"]
    for selection in selections:
        code = pytest.main([*options, *selection])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            os._exit(1)
    os._exit(0)


def try_mutants(mutants: list[Mutant], folders: list[pathlib.Path], limit: float) -> dict[int, str]:
    """Runs the tests of each mutant, one at a time in each folder, and prints each that survives.

    Returns:
        "survived" or "timeout" for the numbers of those that were not killed.
    """
    fork = multiprocessing.get_context("fork")
    waiting, running, found = list(enumerate(mutants)), {}, {}
    while waiting or running:
        for folder in folders:
            if waiting and folder not in running:
                number, mutant = waiting.pop(0)
                path = folder / mutant.path
                before = path.read_text()
                path.write_text(mutant.code)
                process = fork.Process(target=run_tests, args=(folder, mutant.tests))
                process.start()
                running[folder] = number, process, time.monotonic() + limit, path, before
        multiprocessing.connection.wait([process.sentinel for _, process, *_ in running.values()], timeout=1)
        for folder, (number, process, end, path, before) in list(running.items()):
            late = process.is_alive() and time.monotonic() > end
            if late:
                os.killpg(process.pid, signal.SIGKILL)
            elif process.is_alive():
                continue
            process.join()
            path.write_text(before)
            del running[folder]
            if late or process.exitcode == 0:
                found[number] = "timeout" if late else "survived"
                print("" if late else mutants[number].change, flush=True)
            print(f"\r{len(mutants) - len(waiting) - len(running)} of {len(mutants)} ", end="", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="such as evaluation or datasets/utkface, or a module such as schema")
    parser.add_argument("--sample", type=int, default=100, help="number of mutants to try, 0 for all (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--only", default="", help="only the modules whose path contains one of these, as losses,heads")
    parser.add_argument("--quick", action="store_true", help="only the doctests and the test file of each module")
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    modules = [module for module in find_modules(arguments.package) if any(name in str(module) for name in only)]
    mutants, every = make_mutants(modules, arguments.sample, arguments.seed)
    if arguments.quick:
        mutants = [mutant._replace(tests=mutant.tests[:1]) for mutant in mutants]

    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # a mutant may have the size and the time of the file that it replaces
    if arguments.package not in ("synthetic", "datasets/utkface"):
        os.environ["PYTEST_XDIST_WORKER"] = "mutants"  # prepare the data set once for all tests: tests/conftest.py
    for name in PRELOADED:
        importlib.import_module(name)
    build = ROOT / "build" / f"mutants-{arguments.package.replace('/', '-')}"
    shutil.rmtree(build, ignore_errors=True)
    folders = [build / str(number) / "project" for number in range(arguments.workers)]
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "shared", "runs", "*.egg-info")
    for folder in folders:
        shutil.copytree(ROOT, folder, ignore=ignored)

    start = time.monotonic()
    unchanged = (ROOT / modules[0]).read_text()
    part = 0 if arguments.quick else -1
    whole = [*map(str, modules), *{find_tests(module)[part][-1] for module in modules}]
    if not try_mutants([Mutant(modules[0], unchanged, "", [whole])], folders, 3600):
        sys.exit("The tests fail without a mutant")
    found = try_mutants(mutants, folders, 60 + 5 * (time.monotonic() - start))
    late = sum(state == "timeout" for state in found.values())
    killed = len(mutants) - len(found) + late
    share = f"{killed} of {len(mutants)} mutants killed, {killed / len(mutants):.0%}"
    print(f"{arguments.package}: {share}; {late} of them ran out of time. There are {every:,} mutants")


if __name__ == "__main__":
    main()
