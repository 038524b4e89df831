import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.core.truncnorm import MU_BOUNDS, SIGMA_BOUNDS, cdf, fit, log_cdf, log_likelihood, samples_needed

mus = st.floats(*MU_BOUNDS)
sigmas = st.floats(0.01, 2.0)
scores = st.floats(0, 1)


def log_area(end: float, mu: float, sigma: float) -> float:
    """ln of the unnormalised density's integral from 0 to `end`, by the trapezium rule."""
    x = np.linspace(0.0, end, 40_001)
    exponent = -0.5 * ((x - mu) / sigma) ** 2
    top = exponent.max()
    return float(top + np.log(np.trapezoid(np.exp(exponent - top), x)))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.99), mus, st.floats(0.03, 2.0))
@example(0.95, 2.0, 0.03)
@example(0.05, -1.0, 0.03)
@example(0.95, -1.0, 0.05)
def test_the_distribution_function_is_the_integral_of_the_density_also_in_the_tails(
    score: float, mu: float, sigma: float
) -> None:
    expected = log_area(score, mu, sigma) - log_area(1.0, mu, sigma)
    assert log_cdf(score, mu, sigma) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert cdf(score, mu, sigma) == pytest.approx(math.exp(expected), rel=1e-3, abs=1e-4)


def test_a_tail_far_below_the_precision_of_floats_near_one_is_kept() -> None:
    # mu = -1 and sigma = 0.03 put 0 and 0.05 at 33.3 and 35 sigma, where P(X > x) is phi(x) / x within 1 in 1,000
    tail = math.exp((33.3333333**2 - 35**2) / 2) * 33.3333333 / 35
    assert log_cdf(0.05, -1.0, 0.03) == pytest.approx(-tail, rel=2e-3)


@settings(deadline=None)
@given(mus, sigmas, scores, scores)
def test_the_distribution_function_rises_from_zero_to_one(mu: float, sigma: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert -math.inf == log_cdf(0.0, mu, sigma) <= log_cdf(low, mu, sigma)
    assert log_cdf(low, mu, sigma) <= log_cdf(high, mu, sigma) + 1e-12
    assert log_cdf(high, mu, sigma) <= log_cdf(1.0, mu, sigma) == 0.0


@settings(deadline=None)
@given(st.lists(scores, min_size=1, max_size=8), st.floats(0, 1), st.floats(0.1, 2.0))
def test_the_likelihood_is_the_sum_of_log_densities(found: list[float], mu: float, sigma: float) -> None:
    law = NormalDist(mu, sigma)
    expected = sum(math.log(law.pdf(score) / (law.cdf(1) - law.cdf(0))) for score in found)
    assert log_likelihood(found, mu, sigma) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(scores, min_size=2, max_size=12).filter(lambda found: np.std(found) > 0.01), mus, st.floats(0.02, 2.0))
def test_no_other_parameters_within_the_bounds_make_the_scores_clearly_likelier(
    found: list[float], mu: float, sigma: float
) -> None:
    """A tenth of a log unit is left open: the search stops on ridges that are flat, where N* differs by one."""
    fitted = fit(found)
    best = log_likelihood(found, *fitted)
    assert MU_BOUNDS[0] <= fitted[0] <= MU_BOUNDS[1]
    assert SIGMA_BOUNDS[0] <= fitted[1] <= SIGMA_BOUNDS[1]
    assert log_likelihood(found, mu, sigma) <= best + 0.1
    assert log_likelihood(found, float(np.mean(found)), float(np.std(found))) <= best + 1e-9


@pytest.mark.parametrize(("mu", "sigma"), [(0.7, 0.1), (0.95, 0.1), (0.4, 0.25)])
def test_the_fit_finds_the_law_that_the_scores_follow(mu: float, sigma: float) -> None:
    law = NormalDist(mu, sigma)
    low, high = law.cdf(0), law.cdf(1)
    found = [law.inv_cdf(low + (high - low) * (i + 0.5) / 4000) for i in range(4000)]
    assert fit(found) == pytest.approx((mu, sigma), abs=5e-3)


def test_scores_piled_at_an_end_keep_mu_within_its_bounds() -> None:
    mu, sigma = fit([1.0, 1.0, 1.0, 0.99])
    assert mu == MU_BOUNDS[1]
    assert samples_needed(mu, sigma, 0.95, 0.9) == 1
    mu, sigma = fit([0.0, 0.0, 0.0, 0.01])
    assert mu == MU_BOUNDS[0]
    assert (samples_needed(mu, sigma, 0.95, 0.9) or math.inf) > 1e6


@pytest.mark.parametrize("found", [[0.5], [0.0, 0.0], [1.0, 1.0, 1.0], [0.3, 0.3001]])
def test_scores_that_do_not_differ_are_fitted_by_their_mean_and_the_floor(found: list[float]) -> None:
    assert fit(found) == pytest.approx((np.mean(found), SIGMA_BOUNDS[0]))


def test_no_scores_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="no scores"):
        fit([])


def test_the_number_needed_is_the_closed_form() -> None:
    # an almost flat law: F(0.95) = 0.95, and ln 0.1 / ln 0.95 = 44.9
    assert samples_needed(0.5, 1e3, 0.95, 0.9) == 45
    # mu at the middle, s_min at mu: F = 1/2, and ln 0.1 / ln 0.5 = 3.3
    assert samples_needed(0.5, 0.1, 0.5, 0.9) == 4


@settings(deadline=None)
@given(mus, sigmas, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_the_number_needed_is_the_least_that_reaches_the_confidence(
    mu: float, sigma: float, s_min: float, confidence: float
) -> None:
    needed = samples_needed(mu, sigma, s_min, confidence)
    below = log_cdf(s_min, mu, sigma)
    if needed is None:
        assert below > -1e-300
    elif needed < 10**12:
        assert needed >= 1
        assert -math.expm1(needed * below) >= confidence - 1e-9
        assert needed == 1 or -math.expm1((needed - 1) * below) <= confidence + 1e-9


def test_a_score_out_of_reach_needs_no_finite_number_and_one_surely_reached_needs_one() -> None:
    assert samples_needed(0.5, 0.001, 0.95, 0.9) is None
    assert samples_needed(0.5, 0.2, 1.0, 0.9) is None
    assert samples_needed(0.99, 0.001, 0.5, 0.9) == 1
    assert samples_needed(0.5, 0.2, 0.0, 0.9) == 1
