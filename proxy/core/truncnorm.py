"""The normal distribution truncated to [0, 1] as the law of a verifier's scores (OptScale, equations 8, 9 and 13).

Everything is in logarithms and stable in the tails. SciPy is imported on first use: it costs time and memory
that only scored strategies need.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.core.newton import Bend, minimise
from proxy.core.prior import Prior

MU_BOUNDS = (-1.0, 2.0)
"""Where a fitted mu may lie. Scores piled up at an end of [0, 1] drive an unbounded one to hundreds."""

SIGMA_BOUNDS = (1e-3, 2.0)
"""Where a fitted sigma may lie: a spread below the floor is no news, and above 2 the law is flat."""

_LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)


def log_likelihood(scores: Sequence[float], mu: float, sigma: float) -> float:
    """The log-density of `scores`, each in [0, 1] and independent, under equation 9: what equation 13 maximises."""
    return -_loss(_summary(scores), mu, sigma).value - len(scores) * _LOG_SQRT_TAU


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


def fit(scores: Sequence[float], prior: Prior | None = None) -> tuple[float, float]:
    """The (mu, sigma) of `scores`, each in [0, 1], inside MU_BOUNDS and SIGMA_BOUNDS.

    Without a prior the likeliest (equation 13). Scores that do not differ by more than sigma's floor, one score among
    them, have no likeliest sigma: the fit is their mean and the floor. No scores: ValueError. With a prior the maximum
    a posteriori (equation 12), for any number of scores; for none it is the prior's own mu and sigma. One score says
    nothing of its spread, where equation 12 would have it vanish: sigma stays as believed.
    """
    if not scores:
        if prior is None:
            raise ValueError("no scores to fit")
        return _clip(prior.mu, MU_BOUNDS), _clip(prior.sigma, SIGMA_BOUNDS)
    found = _summary(scores)
    spread = math.sqrt(found.variance)
    if prior is None:
        if spread <= SIGMA_BOUNDS[0]:
            return found.mean, SIGMA_BOUNDS[0]
        return _peak(found, None, (found.mean, spread), SIGMA_BOUNDS)[0]
    believed = _clip(prior.sigma, SIGMA_BOUNDS)
    if found.count == 1:
        return _peak(found, prior, (prior.mu, believed), (believed, believed))[0]
    # the posterior may have two peaks: mu as the scores have it, or as believed and wide enough for the scores
    wide = max(math.hypot(spread, found.mean - prior.mu), believed)
    starts = ((prior.mu, wide), (found.mean, max(spread, believed / 4)))
    return min((_peak(found, prior, start, SIGMA_BOUNDS) for start in starts), key=lambda peak: peak[1])[0]


@dataclass(frozen=True, slots=True)
class _Summary:
    """All that the likelihood sees of scores: their number, mean and (biased) variance."""

    count: int
    mean: float
    variance: float


def _summary(scores: Sequence[float]) -> _Summary:
    mean = math.fsum(scores) / len(scores)
    return _Summary(len(scores), mean, math.fsum((score - mean) ** 2 for score in scores) / len(scores))


def _peak(
    found: _Summary, prior: Prior | None, start: tuple[float, float], sigmas: tuple[float, float]
) -> tuple[tuple[float, float], float]:
    """The best (mu, sigma) near `start`, sigma within `sigmas`, and their negative log-posterior without constants."""
    mu, unit = start[0], _clip(start[1], sigmas)

    # in units of the spread, and in log sigma, both directions are equally steep
    def loss(shift: float, stretch: float) -> Bend:
        at, wide = mu + unit * shift, unit * math.exp(stretch)
        bend = _loss(found, at, wide) if prior is None else _loss(found, at, wide) + _disbelief(prior, at, wide)
        (by_mu, by_sigma), (mu_mu, mu_sigma, sigma_sigma) = bend.gradient, bend.hessian
        return Bend(
            bend.value,
            (unit * by_mu, wide * by_sigma),
            (unit**2 * mu_mu, unit * wide * mu_sigma, wide**2 * sigma_sigma + wide * by_sigma),
        )

    box = (
        ((MU_BOUNDS[0] - mu) / unit, (MU_BOUNDS[1] - mu) / unit),
        (math.log(sigmas[0] / unit), math.log(sigmas[1] / unit)),
    )
    (shift, stretch), value = minimise(loss, (0.0, 0.0), box)
    return (_clip(mu + unit * shift, MU_BOUNDS), _clip(unit * math.exp(stretch), sigmas)), value


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _disbelief(prior: Prior, mu: float, sigma: float) -> Bend:
    """The negative logarithm of equation 10's densities, constants left out, with its derivatives."""
    off_mu, off_sigma = (mu - prior.mu) / prior.mu_sd, (sigma - prior.sigma) / prior.sigma_sd
    return Bend(
        0.5 * (off_mu**2 + off_sigma**2),
        (off_mu / prior.mu_sd, off_sigma / prior.sigma_sd),
        (prior.mu_sd**-2, 0.0, prior.sigma_sd**-2),
    )


def _loss(found: _Summary, mu: float, sigma: float) -> Bend:
    """The negative log-likelihood without its constant ln sqrt(2 pi) a score, with its derivatives by mu and sigma.

    With a and b the densities of the standardised law at its ends `low` and `high`, the sums d, e, g, j are
    low^k a - high^k b for k from 0 to 3; all follows from the slopes a (a - low), -ab of a, and ab, -b (high + b) of b.
    """
    low, high = -mu / sigma, (1 - mu) / sigma
    mass = _log_mass(low, high)
    a = math.exp(-0.5 * low * low - _LOG_SQRT_TAU - mass)
    b = math.exp(-0.5 * high * high - _LOG_SQRT_TAU - mass)
    d, e, g, j = a - b, low * a - high * b, low**2 * a - high**2 * b, low**3 * a - high**3 * b
    off = (found.mean - mu) / sigma
    squares = found.variance / sigma**2 + off * off
    slope, bend = found.count / sigma, found.count / sigma**2
    return Bend(
        found.count * (mass + math.log(sigma) + 0.5 * squares),
        (slope * (d - off), slope * (e + 1 - squares)),
        (bend * (1 + e - d * d), bend * (g - e * d - d + 2 * off), bend * (j - 2 * e - e * e - 1 + 3 * squares)),
    )


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
