import re
from xml.etree import ElementTree

import pytest

from fastgen.report.chart import Series, bars, calls_axis, chart, cloud, linear_axis, log_axis, merged_ends, y_axis


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.16, 0.213), (-3, 7), (0, 1234), (5, 5), (0, 0), (1e-9, 3e-9)])
def test_linear_axes_cover_their_values_with_round_ticks(low, high):
    axis = linear_axis(low, high)
    assert axis.low <= low and axis.high >= high and 3 <= len(axis.ticks) <= 8
    assert axis.place(axis.low) == 0 and axis.place(axis.high) == 1


@pytest.mark.parametrize(("low", "high"), [(0.004, 0.2), (1, 1000), (1e-12, 1e6)])
def test_log_axes_cover_their_values(low, high):
    axis = log_axis(low, high)
    assert axis.low < low and axis.high > high and 3 <= len(axis.ticks) <= 8
    assert 0 < axis.place(low) < axis.place(high) < 1


def test_only_wide_ranges_of_positive_numbers_are_logarithmic():
    assert y_axis([0.01, 1.0], log=True).log and not y_axis([0.01, 1.0], log=False).log
    assert not y_axis([0.0, 1.0], log=True).log and not y_axis([0.5, 1.0], log=True).log


def test_ticks_of_calls_are_the_numbers_that_occur():
    assert calls_axis([1, 2, 4, 35, 36]).ticks == (1, 2, 4, 35)


def test_a_chart_is_valid_and_puts_higher_values_higher():
    series = [
        Series("a <run>", [(0.0, 1.0), (10.0, 2.0), (20.0, float("nan"))], 0, end="4"),
        Series("teacher", [(0.0, 1.5)], -1, level=True),
    ]
    tree = ElementTree.fromstring(chart(series, "x & y", "updates"))
    circles = [e for e in tree.iter() if e.tag.endswith("circle")]
    assert [c.find("title").text for c in circles] == ["a <run>: 1 at 0", "a <run>: 2 at 10"]
    low, high = (float(c.get("cy")) for c in circles)
    (level,) = [e for e in tree.iter() if "level" in e.get("class", "")]
    assert high < float(level.get("y1")) < low
    assert tree.get("aria-label") == "x & y"


def test_nothing_to_draw_is_nothing():
    assert chart([], "", "") == "" and chart([Series("t", [(0, 1.0)], -1, level=True)], "", "") == ""
    assert chart([Series("a", [(1.0, float("nan"))], 0)], "", "") == "" and bars([], "", str) == ""


def test_bars_are_as_long_as_their_values():
    text = bars([("a", 10.0, 0), ("b", 5.0, 1)], "speed", lambda value: f"{value:g}/s")
    one, other = (float(width) for width in re.findall(r'width="([\d.]+)" height="10"', text))
    assert one == 2 * other and "10/s" in text


def test_points_are_drawn_where_they_are():
    text = cloud([(1.0, 1.0), (-2.0, 0.0)], [3, 4], 2.0, "two points")
    assert "M180.0 60.0h0" in text and "M0.0 120.0h0" in text and "h3" in text and "h4" in text


def test_words_at_the_same_place_are_joined():
    assert merged_ends([(5, 100, "2"), (5, 96, "4"), (5, 50, "1")]) == [(5, 50, "1"), (5, 96, "2,4")]
