"""What video does to pictures: blur, darkness, coarse compression. Every picture is `[H, W, 3]` uint8 and stays so."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["defocus", "jpeg", "line_blur", "low_light"]


def defocus(image: np.ndarray, radius: float) -> np.ndarray:
    """Each point spread over a disc of so many pixels' radius, as a lens out of focus does; 0 changes nothing."""
    reach = int(np.ceil(radius))
    if reach == 0:
        return image
    away = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    return _filtered(image, np.clip(radius + 0.5 - away, 0, 1))  # cells that the rim crosses count in part


def line_blur(image: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Each point spread evenly along `vector` (dx, dy) in pixels, centred on it: the whole picture moved."""
    x, y = float(vector[0]), float(vector[1])
    steps = int(np.ceil(4 * max(abs(x), abs(y))))
    if steps == 0:
        return image
    reach = int(np.ceil(max(abs(x), abs(y)) / 2))
    kernel = np.zeros((2 * reach + 3, 2 * reach + 3))
    for share in (np.arange(steps) + 0.5) / steps - 0.5:
        across, down = reach + 1 + share * x, reach + 1 + share * y
        left, top = int(across), int(down)
        across, down = across - left, down - top
        kernel[top : top + 2, left : left + 2] += np.outer([1 - down, down], [1 - across, across])
    return _filtered(image, kernel)


def low_light(image: np.ndarray, gain: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """The picture times `gain`, with the sensor's noise of standard deviation `noise` (of 255) added."""
    dark = image.astype(np.float32) * np.float32(gain)
    return (dark + noise * rng.standard_normal(image.shape, np.float32)).round().clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG at this quality (1 … 100)."""
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1])


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    # filter2D correlates; both kernels are symmetric about their centre, so that is the same as convolving.
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
