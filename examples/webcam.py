"""Ages and genders on the frames of a camera or a video file, drawn as they come.

    pip install . opencv-python          in a clone
    python examples/webcam.py            the first camera
    python examples/webcam.py film.mp4   a video file

Press q to stop.
"""

import sys
from typing import Any

import agegender as ag


def main(source: str = "0") -> None:
    """Shows each frame with its predictions."""
    import cv2  # OpenCV; the library itself does not need it

    video = cv2.VideoCapture(int(source) if source.isdigit() else source)
    predictor = ag.Predictor(bgr=True)  # OpenCV's channels are blue, green, red
    while True:
        read, frame = video.read()
        if not read or cv2.waitKey(1) == ord("q"):
            break
        drawn = predictor.draw(frame)  # answers this frame before the next one is read
        cv2.imshow("agegender", to_frame(drawn))
    video.release()
    cv2.destroyAllWindows()


def to_frame(image: Any) -> Any:
    """A Pillow image as a frame of OpenCV."""
    import numpy as np

    return np.asarray(image)[..., ::-1].copy()


if __name__ == "__main__":
    main(*sys.argv[1:])
