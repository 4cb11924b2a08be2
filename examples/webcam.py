"""Ages and genders on the frames of a camera or a video file, drawn as they come.

    pip install . opencv-python                      in a clone
    python examples/webcam.py                        the first camera
    python examples/webcam.py film.mp4               a video file
    python examples/webcam.py film.mp4 drawn.mp4     into a file, without a screen (opencv-python-headless suffices)

Press q to stop.
"""

import collections
import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

import agegender as ag


def main(source: str = "0", out: str | None = None) -> None:
    """Draws the predictions of each frame, and shows or writes it before the next is read."""
    import cv2  # OpenCV; the library itself does not need it

    predictor = ag.Predictor(bgr=True)  # OpenCV's channels are blue, green, red
    is_camera = source.isdigit()
    video = cv2.VideoCapture(int(source) if is_camera else source)
    if not video.isOpened():
        sys.exit(f"OpenCV cannot open {f'camera {source}' if is_camera else source}")
    writer = None
    for frame in read_newest(video) if is_camera else read_all(video):
        drawn = to_frame(predictor.draw(frame))
        if out is None:
            cv2.imshow("agegender", drawn)
            if cv2.waitKey(1) == ord("q"):
                break
            continue
        if writer is None:
            rate, size = video.get(cv2.CAP_PROP_FPS) or 25, drawn.shape[1::-1]
            writer = cv2.VideoWriter(out, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
            if not writer.isOpened():
                sys.exit(f"OpenCV cannot write {out}")
        writer.write(drawn)
    if writer is not None:
        writer.release()


def read_all(video: Any) -> Iterator[np.ndarray]:
    """Yields each frame of a video file."""
    while (frame := video.read()[1]) is not None:
        yield frame


def read_newest(video: Any) -> Iterator[np.ndarray]:
    """Yields the newest frame of a camera and drops those that came while the last was drawn, so that none waits."""
    newest: collections.deque[np.ndarray | None] = collections.deque(maxlen=1)
    arrived = threading.Event()

    def read() -> None:
        for frame in itertools.chain(read_all(video), [None]):  # None: the camera has stopped
            newest.append(frame)
            arrived.set()

    threading.Thread(target=read, daemon=True).start()
    while arrived.wait():
        arrived.clear()
        if (frame := newest[0]) is None:
            break
        yield frame


def to_frame(image: Any) -> np.ndarray:
    """A Pillow image as a frame of OpenCV."""
    return np.asarray(image)[..., ::-1].copy()


if __name__ == "__main__":
    main(*sys.argv[1:])
