"""Common corruptions, against other libraries and formulas, and their report."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import keras_esq as esq
from keras_esq import cli
from keras_esq._keras import keras
from keras_esq.evaluation import CORRUPTIONS, RobustnessReport, attack_set, corrupt, evaluate_robustness
from keras_esq.evaluation.corruptions import corruption_parameters, pixelate

layers = keras.layers
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
# Smooth, as pictures are: JPEG codecs differ on noise.
PIXELS = ndimage.gaussian_filter(PIXELS.astype(float), (0, 3, 3, 0))
PIXELS = np.uint8(255 * (PIXELS - PIXELS.min()) / np.ptp(PIXELS))
X = (PIXELS / 255).astype(np.float32)


def same(name, severity, expected, atol=1e-6):
    np.testing.assert_allclose(corrupt(X, name, severity=severity), np.clip(expected, 0, 1), atol=atol)


# --- the images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 4, 5, 1), (1, 8, 8, 3), (2, 32, 28, 1), (1, 70, 64, 3)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size_range_and_seed(name, shape):
    x = np.random.default_rng(1).uniform(-3, 5, shape).astype(np.float32)
    for severity in (1, 5):
        once = corrupt(x, name, severity=severity, bounds=(-3, 5), seed=7)
        assert (once.shape, once.dtype) == (x.shape, np.float32)
        assert once.min() >= -3
        assert once.max() <= 5
        np.testing.assert_array_equal(once, corrupt(x, name, severity=severity, bounds=(-3, 5), seed=7))
        # A disk of 0.3 pixels and four fifths of a small image are what the paper's table says: next to nothing.
        assert severity == 1 or np.abs(once - x).max() > 0.05
        unit = corrupt((x + 3) / 8, name, severity=severity, seed=7)
        # JPEG rounds, and may round the other way in the other unit.
        np.testing.assert_allclose(once, 8 * unit - 3, atol=0.3 if name.startswith("jpeg") else 1e-4)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_grow(name):
    error = [np.sqrt(np.mean((corrupt(X, name, severity=s) - X) ** 2)) for s in range(1, 6)]
    assert error == sorted(error)
    assert error[0] < error[-1]


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur"])
def test_seeds_differ(name):
    assert (corrupt(X, name, seed=1) != corrupt(X, name, seed=2)).any()


def test_noise_has_its_moments():
    gray = np.full((4, 64, 64, 1), 0.4, np.float32)
    parameter = {name: corruption_parameters(name, 2, 64) for name in ("gaussian_noise", "shot_noise", "impulse_noise")}
    assert np.std(corrupt(gray, "gaussian_noise", severity=2)) == pytest.approx(parameter["gaussian_noise"], rel=0.03)
    shot = corrupt(gray, "shot_noise", severity=2)
    assert shot.mean() == pytest.approx(0.4, abs=0.005)
    assert shot.var() == pytest.approx(0.4 / parameter["shot_noise"], rel=0.05)
    impulse = corrupt(gray, "impulse_noise", severity=2)
    for extreme in (0, 1):
        assert np.mean(impulse == extreme) == pytest.approx(parameter["impulse_noise"] / 2, rel=0.15)


def test_gaussian_blur_is_scipys():
    for severity, sigma in zip(range(1, 6), (0.4, 0.6, 0.7, 0.8, 1.0), strict=True):
        expected = ndimage.gaussian_filter(X.astype(np.float64), (0, sigma, sigma, 0), mode="nearest")
        same("gaussian_blur", severity, expected)


def test_defocus_blur_is_the_papers_kernel():
    for severity, (radius, alias) in zip((4, 5), ((1.0, 0.2), (1.5, 0.1)), strict=True):
        grid = np.arange(-8, 9)
        disk = (grid[:, None] ** 2 + grid[None, :] ** 2 <= radius**2).astype(np.float64)
        kernel = ndimage.gaussian_filter(disk / disk.sum(), alias, radius=1)
        expected = np.stack([ndimage.correlate(one, kernel[:, :, None], mode="mirror") for one in X.astype(np.float64)])
        same("defocus_blur", severity, expected)


def test_motion_blur_of_a_point_is_half_a_bell():
    point = np.zeros((200, 33, 33, 1), np.float32)
    point[:, 16, 16] = 1
    trail = corrupt(point, "motion_blur", severity=5, seed=3)[..., 0]
    _, sigma = corruption_parameters("motion_blur", 5, 33)
    np.testing.assert_allclose(trail.sum(axis=(1, 2)), 1, atol=1e-5)
    # At its brightest where it was, but for two steps that fall on one pixel, and on one side of that only.
    assert (trail[:, 16, 16] > 0.55 * trail.max(axis=(1, 2))).all()
    assert (trail[:, :, 17:] == 0).all()
    columns = np.arange(33) - 16
    level = np.abs(trail.sum(axis=1) @ columns)
    assert level.max() == pytest.approx(sigma * np.sqrt(2 / np.pi), rel=0.35)
    down = trail.sum(axis=2) @ columns
    assert down.min() < -0.5 < 0.5 < down.max()


@pytest.mark.parametrize("size", [(7, 9), (33, 31), (230, 225)])
@pytest.mark.parametrize("share", [0.95, 0.9, 0.85, 0.75, 0.65, 0.6, 0.5, 0.4, 0.3, 0.25])
def test_pixelate_is_pillows_box_at_odd_sizes(size, share):
    """Where centres of pixels lie on the edges of boxes."""
    x = np.random.default_rng(0).random(size).astype(np.float32)
    less, box = tuple(int(side * share) for side in size[::-1]), Image.Resampling.BOX
    expected = np.asarray(Image.fromarray(x).resize(less, box).resize(size[::-1], box))
    pixelated = pixelate(x[None, :, :, None].astype(np.float64), share, None)
    np.testing.assert_allclose(pixelated[0, :, :, 0], expected, atol=1e-5)


def test_pixelate_is_pillows_box():
    for severity, share in zip(range(1, 6), (0.95, 0.9, 0.85, 0.75, 0.65), strict=True):
        less = int(32 * share)
        box = Image.Resampling.BOX
        expected = [Image.fromarray(one).resize((less, less), box).resize((32, 32), box) for one in PIXELS]
        same("pixelate", severity, np.stack([np.asarray(one) for one in expected]) / 255, atol=1.01 / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    for severity, quality in ((1, 80), (5, 40)):
        for one in PIXELS[..., :channels]:
            file = io.BytesIO()
            Image.fromarray(one.squeeze()).save(file, "JPEG", quality=quality)
            expected = np.asarray(Image.open(file)).reshape(one.shape) / 255
            new = corrupt(one[None] / 255, "jpeg_compression", severity=severity)[0]
            # Codecs differ in how they round and smooth the colours.
            assert np.sqrt(np.mean((new - expected) ** 2)) < 3 / 255
            assert np.sqrt(np.mean((one / 255 - expected) ** 2)) > 0


def test_brightness_and_contrast_are_matplotlibs_hsv_and_a_line():
    from matplotlib import colors

    hsv = colors.rgb_to_hsv(X.astype(np.float64))
    hsv[..., 2] = np.minimum(hsv[..., 2] + 0.3, 1)
    same("brightness", 5, colors.hsv_to_rgb(hsv))
    mean = X.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    same("contrast", 5, mean + 0.15 * (X - mean))
    black = np.zeros((1, 4, 4, 3), np.float32)
    np.testing.assert_allclose(corrupt(black, "brightness", severity=1), 0.05, atol=1e-6)


def test_parameters_between_the_papers_two_tables():
    assert corruption_parameters("gaussian_noise", 1, 8) == pytest.approx(0.04)
    assert corruption_parameters("gaussian_noise", 1, 500) == pytest.approx(0.08)
    assert corruption_parameters("motion_blur", 5, 32) == pytest.approx((9, 2.5))
    halfway = corruption_parameters("gaussian_blur", 5, round(np.sqrt(32 * 224)))
    assert halfway == pytest.approx(np.sqrt(1 * 6), rel=0.01)
    for name in CORRUPTIONS:
        sizes = [np.sum(corruption_parameters(name, 3, size)) for size in (16, 32, 64, 128, 224, 448)]
        assert sizes in (sorted(sizes), sorted(sizes, reverse=True))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"name": "gausian_noise"}, ValueError, "gaussian_noise"),
        ({"name": ["contrast"]}, ValueError, "Known"),
        ({"severity": 6}, ValueError, "from 1"),
        ({"severity": 0}, ValueError, ">= 1"),
        ({"severity": 2.5}, TypeError, "integer"),
        ({"x": X * np.nan}, ValueError, "NaN"),
        ({"x": X * 255}, ValueError, "inside the bounds"),
        ({"x": X[0]}, ValueError, "height"),
        ({"x": X[:, :3]}, ValueError, "4 pixels"),
        ({"x": X[..., :2]}, ValueError, "1 or 3"),
        ({"x": "image"}, TypeError, "numbers"),
        ({"seed": -1}, ValueError, "seed"),
        ({"bounds": (1, 0)}, ValueError, "bounds"),
    ],
)
def test_errors(arguments, error, says):
    with pytest.raises(error, match=says):
        corrupt(**{"x": X, "name": "contrast", **arguments})


# --- the report -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(3)
    network = keras.Sequential(
        [
            keras.Input(digits.input_shape),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, name="head"),
        ],
        name="digits_net",
    )
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(digits.x_train, digits.y_train, epochs=8, verbose=0)
    return network


@pytest.fixture(scope="module")
def report(trained, digits):
    x, y = digits.x_test[:90], digits.y_test[:90]
    return evaluate_robustness(
        trained, x, y, attacks="corruptions", seed=5, batch_size=64, progress=False, keep_examples=True
    )


def test_rows(report, trained, digits):
    x, y = digits.x_test[:90], digits.y_test[:90]
    assert [row.name for row in report.rows] == ["clean", *CORRUPTIONS, "mean corruption", "worst case"]
    # Without random numbers, an independent loop must agree.
    for name in ("contrast", "pixelate", "brightness"):
        right = [trained.predict(corrupt(x, name, severity=s), verbose=0).argmax(axis=1) == y for s in (1, 2, 3, 4, 5)]
        row = report.row(name)
        assert row.severities == pytest.approx([one.mean() for one in right])
        assert row.accuracy == pytest.approx(np.mean(right))
        assert (row.correct, row.n) == (np.sum(right), 450)
        assert row.low <= row.accuracy <= row.high
        np.testing.assert_array_equal(report.robust[name], report.robust["clean"] & np.all(right, axis=0))
        np.testing.assert_array_equal(report.robust[f"{name}-3"], right[2])
    means = [report.accuracy(name) for name in CORRUPTIONS]
    assert report.accuracy("mean corruption") == pytest.approx(np.mean(means))
    assert report.row("mean corruption").severities == pytest.approx(
        np.mean([report.row(name).severities for name in CORRUPTIONS], axis=0)
    )
    assert 0 < report.accuracy("worst case") <= min(means) < report.accuracy("clean")
    # An interval of 90 images, not of their 4,500 corrupted copies.
    row = report.row("mean corruption")
    assert row.high - row.low == pytest.approx(2 * 1.96 * np.sqrt(row.accuracy * (1 - row.accuracy) / 90), rel=0.2)


def test_examples_are_what_fooled(report, trained, digits, tmp_path):
    for name in CORRUPTIONS:
        now = trained.predict(report.x_adv[name], verbose=0).argmax(axis=1)
        np.testing.assert_array_equal(now, report.examples.predicted[name])
        fooled = report.robust["clean"] & ~report.robust[name]
        np.testing.assert_array_equal(fooled, report.robust["clean"] & (now != digits.y_test[:90]))
    assert report.plot_examples(tmp_path / "x.png").stat().st_size > 1000
    assert report.plot(tmp_path / "bars.png").stat().st_size > 1000


def test_json_keeps_severities(report):
    back = RobustnessReport.from_json(report.to_json())
    assert back.rows == report.rows
    assert json.loads(report.to_json())["rows"][1]["severities"] == list(report.rows[1].severities)
    assert "mean corruption" in back.table()
    with pytest.raises(KeyError, match="contrast"):
        back.row("contrast-3")


def test_same_seed_same_report(report, trained, digits):
    again = {"attacks": "corruptions", "batch_size": 64, "progress": False}
    x, y = digits.x_test[:90], digits.y_test[:90]
    masks = evaluate_robustness(trained, x, y, seed=5, **again).robust
    assert all((masks[name] == report.robust[name]).all() for name in report.robust)


def test_file_and_command_line(trained, digits, tmp_path, capsys):
    """A .tflite file has no gradients, and corruptions need none."""
    path = str(tmp_path / "net.tflite")
    file = esq.convert(trained, path, target="phone", calibration=digits.x_train[:50])
    assert file.agreement is not None
    arguments = [path, "--attacks", "corruptions", "--samples", "40", "--report", str(tmp_path / "out")]
    assert cli.main(["evaluate", *arguments]) == 0
    assert "mean corruption" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert [len(row["severities"] or ()) for row in rows] == [0, *[5] * 11, 0]
    assert "jpeg_compression" in (tmp_path / "out" / "report.md").read_text()
    assert cli.main(["evaluate", path, "--attacks", "corruptions", "--eps", "0.1"]) == 1
    assert "eps=0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"norm": "l2"}, "norm='l2'"),
        ({"temperature": 2.0}, "temperature"),
        ({"bounds": (0, 0.5)}, "inside the bounds"),
        ({"attacks": "corruption"}, "corruptions"),
    ],
)
def test_settings_of_attacks_are_refused(trained, digits, arguments, says):
    x, y = digits.x_test[:9], digits.y_test[:9]
    with pytest.raises(ValueError, match=says):
        evaluate_robustness(trained, x, y, **{"attacks": "corruptions", "progress": False, **arguments})


def test_it_is_no_set_of_attacks():
    with pytest.raises(ValueError, match="corrupt\\(x"):
        attack_set("corruptions")
