"""Data-parallel training in several processes, on one machine or many, with the JAX backend.

Each process has all weights and reads its own shard of each batch; Keras's `DataParallel` makes one step of it. Process
0, the chief, reads and writes the files of the run and broadcasts what it reads. Keras is imported inside the
functions, because scripts set environment variables first.
"""

import sys
from collections.abc import Callable
from typing import Final

import numpy as np

_CHUNK: Final = 1 << 26  # bytes per broadcast


def join_processes(coordinator: str, num_processes: int, process_id: int, *, timeout: int = 300) -> None:
    """Makes this process one of several that train together; call it in each, before anything is computed.

    Args:
        coordinator: address and free port of process 0, "10.0.0.1:9876", the same in all processes.
        num_processes: number of processes, 2 or more.
        process_id: index of this process, from 0.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: if a number is out of range, the address has no port, or the backend is not JAX.
        ImportError: if JAX is not installed.
        ConnectionError: if the others do not join in time, or process 0 cannot listen at the address.
    """
    import keras

    if keras.backend.backend() != "jax":
        raise ValueError(
            "Training in several processes needs the JAX backend: set KERAS_BACKEND=jax. "
            f"Received: the backend {keras.backend.backend()!r}"
        )
    host, _, port = coordinator.rpartition(":")
    is_address = host and port.isdigit() and int(port) < 1 << 16
    if not is_address or num_processes < 2 or not 0 <= process_id < num_processes:
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
    use_data_parallel()


def use_data_parallel() -> None:
    """Splits each batch between all devices of all processes from now on; on the JAX backend."""
    import keras

    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


def leave_processes() -> None:
    """Ends data-parallel training, once all processes call it; each process is independent afterwards."""
    import keras

    several = process_count() > 1
    keras.distribution.set_distribution(None)
    if several:
        import jax

        jax.distributed.shutdown()


def process_count() -> int:
    """Number of processes that train together; 1 for a process alone."""
    return current_shard()[1]


def is_chief() -> bool:
    """Whether this is process 0, which writes the files."""
    return current_shard()[0] == 0


def current_shard() -> tuple[int, int]:
    """Index of this process and number of processes, as `load_utkface` takes them; (0, 1) for a process alone."""
    import keras

    if keras.backend.backend() != "jax" or keras.distribution.distribution() is None:
        return 0, 1  # without JAX's own functions: once they are called, JAX can no longer be set up for several
    import jax

    return jax.process_index(), jax.process_count()


def device_count() -> int:
    """Number of devices that each batch is split between, by JAX or by the current `tf.distribute` strategy."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # only in this branch: the other backends must not need TensorFlow

        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = keras.distribution.distribution()
    return distribution.device_mesh.devices.size if distribution else 1


def broadcast_from_chief(make: Callable[[], bytes]) -> bytes:
    """Calls `make` in process 0 and returns its result in all processes.

    Raises:
        Exception: whatever `make` raised, in process 0; an OSError with the same message in the others.
    """
    if process_count() == 1:
        return make()
    failure: Exception | None = None
    message = b""
    if is_chief():
        try:
            message = b"+" + make()
        except Exception as error:
            failure, message = error, b"-" + f"{type(error).__name__}: {error}".encode()
    message = _broadcast(message)
    if failure:
        raise failure
    if message[:1] == b"-":
        raise OSError(f"Process 0 failed. {message[1:].decode()}")
    return message[1:]


def _broadcast(message: bytes) -> bytes:
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.array(len(message), np.int32)))
    content = np.frombuffer(message, np.uint8) if message else np.zeros(size, np.uint8)
    chunks = [content[start : start + _CHUNK] for start in range(0, size, _CHUNK)]
    return b"".join(np.asarray(broadcast_one_to_all(chunk)).tobytes() for chunk in chunks)


def all_reduce_max(number: int) -> int:
    """Maximum of the numbers, 0 or more, that the processes pass; all must call it equally often."""
    if process_count() == 1:
        return number
    from jax.experimental.multihost_utils import process_allgather

    return int(np.max(process_allgather(np.array(number, np.int32))))
