import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.newton import Bend, minimise

BOX = ((-2.0, 3.0), (-1.0, 4.0))
centres = st.floats(-5, 5)


@given(centres, centres, st.floats(0.1, 10), st.floats(0.1, 10), st.floats(-0.9, 0.9))
def test_a_bowl_is_followed_to_its_bottom_or_to_the_side_of_the_box(
    x: float, y: float, steep_x: float, steep_y: float, tilt: float
) -> None:
    skew = tilt * (steep_x * steep_y) ** 0.5

    def bowl(at_x: float, at_y: float) -> Bend:
        dx, dy = at_x - x, at_y - y
        value = 0.5 * (steep_x * dx * dx + steep_y * dy * dy) + skew * dx * dy
        return Bend(value, (steep_x * dx + skew * dy, steep_y * dy + skew * dx), (steep_x, skew, steep_y))

    (found_x, found_y), value = minimise(bowl, (0.0, 0.0), BOX)
    assert value == bowl(found_x, found_y).value
    if BOX[0][0] < x < BOX[0][1] and BOX[1][0] < y < BOX[1][1]:
        assert value == pytest.approx(0, abs=1e-8)
    grid = [(a / 4, b / 4) for a in range(-8, 13) for b in range(-4, 17)]
    assert value <= min(bowl(*point).value for point in grid) + 1e-8


@given(st.floats(-2, 3), st.floats(-1, 4))
def test_a_saddle_is_left_downwards(x: float, y: float) -> None:
    """x^4 - x^2 + y^2 bends the wrong way at its middle; its two bottoms are at x = +-0.7071, where it is -1/4."""
    assume(abs(x) > 1e-3)

    def wells(at_x: float, at_y: float) -> Bend:
        return Bend(at_x**4 - at_x**2 + at_y**2, (4 * at_x**3 - 2 * at_x, 2 * at_y), (12 * at_x**2 - 2, 0.0, 2.0))

    (found_x, found_y), value = minimise(wells, (x, y), BOX)
    assert value == pytest.approx(-0.25, abs=1e-6)
    assert (abs(found_x), found_y) == pytest.approx((0.5**0.5, 0), abs=1e-3)


def test_a_start_outside_is_put_into_the_box() -> None:
    def plane(at_x: float, at_y: float) -> Bend:
        return Bend(at_x + at_y, (1.0, 1.0), (0.0, 0.0, 0.0))

    assert minimise(plane, (9.0, -9.0), BOX)[0] == (-2.0, -1.0)
