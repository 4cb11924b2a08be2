"""Mutation testing of a package with mutmut: which small faults do its tests not notice?

    make mutants PACKAGE=evaluation            a sample of 300 mutants
    make mutants PACKAGE=evaluation SAMPLE=0   all of them

Lists each mutant that survives with its change, and the share that was killed. Results:
docs/measurements/mutants.md.
"""

import argparse
import pathlib
import random
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
MUTMUT = pathlib.Path(sys.executable).with_name("mutmut")
COPIED = ("agegender", "tests", "conftest.py", "setup.cfg")

# TensorFlow hangs in a forked process, so the tests that import it are left out, and the modules that need them.
LEFT_OUT = {
    "evaluation": (["evaluate.py"], ["tests/evaluation/evaluate_test.py"], "not from_files"),
}


def write_config(folder: pathlib.Path, package: str) -> None:
    """Writes the configuration of mutmut beside a copy of the project."""
    modules, tests, expression = LEFT_OUT.get(package, ([], [], ""))
    arguments = ["-o", "addopts=", "-p", "no:cacheprovider", *(f"--ignore={test}" for test in tests)]
    lines = [
        "[tool.mutmut]",
        'source_paths = ["agegender"]',
        f"only_mutate = {[f'agegender/{package}/*', f'agegender/{package}.py']}",
        f"do_not_mutate = {[f'agegender/{package}/{module}' for module in modules]}",
        'also_copy = ["conftest.py"]',
        f"pytest_add_cli_args = {[*arguments, *(['-k', expression] if expression else [])]}",
        f"pytest_add_cli_args_test_selection = {[f'tests/{package}']}",
    ]
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n")


def run_mutmut(folder: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run([MUTMUT, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def list_mutants(folder: pathlib.Path) -> dict[str, str]:
    """The status of each mutant: "killed", "survived", "timeout", "no tests" or "not checked"."""
    return dict(re.findall(r"^\s*(\S+): (.+)$", run_mutmut(folder, "results", "--all", "true"), re.MULTILINE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="such as evaluation, or a module such as schema")
    parser.add_argument("--sample", type=int, default=300, help="number of mutants to try, 0 for all (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    arguments = parser.parse_args()
    folder = ROOT / "build" / f"mutants-{arguments.package}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    write_config(folder, arguments.package)
    said = run_mutmut(folder, "run", "no_such_mutant")  # writes the mutants and tries none
    names = sorted(list_mutants(folder))
    if not names:
        sys.exit(f"No mutants of {arguments.package!r}:\n{said[-2000:]}")
    if arguments.sample:
        names = random.Random(arguments.seed).sample(names, min(arguments.sample, len(names)))
    said = run_mutmut(folder, "run", "--max-children", str(arguments.workers), *names)
    status = {name: state for name, state in list_mutants(folder).items() if name in set(names)}
    survivors = sorted(name for name, state in status.items() if state in ("survived", "no tests"))
    for name in survivors:
        print(run_mutmut(folder, "show", name))
    if "not checked" in status.values():
        sys.exit(f"The tests fail without a mutant, or mutmut was interrupted:\n{said[-2000:]}")
    killed = len(names) - len(survivors)
    print(f"{arguments.package}: {killed} of {len(names)} mutants killed, {killed / len(names):.0%}")


if __name__ == "__main__":
    main()
