import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.core.prior import Prior
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


priors = st.builds(Prior, st.floats(0.1, 1.2), st.floats(0.02, 0.4), st.floats(0.02, 0.5), st.floats(0.02, 0.5))


def log_posterior(found: list[float], prior: Prior, mu: float, sigma: float) -> float:
    """Equation 12, with the standard library's normal."""
    belief = NormalDist(prior.mu, prior.mu_sd).pdf(mu), NormalDist(prior.sigma, prior.sigma_sd).pdf(sigma)
    return log_likelihood(found, mu, sigma) + sum(math.log(density) if density else -1e9 for density in belief)


@settings(max_examples=60, deadline=None)
@given(st.lists(scores, min_size=2, max_size=12), priors, mus, st.floats(0.01, 2.0))
def test_no_other_parameters_within_the_bounds_are_clearly_more_credible(
    found: list[float], prior: Prior, mu: float, sigma: float
) -> None:
    fitted = fit(found, prior)
    assert MU_BOUNDS[0] <= fitted[0] <= MU_BOUNDS[1]
    assert SIGMA_BOUNDS[0] <= fitted[1] <= SIGMA_BOUNDS[1]
    assert log_posterior(found, prior, mu, sigma) <= log_posterior(found, prior, *fitted) + 0.01


def test_with_a_prior_no_score_at_all_is_enough() -> None:
    assert fit([], Prior(0.7, 0.1)) == (0.7, 0.1)
    assert fit([], Prior(3.0, 5.0)) == (MU_BOUNDS[1], SIGMA_BOUNDS[1])


def test_one_score_moves_a_belief_towards_itself() -> None:
    mu, sigma = fit([0.9], Prior(0.7, 0.1))
    # untruncated, the posterior of mu is half way between: both are as sure, 0.1
    assert mu == pytest.approx(0.8, abs=0.03)
    # one score has no spread
    assert sigma == 0.1


@pytest.mark.parametrize("found", [[0.0] * 5, [1.0] * 5, [0.5] * 5, [0.0, 1.0], [1.0]])
def test_degenerate_scores_with_a_prior_are_fitted_between_belief_and_scores(found: list[float]) -> None:
    mean = float(np.mean(found))
    mu, sigma = fit(found, Prior(0.6, 0.15))
    assert min(0.6, mean) - 0.15 <= mu <= max(0.6, mean) + 0.15
    assert SIGMA_BOUNDS[0] <= sigma < 0.6


def test_many_scores_outweigh_any_belief_and_a_sure_belief_outweighs_few() -> None:
    law = NormalDist(0.8, 0.05)
    many = [law.inv_cdf((i + 0.5) / 2000) for i in range(2000)]
    assert fit(many, Prior(0.4, 0.3)) == pytest.approx(fit(many), abs=5e-3)
    assert fit(many[::400], Prior(0.4, 0.3, 1e-3, 1e-3)) == pytest.approx((0.4, 0.3), abs=5e-3)


def test_a_vague_belief_changes_nothing() -> None:
    found = [0.7, 0.75, 0.8, 0.9]
    assert fit(found, Prior(0.5, 0.5, 1e3, 1e3)) == pytest.approx(fit(found), abs=1e-4)


def test_the_fit_is_as_good_as_a_general_librarys() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(5)
    for _ in range(15):
        found = np.clip(rng.normal(rng.uniform(0.3, 1.1), rng.uniform(0.02, 0.4), int(rng.integers(2, 20))), 0, 1)
        if found.std() < 0.01:
            continue
        shown = found.tolist()
        start = (found.mean(), math.log(found.std()))
        bounds = [MU_BOUNDS, tuple(math.log(bound) for bound in SIGMA_BOUNDS)]
        theirs = minimize(lambda at, x=shown: -log_likelihood(x, at[0], math.exp(at[1])), start, bounds=bounds)
        assert log_likelihood(shown, *fit(shown)) >= -theirs.fun - 2e-3
