"""Common corruptions [Hendrycks & Dietterich 2019]: what cameras and codecs do to images, no adversary involved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._checks import check_bounds, check_count, check_images, check_seed, near_matches

SEVERITIES = (1, 2, 3, 4, 5)
_SMALL, _LARGE = 32, 224
_SMALLEST = 4

# (images in [0, 1], float64 (n, h, w, c); the parameters of the severity; random numbers) -> images
Corruption = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


def gaussian_noise(x: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Normal noise of standard deviation `sigma`, as at low light."""
    return x + rng.normal(scale=sigma, size=x.shape)


def shot_noise(x: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise of a sensor that counts `photons` at full brightness."""
    return rng.poisson(x * photons) / photons


def impulse_noise(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A `share` of all values become 0 or 1, as bit errors make them."""
    drawn = rng.random(x.shape)
    return np.where(drawn < share, (drawn < share / 2).astype(x.dtype), x)


def gaussian_blur(x: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Blur of standard deviation `sigma` pixels, cut off at four of them."""
    line = _bell(sigma, int(4 * sigma + 0.5))
    return _filter(x, np.outer(line, line), "edge")


def defocus_blur(x: np.ndarray, lens: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A disk of radius `lens[0]` pixels, its edge softened by a bell of `lens[1]` pixels."""
    radius, alias = lens
    soft = 1 if radius <= 8 else 2
    reach = math.floor(radius) + soft
    square = np.arange(-reach, reach + 1) ** 2
    disk = (square[:, None] + square[None, :] <= radius**2).astype(np.float64)
    bell = _bell(alias, soft)
    smooth = _filter(disk[None, :, :, None], np.outer(bell, bell), "constant")[0, :, :, 0]
    return _filter(x, smooth / smooth.sum(), "reflect")


def motion_blur(x: np.ndarray, motion: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A trail of half a bell, `motion[1]` pixels wide and cut off at twice `motion[0]`, up to 45 degrees from level."""
    radius, sigma = motion
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angle = np.deg2rad(rng.uniform(-45, 45, size=(len(x), 1)))
    down, right = (np.ceil(steps * way(angle) - 0.5).astype(int) for way in (np.sin, np.cos))
    height, width = x.shape[1:3]
    result = np.zeros_like(x)
    each = np.arange(len(x))[:, None, None]
    for step, weight in enumerate(weights / weights.sum()):
        rows = np.clip(np.arange(height) + down[:, step, None], 0, height - 1)
        columns = np.clip(np.arange(width) + right[:, step, None], 0, width - 1)
        result += weight * x[each, rows[:, :, None], columns[:, None, :]]
    return result


def brightness(x: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    """The V of HSV, the largest of the channels, rises by `shift`; hue and saturation stay."""
    value = x.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + shift, 1.0)
    return np.where(value > 0, x * (brighter / np.maximum(value, 1e-12)), brighter)


def contrast(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Only a `share` of each value's distance from the channel's mean is left."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    return (x - mean) * share + mean


def pixelate(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Averaged down to a `share` of its width and height, and up again by the nearest pixel."""
    for axis in (1, 2):
        size = x.shape[axis]
        less = max(1, int(size * share))
        both = _box(size, less) @ _box(less, size)
        x = np.moveaxis(np.tensordot(both, x, axes=(1, axis)), 0, axis)
    return x


def jpeg_compression(x: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Written and read as a JPEG of that `quality`, 1 to 100."""
    pixels = np.round(255 * x).astype(np.uint8)
    files = (tf.io.encode_jpeg(one, quality=round(quality)) for one in pixels)
    return np.stack([tf.io.decode_jpeg(one, channels=x.shape[-1]).numpy() for one in files]) / 255


def _bell(sigma: float, reach: int) -> np.ndarray:
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return line / line.sum()


def _filter(x: np.ndarray, kernel: np.ndarray, border: Any) -> np.ndarray:
    """`x` (n, h, w, c) filtered by a symmetric kernel of odd size; by Fourier, as disks for large images are large."""
    reach = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=border)
    size = padded.shape[1:3]
    spectrum = np.fft.rfft2(padded, axes=(1, 2)) * np.fft.rfft2(kernel, s=size)[None, :, :, None]
    return np.fft.irfft2(spectrum, s=size, axes=(1, 2))[:, 2 * reach :, 2 * reach :]


def _box(count: int, size: int) -> np.ndarray:
    """Weights (count, size) of the box filter that resamples `size` pixels to `count`.

    A pixel belongs to the box that its centre is in. Centres on an edge, which odd sizes have, go where Pillow, which
    the paper used, puts them, rounding errors included.
    """
    scale = size / count
    width = max(scale, 1.0)
    centres, pixels = (np.arange(count)[:, None] + 0.5) * scale, np.arange(size)[None, :]
    first, last = (np.floor(centres + side * 0.5 * width + 0.5) for side in (-1, 1))
    distance = (pixels - centres + 0.5) * (1.0 / width)
    inside = (distance > -0.5) & (distance <= 0.5) & (pixels >= first) & (pixels < last)
    return inside / inside.sum(axis=1, keepdims=True)


# Name -> (function, parameters of CIFAR-10-C, those of ImageNet-C), one a severity.
_TABLE: dict[str, tuple[Corruption, tuple[Any, ...], tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "defocus_blur": (
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "motion_blur": (
        motion_blur,
        ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
CORRUPTIONS = tuple(_TABLE)


def corrupt(
    x: Any, name: str, *, severity: int = 3, bounds: tuple[float, float] = (0.0, 1.0), seed: int = 0
) -> np.ndarray:
    """Images as they come out of a bad camera or codec.

    The parameters are those of CIFAR-10-C for images of up to 32 pixels (the smaller of height and width) and those of
    ImageNet-C from 224 pixels on; in between they are interpolated, linear in the logarithms of size and parameter.
    Values stay real numbers; only JPEG rounds them to 8 bits.

    Args:
        x: images (n, height, width, channels) in `bounds`, at least 4 pixels high and wide, of 1 or 3 channels.
        name: one of `CORRUPTIONS`: "gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur", "defocus_blur",
            "motion_blur", "brightness", "contrast", "pixelate" or "jpeg_compression".
        severity: 1 (mild) to 5.
        bounds: lowest and highest valid value of x.
        seed: of the noise and of the direction of motion: int in [0, 2**31).

    Returns:
        float32, of the shape of `x`, in `bounds`.

    Raises:
        TypeError: if an argument is of a kind that is not accepted.
        ValueError: for an unknown name or severity, or images of another shape, with NaN or outside of the bounds.

    Reference: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", 2019 (arXiv 1903.12261). Its glass, zoom, weather and elastic corruptions are not here.
    """
    if not isinstance(name, str) or name not in _TABLE:
        raise ValueError(f"Expected the name of a corruption. Received: {name!r}. {near_matches(name, _TABLE)}")
    if check_count("severity", severity) > len(SEVERITIES):
        raise ValueError(f"Expected a severity from 1 (mild) to {len(SEVERITIES)}. Received: {severity!r}.")
    low, high = check_bounds(bounds)
    images = check_corruptible(check_images(x, (low, high)))
    rng = np.random.default_rng([check_seed("seed", seed), CORRUPTIONS.index(name), severity])
    parameters = corruption_parameters(name, severity, min(images.shape[1:3]))
    corrupted = _TABLE[name][0]((images.astype(np.float64) - low) / (high - low), parameters, rng)
    result = (low + (high - low) * np.clip(corrupted, 0.0, 1.0)).astype(np.float32)
    return np.clip(result, np.float32(low), np.float32(high))


def corruption_parameters(name: str, severity: int, size: int) -> Any:
    """What the corruption is called with at that severity, for images of that height or width; see `corrupt`."""
    _, small, large = _TABLE[name]
    share = np.clip(math.log(size / _SMALL) / math.log(_LARGE / _SMALL), 0.0, 1.0)
    first, last = (np.asarray(one[severity - 1], np.float64) for one in (small, large))
    between = np.exp((1 - share) * np.log(first) + share * np.log(last))
    return tuple(between.tolist()) if between.ndim else float(between)


def check_corruptible(images: np.ndarray) -> np.ndarray:
    """`images` if they are of a shape that corruptions take, else raise ValueError."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or min(images.shape[1:3]) < _SMALLEST:
        raise ValueError(
            f"Expected images of shape (n, height, width, 1 or 3), at least {_SMALLEST} pixels high and wide, to "
            f"corrupt. Received shape {images.shape}."
        )
    return images
