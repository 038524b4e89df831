"""The normal distribution truncated to [0, 1] as the law of a verifier's scores (OptScale, equations 8, 9 and 13).

Everything is in logarithms and stable in the tails. SciPy is imported on first use: it costs half a second and 50 MB
that only scored strategies need.
"""

import math
from collections.abc import Sequence

MU_BOUNDS = (-1.0, 2.0)
"""Where a fitted mu may lie. Scores piled up at an end of [0, 1] drive an unbounded one to hundreds."""

SIGMA_BOUNDS = (1e-3, 2.0)
"""Where a fitted sigma may lie: a spread below the floor is no news, and above 2 the law is flat."""

_LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)


def log_likelihood(scores: Sequence[float], mu: float, sigma: float) -> float:
    """The log-density of `scores`, each in [0, 1] and independent, under equation 9: what equation 13 maximises."""
    mean, variance = _moments(scores)
    return -len(scores) * (_loss(mean, variance, mu, sigma)[0] + _LOG_SQRT_TAU)


def log_cdf(score: float, mu: float, sigma: float) -> float:
    """ln F(score), F the distribution function of equation 9; -inf at 0 and below, 0 at 1 and above."""
    if score <= 0:
        return -math.inf
    if score >= 1:
        return 0.0
    low, at, high = -mu / sigma, (score - mu) / sigma, (1 - mu) / sigma
    whole = _log_mass(low, high)
    above = _log_mass(at, high) - whole
    # near 1 the part above is the exact one, near 0 the part below
    return math.log1p(-math.exp(above)) if above < -0.7 else min(_log_mass(low, at) - whole, 0.0)


def cdf(score: float, mu: float, sigma: float) -> float:
    """F(score) of equation 9, in [0, 1]."""
    return math.exp(log_cdf(score, mu, sigma))


def samples_needed(mu: float, sigma: float, s_min: float, confidence: float) -> int | None:
    """Equation 8: the least N with P(the best of N scores >= s_min) >= `confidence`; at least 1.

    None when no number is enough: F(s_min) is 1 as far as floats can tell.
    """
    below = log_cdf(s_min, mu, sigma)
    needed = math.log1p(-confidence) / below if below else math.inf
    return max(1, math.ceil(needed)) if math.isfinite(needed) else None


def fit(scores: Sequence[float]) -> tuple[float, float]:
    """Equation 13: the (mu, sigma) that make `scores` (each in [0, 1]) likeliest, inside MU_BOUNDS and SIGMA_BOUNDS.

    L-BFGS-B from the scores' own mean and standard deviation. Scores that do not differ by more than sigma's floor, one
    score among them, have no likeliest sigma: the fit is their mean and the floor. No scores: ValueError.
    """
    if not scores:
        raise ValueError("no scores to fit")
    mean, variance = _moments(scores)
    spread = math.sqrt(variance)
    if spread <= SIGMA_BOUNDS[0]:
        return mean, SIGMA_BOUNDS[0]
    return _maximise(mean, variance, spread)


def _maximise(mean: float, variance: float, spread: float) -> tuple[float, float]:
    from scipy.optimize import minimize

    # in units of the spread, and in log sigma, both directions are equally steep
    def loss(point: Sequence[float]) -> tuple[float, tuple[float, float]]:
        sigma = spread * math.exp(point[1])
        value, by_mu, by_sigma = _loss(mean, variance, mean + spread * point[0], sigma)
        return value, (spread * by_mu, sigma * by_sigma)

    bounds = [
        tuple((bound - mean) / spread for bound in MU_BOUNDS),
        tuple(math.log(bound / spread) for bound in SIGMA_BOUNDS),
    ]
    shift, stretch = minimize(loss, (0.0, 0.0), jac=True, method="L-BFGS-B", bounds=bounds).x.tolist()
    return _clip(mean + spread * shift, MU_BOUNDS), _clip(spread * math.exp(stretch), SIGMA_BOUNDS)


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _moments(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and (biased) variance: all that the likelihood sees of the scores."""
    mean = math.fsum(scores) / len(scores)
    return mean, math.fsum((score - mean) ** 2 for score in scores) / len(scores)


def _loss(mean: float, variance: float, mu: float, sigma: float) -> tuple[float, float, float]:
    """The negative log-likelihood a score, without ln sqrt(2 pi), and its derivatives by mu and by sigma."""
    low, high = -mu / sigma, (1 - mu) / sigma
    mass = _log_mass(low, high)
    at_low = math.exp(-0.5 * low * low - _LOG_SQRT_TAU - mass)
    at_high = math.exp(-0.5 * high * high - _LOG_SQRT_TAU - mass)
    squares = (variance + (mean - mu) ** 2) / sigma**2
    by_mu = (at_low - at_high) / sigma - (mean - mu) / sigma**2
    by_sigma = (low * at_low - high * at_high + 1 - squares) / sigma
    return mass + math.log(sigma) + 0.5 * squares, by_mu, by_sigma


def _log_mass(low: float, high: float) -> float:
    """ln(Phi(high) - Phi(low)) for low < high."""
    from scipy.special import log_ndtr, ndtr

    if low > 0:
        # the mirror image: tails are exact on the left only
        low, high = -high, -low
    if high <= 0:
        upper = float(log_ndtr(high))
        return upper + _log1mexp(float(log_ndtr(low)) - upper)
    mass = float(ndtr(high)) - float(ndtr(low))
    return math.log(mass) if mass > 0 else -math.inf


def _log1mexp(x: float) -> float:
    """ln(1 - e^x) for x < 0; -inf at 0, where two tails are the same as far as floats can tell."""
    return math.log(-math.expm1(x)) if x < 0 else -math.inf
