"""Several processes, on one machine or many, that train one model together, on the JAX backend.

Each has the same weights and reads its own rows of each batch; Keras's `DataParallel` and XLA make one step of it. What
is written, process 0 writes, and what is read when a run begins or goes on, it reads and tells the others. A decision
that all must share, such as to stop, is made together. Keras is imported where it is
used: scripts set their environment before that.
"""

import sys
from collections.abc import Callable

import numpy as np

_PIECE = 1 << 26  # bytes told at a time
_LOST = ("Gloo", "gloo", "NCCL", "coordination service", "heartbeat", "Barrier", "Connection reset", "Socket closed")


def join(coordinator: str, num_processes: int, process_id: int, *, timeout: int = 300) -> None:
    """Makes this process one of several, before anything is computed; all call it, and wait for each other.

    Args:
        coordinator: address and free port of process 0, "10.0.0.1:9876", the same for all.
        num_processes: how many there are, 2 or more.
        process_id: which of them this one is, from 0.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: for numbers out of range, an address without a port, and another backend than JAX.
        ConnectionError: if the others do not come in time, or the address is not this machine's or taken.
    """
    import keras

    if keras.backend.backend() != "jax":
        raise ValueError(
            "Several processes need the JAX backend: set KERAS_BACKEND=jax. "
            f"Received: the backend {keras.backend.backend()!r}"
        )
    host, _, port = coordinator.rpartition(":")
    reachable = host and port.isdigit() and int(port) < 1 << 16
    if not reachable or num_processes < 2 or not 0 <= process_id < num_processes:
        raise ValueError(
            "`coordinator` must be HOST:PORT of process 0, `num_processes` 2 or more, `process_id` from 0 to one less. "
            f"Received: coordinator={coordinator!r}, num_processes={num_processes}, process_id={process_id}"
        )
    import jax

    print(f"Process {process_id} waits for {num_processes - 1} more at {coordinator}", file=sys.stderr)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout)
    except RuntimeError as error:
        raise ConnectionError(
            f"Process {process_id} of {num_processes} could not join the others at {coordinator} in {timeout} seconds. "
            f"Start all of them, with the address of the machine of process 0 and a port that is free: "
            f"{str(error).splitlines()[0]:.200}"
        ) from error
    spread()


def spread() -> None:
    """Trains on all devices of all processes from here on, each with its part of the batch; on the JAX backend."""
    import keras

    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


def leave() -> None:
    """Ends the common work, when all have come here; each process is alone then, and can go on by itself."""
    import keras

    together = process_count() > 1
    keras.distribution.set_distribution(None)
    if together:
        import jax

        jax.distributed.shutdown()


def process_count() -> int:
    """How many processes train together; 1 for one alone."""
    return share()[1]


def is_chief() -> bool:
    """Whether this is process 0, which writes."""
    return share()[0] == 0


def share() -> tuple[int, int]:
    """Which process this is, of how many, as `load_utkface` takes its share of each batch: (0, 1) for one alone."""
    import keras

    distribution = keras.distribution.distribution()
    if keras.backend.backend() != "jax" or distribution is None:
        return 0, 1  # without asking JAX, which would start, and then could no longer be set up for several
    import jax

    return jax.process_index(), jax.process_count()


def device_count() -> int:
    """How many devices a batch is divided between."""
    import keras

    distribution = keras.distribution.distribution()
    return distribution.device_mesh.devices.size if distribution else 1


def from_chief(make: Callable[[], bytes]) -> bytes:
    """Calls `make` in process 0, and gives all what it gave.

    Raises:
        What `make` raised, in process 0; an OSError with the words of that in the others.
    """
    if process_count() == 1:
        return make()
    failure: Exception | None = None
    told = b""
    if is_chief():
        try:
            told = b"+" + make()
        except Exception as error:
            failure, told = error, b"-" + f"{type(error).__name__}: {error}".encode()
    told = _tell(told)
    if failure:
        raise failure
    if told[:1] == b"-":
        raise OSError(f"Process 0 could not go on. {told[1:].decode()}")
    return told[1:]


def _tell(told: bytes) -> bytes:
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.array(len(told), np.int32)))
    content = np.frombuffer(told, np.uint8) if told else np.zeros(size, np.uint8)
    pieces = [content[start : start + _PIECE] for start in range(0, size, _PIECE)]
    return b"".join(np.asarray(broadcast_one_to_all(piece)).tobytes() for piece in pieces)


def largest(number: int) -> int:
    """The largest of the numbers, 0 or more, that all processes give at this moment; each has to call it as often."""
    if process_count() == 1:
        return number
    from jax.experimental.multihost_utils import process_allgather

    return int(np.max(process_allgather(np.array(number, np.int32))))


def says_lost(error: BaseException) -> bool:
    """Whether an error says that another process was lost."""
    return process_count() > 1 and any(hint in str(error) for hint in _LOST)
