"""What an inspector asks of a model: charts of what was found, by size."""

import numpy as np
import pytest
from scipy.special import expit

from flexunet.core.results.metrics import Detection
from flexunet.reporting.inspection import detection_charts


@pytest.mark.parametrize(("intercept", "slope"), [(-2.0, 1.1), (-1200.0, 500.0)])
def test_a_curve_is_drawn_however_steep_it_is(intercept: float, slope: float):
    """Small defects missed, large ones found, and little overlap: the exponent passes what a float holds."""
    sizes = [{"size": 2.0, "present": 9.0, "found": 0.0}, {"size": 50.0, "present": 9.0, "found": 9.0}]
    row = Detection(
        name="pits",
        sizes=sizes,
        observations=18.0,
        intercept=intercept,
        slope=slope,
        a90=11.0,
        a90_95=12.0,
        band=[],
    )
    (chart,) = detection_charts([row])
    fitted = next(series for series, _ in chart.paths if series.name == "fitted curve")
    at, shares = np.array(fitted.points, float).T
    np.testing.assert_allclose(shares, expit(intercept + slope * np.log(at)))
