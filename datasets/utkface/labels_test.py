"""Any file name has labels in range, or a printable reason for being skipped."""

import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from .labels import GENDERS, MAX_AGE, RACES, Skipped, parse_name

set_hypothesis_home_dir(tempfile.gettempdir())  # without a database it still makes a folder


def has_labels(name: str) -> bool:
    try:
        labels = parse_name(name)
    except Skipped as reason:
        assert str(reason).isprintable()
        return False
    assert 0 <= labels.age <= MAX_AGE and 0 <= labels.gender < len(GENDERS) and 0 <= labels.race < len(RACES)
    assert labels.timestamp.isascii() and labels.timestamp.isdigit()
    assert parse_name(f"{labels.stem}.jpg") == labels
    return True


@settings(derandomize=True, database=None, max_examples=500, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.text(),
        st.from_regex(r"[0-9]{1,3}_[0-9]_[0-9]_[0-9]{1,20}( ?\.?jpe?g)(\.chip\.jpg)?", fullmatch=True),
        st.from_regex(r"[0-9_]{0,40}\.jpg", fullmatch=True),
        st.text("0159_. \0\n-\u0661jpegchip", max_size=60),
    )
)
def test_any_name_has_labels_or_a_reason(name: str) -> None:
    has_labels(name)


@pytest.mark.parametrize(
    "name",
    ["9" * 100_000 + "_0_0_1.jpg", "1_0_0_" + "1" * 100_000 + ".jpg", "1_0_0_1" + ".jpg" * 20_000, " " * 100_000],
)
def test_very_long_names(name: str) -> None:
    assert has_labels(name) == name.startswith("1_0_0_1" + "1" * 99)
