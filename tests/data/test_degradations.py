import numpy as np
import pytest

from keywarp.data.degradations import defocus, jpeg, line_blur, low_light


def point(size=31):
    """A white pixel in the middle of black."""
    image = np.zeros((size, size, 3), np.uint8)
    image[size // 2, size // 2] = 255
    return image


def extent(image):
    """How far light reaches from its centre: (rows, columns)."""
    rows, columns = np.nonzero(image[..., 0])
    return np.ptp(rows) + 1, np.ptp(columns) + 1


def test_defocus_spreads_a_point_over_a_disc():
    blurred = defocus(point(), 3)
    assert extent(blurred) == (7, 7)
    assert blurred[15 - 3, 15 - 3, 0] == 0, "the corner of the square is outside the disc"
    assert np.ptp(blurred[14:17, 14:17, 0]) == 0, "inside it the light is even"


@pytest.mark.parametrize(("vector", "wanted"), [((8, 0), (1, 9)), ((0, -8), (9, 1)), ((6, 6), (7, 7))])
def test_line_blur_spreads_a_point_along_the_vector(vector, wanted):
    assert extent(line_blur(point(), np.array(vector))) == wanted


def test_line_blur_keeps_the_direction():
    falling = line_blur(point(), np.array([10, 10]))  # y grows downwards
    assert falling[12, 12, 0] > 0
    assert falling[12, 18, 0] == 0


def test_nothing_at_strength_zero():
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    for same in (defocus(image, 0), line_blur(image, np.zeros(2)), low_light(image, 1, 0, np.random.default_rng(0))):
        np.testing.assert_array_equal(same, image)


def test_blur_keeps_the_light_of_an_even_picture():
    grey = np.full((12, 12, 3), 100, np.uint8)
    for blurred in (defocus(grey, 2.5), line_blur(grey, np.array([3.3, -5.1]))):
        np.testing.assert_array_equal(blurred, grey)


def test_low_light_darkens_and_adds_noise_of_its_strength():
    grey = np.full((100, 100, 3), 200, np.uint8)
    dark = low_light(grey, 0.4, 6, np.random.default_rng(0)).astype(float)
    assert dark.mean() == pytest.approx(80, abs=0.5)
    assert dark.std() == pytest.approx(6, rel=0.05)


def test_jpeg_keeps_the_order_of_colours_and_loses_detail():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert jpeg(red, 90)[16, 16, 0] > 240
    assert jpeg(red, 90)[16, 16, 2] < 20
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    worse, better = (np.abs(jpeg(noise, q).astype(int) - noise).mean() for q in (10, 90))
    assert worse > 1.2 * better
