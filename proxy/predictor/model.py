"""A trained predictor as a value: a linear model on a text's hashed features, and its file.

The file is a numpy archive of plain arrays, read without pickle: a path in a configuration must not be able to run
code.
"""

import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from proxy.core.prior import Prior
from proxy.errors import ConfigError, Problem
from proxy.predictor.features import WIDTH, features

FORMAT = 1
_SHAPES: dict[str, tuple[int, ...]] = {
    "format": (),
    "rarity": (WIDTH,),
    "weights": (2, WIDTH),
    "intercepts": (2,),
    "means": (2,),
    "spreads": (2,),
}
# an archive fails where its damage lies: in its directory, a name, a method, a stream, an array's head
_DAMAGED = (BadZipFile, zlib.error, TokenError, RuntimeError, ValueError, KeyError, EOFError, AttributeError, TypeError)
_LEAST_SIGMA, _MOST_SIGMA = 0.01, 0.5
_LEAST_SPREAD = 0.02

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Predicts the mean and the standard deviation of a question's scores, in this order in every pair.

    `rarity` weighs features; `weights` and `intercepts` are the regression's. `means` are those of the questions it was
    trained on, the constant it is measured by; `spreads` its root mean square errors on questions held out. `seen` are
    hashes of the questions it was trained on, ascending.
    """

    rarity: Floats
    weights: Floats
    intercepts: Floats
    means: Floats
    spreads: Floats
    seen: NDArray[np.uint32]

    def predict(self, text: str) -> tuple[float, float]:
        """The mean in [0, 1] and the standard deviation in [0.01, 0.5] of the scores that `text` is expected to get."""
        places, counts = features(text)
        weighed = counts * self.rarity[places]
        length = float(np.sqrt(weighed @ weighed))
        mean, deviation = (self.weights[:, places] @ weighed / length + self.intercepts).tolist()
        return min(max(mean, 0.0), 1.0), min(max(deviation, _LEAST_SIGMA), _MOST_SIGMA)

    def prior(self, text: str) -> Prior:
        """The prediction as a belief, as sure as the model was right on questions held out."""
        mu, sigma = self.predict(text)
        mu_sd, sigma_sd = np.maximum(self.spreads, _LEAST_SPREAD).tolist()
        return Prior(mu, sigma, mu_sd, sigma_sd)

    def saw(self, text: str) -> bool:
        """Whether it was trained on this question (or, one in a million times, on one of the same hash)."""
        place = int(np.searchsorted(self.seen, identity(text)))
        return place < len(self.seen) and int(self.seen[place]) == identity(text)

    def save(self, path: Path) -> None:
        """Write the file, all or nothing. Raises ConfigError where that fails."""
        written = BytesIO()
        np.savez_compressed(
            written,
            format=np.int64(FORMAT),
            rarity=self.rarity.astype(np.float32),
            weights=self.weights.astype(np.float32),
            intercepts=self.intercepts,
            means=self.means,
            spreads=self.spreads,
            seen=self.seen,
        )
        draft = path.with_name(f"{path.name}.new")
        try:
            draft.write_bytes(written.getvalue())
            draft.replace(path)
        except OSError as error:
            raise _wrong(path, f"cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote. Raises ConfigError."""
        try:
            # numpy leaves a torn archive open where it is given the path
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                found = {name: archive[name] for name in (*_SHAPES, "seen")}
        except OSError as error:
            raise _wrong(path, f"cannot be read: {error.strerror or 'it is damaged'}") from error
        except _DAMAGED as error:
            raise _wrong(path, "is no predictor, or a damaged one; `tally predictor train` writes it") from error
        if not np.array_equal(found["format"], FORMAT):
            raise _wrong(path, f"is a predictor of format {found['format']}, this program reads format {FORMAT}")
        for name, values in found.items():
            whole = values.dtype.kind in "fiu" and np.isfinite(values).all()
            if not whole or values.shape != _SHAPES.get(name, values.shape):
                raise _wrong(path, f"is no predictor: {name} is damaged")
        numbers = {name: found[name].astype(np.float64) for name in list(_SHAPES)[1:]}
        return cls(seen=np.sort(found["seen"].astype(np.uint32).ravel()), **numbers)


def identity(text: str) -> int:
    """A question's hash."""
    return zlib.crc32(text.strip().encode(errors="replace"))


def _wrong(path: Path, reason: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", reason)])
