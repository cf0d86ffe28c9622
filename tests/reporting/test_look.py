"""Numbers as they are written, and the ticks of an axis."""

import pytest

from flexunet.reporting.look import percent, score, seconds, signed, ticks


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (1, "100.0 %"), (0.125, "12.5 %"), (0.0123, "1.2 %"), (0.00123, "0.12 %"), (1e-6, "< 0.001 %")],
)
def test_percent_shows_rare_classes(share: float, words: str) -> None:
    assert percent(share) == words


def test_undefined_scores_are_a_dash_and_differences_have_a_sign() -> None:
    assert (score(None), score(0.81234)) == ("–", "0.8123")
    assert (signed(None), signed(0.01), signed(-0.01)) == ("–", "+0.0100", "−0.0100")


@pytest.mark.parametrize(("value", "words"), [(0.0123, "12 ms"), (8.25, "8.2 s"), (150, "2 min"), (9000, "2.5 h")])
def test_durations_have_the_unit_a_person_would_use(value: float, words: str) -> None:
    assert seconds(value) == words


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1, 30, [10, 20, 30]), (0, 0.007, [0, 0.002, 0.004, 0.006]), (5, 5, [5])],
)
def test_ticks_are_round_and_few(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected
