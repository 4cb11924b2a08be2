"""Runs the `main` of a script: quiet libraries, and errors as one line instead of a traceback."""

import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping

from absl import app, flags, logging

from agegender.environment import load_backend

_EXPECTED = (OSError, ValueError, ImportError, FloatingPointError, RuntimeError, KeyboardInterrupt)


def run(
    main: Callable[[list[str]], None],
    exit_codes: Mapping[type[BaseException], int] | None = None,
    *,
    takes_arguments: bool = False,
    uses_keras: bool = True,
    exit_now: bool = False,
) -> None:
    """Parses the flags, runs `main` and exits.

    Args:
        main: takes the arguments that are no flags, after the name of the script.
        exit_codes: the exit code for a kind of error, the first that fits; 1 for all others.
        takes_arguments: whether there may be arguments that are no flags.
        uses_keras: whether to import Keras and TensorFlow first, without the lines that they print.
        exit_now: whether to exit without waiting for other threads after an error.
    """
    name = pathlib.Path(sys.argv[0]).stem

    def fail(error: BaseException) -> None:
        print(f"{name}: {describe_error(error)}", file=sys.stderr)
        code = next((code for kind, code in (exit_codes or {}).items() if isinstance(error, kind)), 1)
        if exit_now:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)

    def parse_flags(arguments: list[str]) -> list[str]:
        try:
            return flags.FLAGS(arguments)
        except (
            flags.Error,
            KeyError,
            AttributeError,
            TypeError,
            ValueError,
            OSError,
            ImportError,
            SyntaxError,
        ) as error:  # all but the first: of the config
            fail(error)
            raise

    def run_main(arguments: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # TFDS logs each file that it opens
        try:
            if arguments[1:] and not takes_arguments:
                words = " ".join(arguments[1:])
                raise ValueError(f"Every option begins with --, and has its value after =. Received: {words}")
            if uses_keras:
                load_backend()
            main(arguments)
        except _EXPECTED as error:
            fail(error)
        except Exception as error:
            if not type(error).__module__.startswith("tensorflow"):
                raise
            fail(error)  # such as a damaged shard

    app.run(run_main, flags_parser=parse_flags)


def describe_error(error: BaseException) -> str:
    """One line for an error that a user can do something about."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, KeyError | AttributeError):  # of ml_collections
        return _describe_unknown_option(str(error.args[0]))
    message = " ".join(str(error).split())
    if part := re.match(r"Override ((?:\w+\.)+)\w+ can not be applied", message):  # ml_collections
        option = f"--config.{part[1].rstrip('.')}"
        return f"{option} is one option, not a group. Give its whole value: {option}=VALUE"
    if type(error).__module__.startswith(("tensorflow", "jax")):
        message = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return " ".join([message, *getattr(error, "__notes__", [])])


def _describe_unknown_option(message: str) -> str:
    r"""
    >>> _describe_unknown_option("'epoch'\nDid you mean \"epochs\" instead of \"epoch\"?")
    "The config has no option 'epoch'. Did you mean 'epochs'?"
    """
    names = re.findall(r"\w+", message.replace("\\n", " "))
    closest = re.search(r'mean "(\w+)"', message)
    hint = f" Did you mean {closest.group(1)!r}?" if closest else _describe_group(names[0])
    return f"The config has no option {names[0]!r}.{hint}"


def _describe_group(option: str) -> str:
    """Lists the options of the group that the command line gives an unknown option of."""
    from experiments.config import default_config

    groups = [match[1] for each in sys.argv if (match := re.match(rf"--config\.(\w+)\.{option}\b", each))]
    if not groups:
        return " See experiments/config.py."
    return f" Options of {groups[0]}: {', '.join(sorted(default_config()[groups[0]]))}."
