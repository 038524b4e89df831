"""What is believed of a query's verifier scores before any of them is seen."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prior:
    """Independent normals over the mu and sigma of a truncated normal (OptScale, equation 10), on the score's scale.

    `mu_sd` and `sigma_sd` are the standard deviations of the belief, 0.1 as published.
    """

    mu: float
    sigma: float
    mu_sd: float = 0.1
    sigma_sd: float = 0.1

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.mu_sd > 0 and self.sigma_sd > 0):
            raise ValueError("sigma, mu_sd and sigma_sd are above 0")
