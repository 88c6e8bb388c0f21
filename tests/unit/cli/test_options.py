"""What commands have in common."""

import pytest

from sglang_operator.cli import options


@pytest.mark.parametrize(("text", "found"), [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200)])
def test_times_are_read(text, found):
    assert options.duration(text) == found


@pytest.mark.parametrize("text", ["", "s", "1d", "-5", "1.5h", "9" * 20])
def test_what_is_no_time_is_told(text):
    with pytest.raises(ValueError, match="expected a time such as 90s"):
        options.duration(text)
