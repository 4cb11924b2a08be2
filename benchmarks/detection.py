r"""Finding the faces of photographs one by one, against several of one size together.

    python -m benchmarks.detection
    python -m benchmarks.detection --size=240 --photographs=4

On photographs that the project draws, two faces each; `size` is that of a face, in pixels.
"""

from benchmarks import timing


def measure(data_dir: str | None, *, rounds: int = 6, size: int = 120, photographs: int = 8) -> timing.Result:
    from agegender.inference.detection import FaceDetector
    from agegender.synthetic.faces import draw_people

    detector = FaceDetector()
    people = [[(20 + number, gender, number % 5, number) for gender in (0, 1)] for number in range(photographs)]
    pixels = [draw_people(each, size=size) for each in people]
    contestants = {
        "one by one": lambda: [detector(each) for each in pixels],
        "together": lambda: detector.find(pixels),
    }
    seconds = timing.time_in_turn(contestants, rounds=rounds)
    claim = timing.Ratio("one by one / together", timing.divide(seconds, "one by one", "together"))
    found = sum(map(len, detector.find(pixels)))
    title = f"{photographs} photographs of {pixels[0].shape[1]} x {pixels[0].shape[0]}, {found} faces found"
    return timing.Result(title, timing.make_rows(seconds, count=photographs), [claim])


if __name__ == "__main__":
    timing.main(measure)
