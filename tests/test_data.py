"""Data sets: the original formats (written here, tiny), splits, bad files, image folders, pipelines."""

import dataclasses
import gzip
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import keras_esq as esq
from keras_esq import data
from keras_esq._keras import keras
from keras_esq.data.augment import AUGMENTATIONS, Augmentation, augmented
from keras_esq.data.cifar import read_pickles
from keras_esq.data.files import describe, download
from keras_esq.data.idx import read_idx_pair
from keras_esq.data.sources import SOURCES
from keras_esq.data.unpickling import unpickle_arrays

CIFAR = ["cifar10", "cifar100"]
GREY = ["mnist", "fashion_mnist"]


# Writers of the original formats.


def raw(name, seed=0, train=50, test=20):
    """Images, uint8, and labels of every class in turn, as if they were the data set `name`."""
    source, rng = SOURCES[name], np.random.default_rng(seed)
    classes = len(source.class_names)
    return {
        "x_train": rng.integers(0, 256, (train, *source.shape), np.uint8),
        "y_train": (np.arange(train) * 7 % classes).astype(np.uint8),
        "x_test": rng.integers(0, 256, (test, *source.shape), np.uint8),
        "y_test": (np.arange(test) * 3 % classes).astype(np.uint8),
    }


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, arrays, compress=False, dot=False):
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train"), ("test", "t10k")):
        for letter, kind in (("x", "images-idx3-ubyte"), ("y", "labels-idx1-ubyte")):
            array = arrays[f"{letter}_{split}"]
            content = idx(array[..., 0] if letter == "x" else array)
            file = folder / f"{name}-{kind.replace('-idx', '.idx') if dot else kind}{'.gz' if compress else ''}"
            file.write_bytes(gzip.compress(content) if compress else content)


def python_2_pickle(entries):
    """A pickle as Python 2 wrote the official ones: byte strings, numpy's old names."""

    def text(value):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    def write(value):
        if isinstance(value, list):
            return b"](" + b"".join(map(write, value)) + b"e"
        if isinstance(value, np.ndarray):
            empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * number(-1) + b"K\x00tb"
            shape = b"".join(map(number, value.shape)) + b"\x86"
            return empty + b"(K\x01" + shape + kind + b"\x89" + text(value.tobytes()) + b"tb"
        return number(int(value)) if isinstance(value, int | np.integer) else text(value)

    return b"\x80\x02}(" + b"".join(text(k) + write(v) for k, v in entries.items()) + b"u."


def rows(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def python_batch(name, images, labels):
    key = b"labels" if name == "cifar10" else b"fine_labels"
    extra = {} if name == "cifar10" else {b"coarse_labels": [0] * len(labels)}
    files = [b"image.png"] * len(labels)
    return python_2_pickle(
        {b"batch_label": b"a batch", key: list(labels), b"data": rows(images), b"filenames": files} | extra
    )


def binary_batch(name, images, labels):
    columns = [labels[:, None]] if name == "cifar10" else [np.zeros((len(labels), 1), np.uint8), labels[:, None]]
    return np.concatenate([*columns, rows(images)], axis=1).tobytes()


def cifar_files(name, arrays, version="python"):
    """File name -> content."""
    write, end = (python_batch, "") if version == "python" else (binary_batch, ".bin")
    if name == "cifar100":
        return {f"{s}{end}": write(name, arrays[f"x_{s}"], arrays[f"y_{s}"]) for s in ("train", "test")}
    files = {"test_batch" + end: write(name, arrays["x_test"], arrays["y_test"])}
    for i, part in enumerate(np.array_split(np.arange(len(arrays["x_train"])), 5), start=1):
        files[f"data_batch_{i}{end}"] = write(name, arrays["x_train"][part], arrays["y_train"][part])
    return files


def write_cifar(folder, name, arrays, version="python"):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in cifar_files(name, arrays, version).items():
        (folder / file).write_bytes(content)


def write_archive(path, files, folder="cifar"):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def check(loaded, name, arrays):
    """The data set holds the arrays: the test images in their order, the training images in two parts."""
    source = SOURCES[name]
    assert loaded.name == name
    assert loaded.bounds == (0.0, 1.0)
    assert loaded.class_names == source.class_names
    assert loaded.input_shape == source.shape
    assert loaded.classes == len(source.class_names)
    splits = [(loaded.x_train, loaded.y_train), (loaded.x_val, loaded.y_val), (loaded.x_test, loaded.y_test)]
    for x, y in splits:
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        assert y.dtype == np.int32
        assert x.shape == (len(y), *source.shape)
    np.testing.assert_array_equal(loaded.x_test, arrays["x_test"] / np.float32(255))
    np.testing.assert_array_equal(loaded.y_test, arrays["y_test"])
    n = len(arrays["x_train"])
    assert len(loaded.x_val) == n // 10
    original = {image.tobytes(): label for image, label in zip(arrays["x_train"], arrays["y_train"], strict=True)}
    both = np.concatenate([loaded.x_train, loaded.x_val]), np.concatenate([loaded.y_train, loaded.y_val])
    found = {np.rint(image * 255).astype(np.uint8).tobytes(): label for image, label in zip(*both, strict=True)}
    assert found == original


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home: no Keras cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    cache = tmp_path / "home/.keras/datasets"
    cache.mkdir(parents=True)
    return cache


# The original formats.


@pytest.mark.parametrize("name", GREY)
@pytest.mark.parametrize(
    ("folder", "options"),
    [("", {}), ("", {"compress": True}), ("", {"dot": True}), ("own", {"compress": True}), ("torch", {})],
)
def test_idx(name, folder, options, tmp_path):
    names = {"": "", "own": SOURCES[name].folders[0], "torch": SOURCES[name].folders[-1]}
    write_idx(tmp_path / names[folder], raw(name), **options)
    check(data.load(name, tmp_path), name, raw(name))


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("version", ["python", "binary"])
@pytest.mark.parametrize("place", ["folder", "parent", "archive", "archive in folder"])
def test_cifar(name, version, place, tmp_path):
    arrays, source = raw(name), SOURCES[name]
    official = next(a for a in source.archives if version in a)
    folder = next(f for f in source.folders if ("bin" in f) == (version == "binary"))
    if "archive" in place:
        write_archive(tmp_path / official, cifar_files(name, arrays, version), folder)
    else:
        write_cifar(tmp_path / folder, name, arrays, version)
    path = {"folder": tmp_path / folder, "archive": tmp_path / official}.get(place, tmp_path)
    check(data.load(name, str(path)), name, arrays)


@pytest.mark.parametrize("name", [*GREY, *CIFAR])
def test_npz_by_name(name, tmp_path):
    arrays = raw(name)
    if name == "mnist":  # as Keras' file: no channel axis
        arrays |= {key: arrays[key][..., 0] for key in ("x_train", "x_test")}
    if name == "cifar100":  # as Keras gives labels
        arrays |= {key: arrays[key][:, None].astype(np.int64) for key in ("y_train", "y_test")}
    np.savez_compressed(tmp_path / f"{name}_part.npz", **arrays)
    np.savez_compressed(tmp_path / "cifar1000.npz", x=1)
    for path in (tmp_path, tmp_path / f"{name}_part.npz"):
        check(data.load(name, path), name, raw(name))


def test_our_pickle_is_what_numpy_writes():
    """The writer above is read by Python's own unpickler, and ours reads Python 3's pickles."""
    images, labels = raw("cifar10")["x_train"], raw("cifar10")["y_train"]
    content = python_batch("cifar10", images, labels)
    plain = pickle.loads(content, encoding="bytes")
    np.testing.assert_array_equal(plain[b"data"], rows(images))
    np.testing.assert_array_equal(plain[b"labels"], labels)
    ours = unpickle_arrays(content, "x")
    np.testing.assert_array_equal(ours["data"], rows(images))
    for array in (rows(images), np.asfortranarray(rows(images))):
        ours = unpickle_arrays(pickle.dumps({"data": array, "labels": labels.tolist()}, protocol=4), "x")
        np.testing.assert_array_equal(ours["data"], array)


def test_validation_images_are_always_the_same(tmp_path):
    write_idx(tmp_path, raw("mnist", train=200))
    first, again = data.load("mnist", tmp_path), data.load("mnist", tmp_path)
    np.testing.assert_array_equal(first.x_val, again.x_val)
    assert len(np.unique(first.y_val)) > 5


def test_load_makes_no_second_copy_in_another_type(tmp_path):
    """The peak holds the bytes of the file, of the arrays, and of their split, beside the float32 images."""
    arrays = raw("cifar10", train=4000, test=1000)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    size = sum(array.nbytes for array in arrays.values())
    tracemalloc.start()
    loaded = data.load("cifar10", tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loaded.x_train.nbytes == 3600 * 3072 * 4
    assert peak < 1.1 * (4 + 2) * size


def test_class_names():
    assert [len(SOURCES[name].class_names) for name in (*GREY, *CIFAR)] == [10, 10, 10, 100]
    names = SOURCES["cifar100"].class_names
    assert list(names) == sorted(names)
    assert len(set(names)) == 100
    assert SOURCES["cifar10"].class_names.index("frog") == 6


# Pickles with foreign code.


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def poison(marker):
    """Pickles that run a command, by every door, if they are let."""
    command = f"touch {marker}"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.dumps({"data": Evil(os.system, command), "labels": []}, protocol)
        yield pickle.dumps({"data": Evil(eval, f"open({str(marker)!r}, 'w')")}, protocol)
    yield pickle.dumps({"data": Evil(getattr, "text", "upper")})
    yield f"cos\nsystem\n(S'{command}'\ntR.".encode()
    yield f"(S'{command}'\nios\nsystem\n.".encode()  # INST
    yield f"(cos\nsystem\nS'{command}'\no.".encode()  # OBJ
    yield f"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c{chr(len(command))}{command}\x85R.".encode("latin-1")
    yield b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x08__code__U\x01xs\x86b."  # changes a stand-in
    yield b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R."  # an array of objects is a pickle in a pickle
    yield pickle.dumps({"data": np.array([Evil(os.system, command)], object)}, 2)
    yield b"\x80\x02cnumpy\nfromfile\n."
    yield b"\x80\x02cbuiltins\nexec\n."


def test_no_pickle_runs_code(tmp_path):
    marker = tmp_path / "marker"
    pickles = list(poison(marker))
    assert len(pickles) > 15
    for content in pickles:
        with pytest.raises(ValueError, match="pickle of plain data"):
            unpickle_arrays(content, "data_batch_1")
    assert not marker.exists()
    pickle.loads(pickles[0])  # and the poison is one
    assert marker.exists()


def test_foreign_code_in_a_data_set_is_named(tmp_path):
    write_cifar(tmp_path, "cifar10", raw("cifar10"))
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({"data": Evil(os.system, f"touch {tmp_path}/marker")}))
    with pytest.raises(ValueError, match=r"data_batch_3.*system, which was not run"):
        data.load("cifar10", tmp_path)
    np.savez(tmp_path / "objects.npz", **raw("mnist") | {"x_train": np.array([Evil(os.system, "true")], object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        data.from_npz(tmp_path / "objects.npz")
    assert not (tmp_path / "marker").exists()


def test_lying_arrays_are_refused():
    content = python_batch("cifar10", raw("cifar10")["x_train"], raw("cifar10")["y_train"])
    shape = struct.pack("<i", 50) + b"J" + struct.pack("<i", 3072)
    assert shape in content
    for lie in (struct.pack("<i", 51) + shape[4:], struct.pack("<i", -50) + shape[4:]):
        with pytest.raises(ValueError, match="an array of shape"):
            unpickle_arrays(content.replace(shape, lie), "x")
    with pytest.raises(ValueError, match="remembered values"):
        unpickle_arrays(b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".", "x")
    with pytest.raises(ValueError, match="foreign instruction BYTEARRAY8"):
        unpickle_arrays(b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.", "x")
    with pytest.raises(ValueError, match="instead of bytes"):
        unpickle_arrays(content.replace(b"U\x02u1", b"U\x02f8"), "x")


@pytest.mark.parametrize("cut", [0, 1, 2, 100, -1])
def test_truncated_pickle(cut):
    content = python_batch("cifar10", raw("cifar10")["x_train"], raw("cifar10")["y_train"])
    with pytest.raises(ValueError, match="pickle of plain data"):
        unpickle_arrays(content[:cut], "data_batch_1")


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"data": rows(raw("cifar10")["x_train"]), "fine_labels": [0] * 50}, "looks like cifar100"),
        ({"data": rows(raw("cifar10")["x_train"])}, r"Received \['data'\]"),
        ({"data": [1], "labels": [0]}, "bytes of shape"),
        ({"data": np.zeros((5, 100), np.uint8), "labels": [0] * 5}, r"Received \(5, 100\)"),
        ({"data": np.zeros((5, 3072), np.uint8), "labels": [0] * 4}, r"5 class ids.*shape \(4,\)"),
        ({"data": np.zeros((5, 3072), np.uint8), "labels": [0, 1, 2, 3, 10]}, "0 to 9.*0 to 10"),
        ({"data": np.zeros((5, 3072), np.uint8), "labels": [0, 1, 2, 3, -1]}, "-1 to 3"),
        ({"data": np.zeros((5, 3072), np.uint8), "labels": "abcde"}, "list of whole numbers"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "bytes of shape"),
    ],
)
def test_bad_python_batches(entries, text):
    with pytest.raises(ValueError, match=text):
        read_pickles([("data_batch_1", pickle.dumps(entries, protocol=4))], "labels", 10)
    with pytest.raises(ValueError, match="dictionary"):
        unpickle_arrays(pickle.dumps([1]), "data_batch_1")


# Bad files.


def spoil_idx(name, change):
    def spoil(folder):
        write_idx(folder, raw("mnist"))
        file = folder / name
        file.write_bytes(change(file.read_bytes()))

    return spoil


def spoil_gzip(folder):
    write_idx(folder, raw("mnist"), compress=True)
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-1000])


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (spoil_idx(IMAGES, lambda c: b"\x00\x00\x08\x01" + c[4:]), "begins with 00000803.*begin with 00000801"),
        (spoil_idx(IMAGES, lambda c: b"\x00\x00\x0d\x03" + c[4:]), "begin with 00000d03"),
        (spoil_idx(IMAGES, lambda c: b"<html>not found</html>"), "begins with 00000803"),
        (spoil_idx(IMAGES, lambda c: b""), "begin with nothing"),
        (spoil_idx(IMAGES, lambda c: c[:10]), "Received 10 bytes"),
        (spoil_idx(IMAGES, lambda c: c[:-1]), r"39200 bytes.*Received 39199"),
        (spoil_idx(IMAGES, lambda c: c + b"\x00"), r"39200 bytes.*Received 39201"),
        (spoil_idx(IMAGES, lambda c: idx(np.zeros((5, 32, 32), np.uint8))), "28x28"),
        (spoil_idx(IMAGES, lambda c: idx(np.zeros((0, 28, 28), np.uint8))), "28x28"),
        (spoil_idx(LABELS, lambda c: idx(np.zeros(49, np.uint8))), "50 class ids"),
        (spoil_idx(LABELS, lambda c: c[:-1] + b"\x0a"), "0 to 9 in .*train-labels-idx1-ubyte. Received 0 to 10"),
        (spoil_gzip, "truncated"),
    ],
)
def test_bad_idx(spoil, text, tmp_path):
    spoil(tmp_path)
    with pytest.raises(ValueError, match=text):
        data.load("mnist", tmp_path)


def test_bad_binary_batches(tmp_path):
    write_cifar(tmp_path, "cifar10", raw("cifar10"), "binary")
    file = tmp_path / "data_batch_2.bin"
    good = file.read_bytes()
    for content, text in [
        (good[:-1], "records of 3073 bytes"),
        (b"", "Received 0 bytes"),
        (b"\xff" + good[1:], "class ids of 0 to 9 in labels of .*data_batch_2.bin"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=text):
            data.load("cifar10", tmp_path)


@pytest.mark.parametrize("size", [0, 100, -500])
def test_truncated_archive(size, tmp_path):
    file = tmp_path / "cifar-100-python.tar.gz"
    write_archive(file, cifar_files("cifar100", raw("cifar100")))
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=re.escape(str(file))):
        data.load("cifar100", file)


def test_archive_of_another_data_set(tmp_path):
    file = tmp_path / "cifar-10-python.tar.gz"
    write_archive(file, cifar_files("cifar100", raw("cifar100")))
    with pytest.raises(ValueError, match=r"data_batch_1.*Received \[\]"):
        data.load("cifar10", file)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x_train": None}, r"lacks \['x_train'\]"),
        ({"y_test": None}, r"lacks \['y_test'\]"),
        ({"x_train": np.zeros((50, 3072), np.uint8)}, "n, height, width"),
        ({"x_train": np.zeros((50, 16, 16, 3), np.uint8)}, r"\(32, 32, 3\)"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8)}, "n >= 1"),
        ({"x_train": np.full((50, 32, 32, 3), 256, np.int32)}, "0 to 255.*int32"),
        ({"x_train": np.full((50, 32, 32, 3), 200.0, np.float32)}, "0 to 1"),
        ({"x_train": np.full((50, 32, 32, 3), np.nan, np.float32)}, "nan"),
        ({"x_train": np.full((50, 32, 32, 3), "a")}, "numbers"),
        ({"y_train": np.zeros(49, np.uint8)}, "50 class ids"),
        ({"y_train": np.eye(10)[np.zeros(50, int)]}, "argmax"),
        ({"y_train": np.full(50, 10)}, "0 to 9"),
        ({"y_train": np.full(50, -1)}, "-1"),
        ({"y_train": np.full(50, 0.5)}, "whole numbers"),
        ({"y_train": np.full(50, np.nan)}, "whole numbers"),
        ({"y_train": np.full(50, "cat")}, "whole numbers"),
        ({"x_val": np.zeros((5, 32, 32, 3), np.uint8)}, "both of"),
        ({"x_train": np.zeros((1, 32, 32, 3), np.uint8), "y_train": np.zeros(1)}, "at least 2 training images"),
    ],
)
def test_bad_npz(change, text, tmp_path):
    arrays = {key: value for key, value in (raw("cifar10") | change).items() if value is not None}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    with pytest.raises(ValueError, match=text):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_files_that_are_no_npz(content, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"npz file.*x\.npz"):
        data.from_npz(tmp_path / "x.npz")


def test_truncated_npz(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **raw("cifar10"))
    content = (tmp_path / "x.npz").read_bytes()
    damaged = bytearray(content)
    damaged[2000:2100] = bytes(100)
    for wrong in (content[:-100], content[:5000], bytes(damaged)):
        (tmp_path / "x.npz").write_bytes(wrong)
        with pytest.raises(ValueError, match="npz file"):
            data.from_npz(tmp_path / "x.npz")


def test_a_single_array_is_no_data_set(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="single array"):
        data.from_npz(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("name", "near"), [("cifar-10", "cifar10"), ("minst", "mnist"), ("fashion-mnist", "fashion_mnist"), (3, "digits")]
)
def test_unknown_names(name, near):
    with pytest.raises(ValueError, match=near):
        data.load(name)


def test_wrong_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data.load("cifar10", tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"cifar-10-python.tar.gz.*data_batch_1"):
        data.load("cifar10", tmp_path)
    write_cifar(tmp_path, "cifar10", raw("cifar10"))
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match="lacks data_batch_4"):
        data.load("cifar10", tmp_path)
    write_cifar(tmp_path / "other", "cifar100", raw("cifar100"))
    with pytest.raises(FileNotFoundError, match="It holds 'cifar100'"):
        data.load("cifar10", tmp_path / "other")
    with pytest.raises(ValueError, match="Give the folder"):
        data.load("cifar10", tmp_path / "data_batch_1")
    with pytest.raises(ValueError, match="no path"):
        data.load("digits", tmp_path)
    for number in (1, 2):
        np.savez(tmp_path / f"mnist_{number}.npz", **raw("mnist"))
    with pytest.raises(ValueError, match=r"mnist_1.npz.*mnist_2.npz"):
        data.load("mnist", tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_file(tmp_path):
    write_idx(tmp_path, raw("mnist"))
    (tmp_path / IMAGES).chmod(0)
    with pytest.raises(PermissionError, match=IMAGES):
        data.load("mnist", tmp_path)


# The cache and the download.


def test_keras_cache(home, monkeypatch, tmp_path):
    np.savez(home / "mnist.npz", **raw("mnist"))
    write_idx(home / "fashion-mnist", raw("fashion_mnist", 1), compress=True)
    write_cifar(home / "cifar-10-batches-py", "cifar10", raw("cifar10"))
    write_cifar(home / "cifar-100-python-target/cifar-100-python", "cifar100", raw("cifar100"))
    monkeypatch.setattr(keras.utils, "get_file", lambda *args, **kwargs: pytest.fail("downloaded"))
    for name, seed in (("mnist", 0), ("fashion_mnist", 1), ("cifar10", 0), ("cifar100", 0)):
        check(data.load(name), name, raw(name, seed))
    moved = tmp_path / "moved"
    (home.parent).rename(moved)
    monkeypatch.setenv("KERAS_HOME", str(moved))
    check(data.load("mnist"), "mnist", raw("mnist"))


def test_download(home, tmp_path, monkeypatch):
    """Keras' own download, from files instead of the network, puts them where Keras and `load` find them."""
    server = tmp_path / "server"
    write_idx(server, raw("fashion_mnist"), compress=True)
    write_archive(server / "cifar-10-python.tar.gz", cifar_files("cifar10", raw("cifar10")))
    for name in ("fashion_mnist", "cifar10"):
        parts = [
            dataclasses.replace(part, url=(server / Path(part.url).name).as_uri(), sha256=None)
            for part in SOURCES[name].downloads
        ]
        monkeypatch.setitem(SOURCES, name, dataclasses.replace(SOURCES[name], downloads=tuple(parts)))
        check(data.load(name), name, raw(name))
    assert len(list((home / "fashion-mnist").glob("*.gz"))) == 4
    assert (home / "cifar-10-batches-py.tar.gz").exists()
    for file in server.iterdir():
        file.unlink()
    check(data.load("cifar10"), "cifar10", raw("cifar10"))


@pytest.mark.parametrize("name", [*GREY, *CIFAR])
def test_offline(name, home, monkeypatch):
    def offline(*args, **kwargs):
        raise Exception("URL fetch failure on somewhere: None -- Name or service not known")

    monkeypatch.setattr(keras.utils, "get_file", offline)
    with pytest.raises(FileNotFoundError) as caught:
        data.load(name)
    text = str(caught.value)
    assert "Name or service not known" in text
    assert describe(SOURCES[name]) in text
    assert str(home) in text
    assert SOURCES[name].downloads[0].url in text


def test_downloads_are_those_of_keras():
    """Addresses and checksums as in Keras' own loaders, so that one cache serves both."""
    for name, source in SOURCES.items():
        loader = Path(sys.modules[getattr(keras.datasets, name).load_data.__module__].__file__).read_text()
        for part in source.downloads:
            assert part.sha256 is None or part.sha256 in loader
            assert part.url.rpartition("/")[2] in loader
            assert part.url.rpartition("/")[0] in loader


def test_loading_needs_no_tensorflow(tmp_path):
    write_cifar(tmp_path, "cifar10", raw("cifar10"))
    script = (
        f"import sys, keras_esq as esq; esq.data.load('cifar10', {str(tmp_path)!r}); "
        "print([m for m in ('tensorflow', 'keras', 'tf_keras', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr[-1000:]


# .npz files of the user.


def test_from_npz(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.random((30, 6, 5, 2)),
        "y_train": np.arange(30) % 3,
        "x_val": rng.random((4, 6, 5, 2), np.float32),
        "y_val": np.array([[0], [1], [2], [0]]),
        "x_test": rng.random((6, 6, 5, 2)),
        "y_test": np.arange(6.0) % 3,
    }
    np.savez(tmp_path / "mine.npz", **arrays, class_names=["a", "b", "c"])
    mine = data.from_npz(tmp_path / "mine.npz")
    assert (mine.name, mine.class_names, mine.input_shape) == ("mine", ("a", "b", "c"), (6, 5, 2))
    np.testing.assert_allclose(mine.x_train, arrays["x_train"], rtol=1e-6)
    np.testing.assert_array_equal(mine.x_val, arrays["x_val"])
    np.testing.assert_array_equal(mine.y_val, [0, 1, 2, 0])
    assert {a.dtype.name for a in (mine.x_train, mine.x_val, mine.x_test)} == {"float32"}
    np.savez(tmp_path / "mine.npz", **arrays)
    assert data.from_npz(tmp_path / "mine.npz").class_names == ("0", "1", "2")
    for names, text in ((["a", "b"], "0 to 1"), ([1, 2, 3], "list of text")):
        np.savez(tmp_path / "mine.npz", **arrays, class_names=names)
        with pytest.raises(ValueError, match=text):
            data.from_npz(tmp_path / "mine.npz")
    np.savez(tmp_path / "mine.npz", **arrays | {key: arrays[key] * 0 for key in ("y_train", "y_val", "y_test")})
    with pytest.raises(ValueError, match="at least 2 classes"):
        data.from_npz(tmp_path / "mine.npz")
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        data.from_npz(tmp_path / "nothing.npz")
    with pytest.raises(OSError, match="folder"):
        data.from_npz(tmp_path)


# Image folders.


def write_image(path, value=100, size=(6, 5), kind="png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), value, np.uint8)
    encode = {"png": tf.io.encode_png, "jpg": tf.io.encode_jpeg}[kind]
    path.write_bytes(encode(image).numpy())


def write_folder(root, counts, size=(6, 5), start=0):
    for label, (name, count) in enumerate(counts.items()):
        for i in range(count):
            write_image(root / name / f"{i:03}.png", start + 50 * label + i, size)


def test_from_folder_draws_the_splits(tmp_path):
    write_folder(tmp_path / "pets", {"cat": 20, "dog": 10})
    (tmp_path / "pets/.hidden").mkdir()
    (tmp_path / "pets/cat/notes.txt").write_text("no image")
    (tmp_path / "pets/cat/.thumb.png").write_text("no image")
    pets = data.from_folder(tmp_path / "pets")
    assert (pets.name, pets.class_names, pets.input_shape, pets.bounds) == ("pets", ("cat", "dog"), (6, 5, 3), (0, 1))
    assert [np.bincount(y).tolist() for y in (pets.y_train, pets.y_val, pets.y_test)] == [[15, 7], [1, 1], [4, 2]]
    for x, y in ((pets.x_train, pets.y_train), (pets.x_val, pets.y_val), (pets.x_test, pets.y_test)):
        assert x.dtype == np.float32
        np.testing.assert_array_equal((x[:, 0, 0, 0] * 255).round() // 50, y)
    values = np.concatenate([pets.x_train, pets.x_val, pets.x_test])[:, 0, 0, 0] * 255
    assert sorted(values.round().tolist()) == [*range(20), *range(50, 60)]
    again = data.from_folder(str(tmp_path / "pets"))
    np.testing.assert_array_equal(again.x_test, pets.x_test)


def test_from_folder_with_splits(tmp_path):
    write_folder(tmp_path / "train", {"a": 10, "b": 10})
    write_folder(tmp_path / "test", {"a": 3, "b": 2}, start=20)
    drawn = data.from_folder(tmp_path)
    assert [len(y) for y in (drawn.y_train, drawn.y_val, drawn.y_test)] == [18, 2, 5]
    write_folder(tmp_path / "val", {"a": 1, "b": 1}, start=30)
    given = data.from_folder(tmp_path)
    assert [len(y) for y in (given.y_train, given.y_val, given.y_test)] == [20, 2, 5]
    np.testing.assert_allclose(given.x_val[:, 0, 0, 0] * 255, [30, 80], rtol=1e-6)
    write_folder(tmp_path / "val", {"c": 1})
    with pytest.raises(ValueError, match=r"'val'.*\['c'\]"):
        data.from_folder(tmp_path)


def test_from_folder_resizes(tmp_path):
    for name, value in (("a", 255), ("b", 0)):
        for i, (size, kind) in enumerate([((6, 5), "png"), ((9, 12), "jpg"), ((30, 20), "png")]):
            write_image(tmp_path / name / f"{i}.{kind}", value, size, kind)
    grey = data.from_folder(tmp_path, image_size=(8, 7), channels=1)
    assert grey.input_shape == (8, 7, 1)
    x, y = np.concatenate([grey.x_train, grey.x_test]), np.concatenate([grey.y_train, grey.y_test])
    assert (x >= 0).all()
    assert (x <= 1).all()
    np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), 1 - y, atol=1e-6)
    with pytest.raises(ValueError, match="image_size"):
        data.from_folder(tmp_path)


MODES = {"png": ("RGB", "L", "P", "1", "RGBA", "LA"), "jpg": ("RGB", "L", "CMYK"), "bmp": ("RGB", "L", "P", "RGBA")}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "mode"), [*((k, m) for k in MODES for m in MODES[k]), ("gif", "P"), ("gif", "L")])
def test_from_folder_reads_what_pillow_writes(kind, mode, channels, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    colours = pillow.fromarray(np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8))
    for i in range(8):
        path = tmp_path / "ab"[i % 2] / f"{i}.{kind}"
        path.parent.mkdir(exist_ok=True)
        colours.convert(mode).save(path)
    images = data.from_folder(tmp_path, channels=channels).x_train
    with pillow.open(path) as image:
        expected = np.asarray(image.convert("RGB" if channels == 3 else "L"), np.float32).reshape(8, 10, channels)
    # Libraries round JPEG's colours and shares of grey differently.
    np.testing.assert_allclose(images[0] * 255, expected, atol=3.5 if kind == "jpg" else 1.1)


def compressed(folder):
    write_folder(folder, {"a": 5, "b": 5})
    header = b"BM" + struct.pack("<IHHI", 1078, 0, 0, 1078) + struct.pack("<IiiHHI", 40, 4, 4, 1, 8, 1) + bytes(20)
    (folder / "a/004.bmp").write_bytes(header + bytes(1024 + 16))


def broken(folder):
    write_folder(folder, {"a": 5, "b": 5})
    (folder / "b/000.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("make", "options", "error", "text"),
    [
        (lambda f: None, {}, ValueError, r"at least 2 classes.*Received \[\]"),
        (lambda f: write_folder(f, {"a": 5}), {}, ValueError, r"at least 2 classes.*\['a'\]"),
        (lambda f: [write_folder(f, {"a": 5, "b": 5}), (f / "c").mkdir()], {}, ValueError, r"none in \['c'\]"),
        (lambda f: write_folder(f, {"a": 5, "b": 2}), {}, ValueError, "at least 3 images.*b'"),
        (lambda f: write_folder(f, {"a": 5, "b": 1}), {}, ValueError, "at least 3 images.*b'"),
        (broken, {}, ValueError, r"b/000\.png.*Remove or replace"),
        (compressed, {}, ValueError, r"a/004\.bmp.*compressed.*PNG"),
        (lambda f: f.rmdir(), {}, FileNotFoundError, "does not exist"),
        (lambda f: [f.rmdir(), f.write_text("")], {}, FileNotFoundError, "is a file"),
        (lambda f: None, {"channels": 4}, ValueError, "channels"),
        (lambda f: None, {"image_size": 32}, TypeError, "height, width"),
        (lambda f: None, {"image_size": (0, 3)}, ValueError, "image_size"),
        (lambda f: None, {"image_size": (3.5, 3)}, TypeError, "image_size"),
    ],
)
def test_bad_folders(make, options, error, text, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    make(folder)
    with pytest.raises(error, match=text):
        data.from_folder(folder, **options)


# What the command line is given.


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "files", raw("mnist"))
    write_folder(tmp_path / "pets", {"cat": 5, "dog": 5})
    write_folder(tmp_path / "digits", {"cat": 5, "dog": 5})
    np.savez(tmp_path / "mine.npz", **raw("cifar10"))
    assert data.resolve("digits").classes == 10
    assert data.resolve("./digits").classes == 2
    check(data.resolve("mnist", "files"), "mnist", raw("mnist"))
    assert data.resolve("pets", image_size=(4, 4), channels=1).input_shape == (4, 4, 1)
    assert data.resolve(str(tmp_path / "mine.npz")).name == "mine"
    (tmp_path / "x.txt").write_text("")
    for arguments, options, text in [
        (("cifar",), {}, "neither a name nor a path.*Did you mean 'cifar10'"),
        (("nothing/here",), {}, "neither a name"),
        (("x.txt",), {}, "file of another kind"),
        (("pets", "files"), {}, "with the path 'files'"),
        (("mnist", "files"), {"image_size": (3, 3)}, "folder of images only"),
        (("mine.npz",), {"image_size": (3, 3)}, "folder of images only"),
        (("digits",), {"channels": 1}, "channels for a folder of images only"),
    ]:
        with pytest.raises(ValueError, match=text):
            data.resolve(*arguments, **options)
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        data.resolve("nothing.npz")


# Pipelines.


def numbered(n=10, size=8):
    """Images whose pixels tell which image they are."""
    return np.broadcast_to(
        np.arange(1, n + 1, dtype=np.float32)[:, None, None, None] / 100, (n, size, size, 3)
    ), np.arange(n)


def epochs(dataset, n, batch_size, count):
    """[(images, labels) of an epoch]."""
    steps = data.steps_per_epoch(n, batch_size)
    batches = list(dataset.take(count * steps).as_numpy_iterator())
    parts = [batches[i * steps : (i + 1) * steps] for i in range(count)]
    return [tuple(np.concatenate(arrays) for arrays in zip(*part, strict=True)) for part in parts]


def test_every_epoch_has_every_image_in_another_order():
    x, y = numbered()
    three = epochs(data.pipeline(x, y, 4, seed=3), 10, 4, 3)
    for images, labels in three:
        assert sorted(labels) == list(range(10))
        np.testing.assert_array_equal(images[:, 0, 0, 0], x[labels, 0, 0, 0])
    assert len({tuple(labels) for _, labels in three}) == 3
    assert images.dtype == np.float32


@pytest.mark.parametrize("augment", list(AUGMENTATIONS))
def test_an_epoch_depends_on_seed_and_number_alone(augment):
    x, y = np.random.default_rng(0).random((10, 8, 8, 3), np.float32), np.arange(10)
    whole = epochs(data.pipeline(x, y, 4, augment=augment, seed=5), 10, 4, 4)
    later = epochs(data.pipeline(x, y, 4, augment=augment, seed=5, first_epoch=2), 10, 4, 2)
    other = epochs(data.pipeline(x, y, 4, augment=augment, seed=6), 10, 4, 4)
    for (images, labels), (again, labels_again) in zip(whole[2:], later, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, labels_again)
    assert [tuple(labels) for _, labels in whole] != [tuple(labels) for _, labels in other]


def test_every_order_is_as_likely():
    """Each image at each place as often: chi-squared with 81 degrees of freedom, 99.9 % quantile 126."""
    x, y = numbered()
    orders = [labels for _, labels in epochs(data.pipeline(x, y, 10, seed=1), 10, 10, 500)]
    counts = np.stack([np.bincount(column, minlength=10) for column in np.transpose(orders)])
    assert ((counts - 50) ** 2 / 50).sum() < 126


def test_crops_and_flips_are_those_of_the_paper():
    """Each image is one of the (2 pad + 1)^2 parts of the padded one, or its mirror image; all are drawn."""
    image = np.random.default_rng(0).random((1, 5, 4, 2), dtype=np.float32)
    padded = np.pad(image[0], [(2, 2), (2, 2), (0, 0)])
    parts = {
        part[:, ::step].tobytes(): (i, j, step)
        for i in range(5)
        for j in range(5)
        for step in (1, -1)
        for part in [padded[i : i + 5, j : j + 4]]
    }
    assert len(parts) == 50
    out = augmented(tf.repeat(tf.constant(image), 2000, axis=0), Augmentation(pad=2), tf.constant([1, 2])).numpy()
    drawn = [parts[image.tobytes()] for image in out]
    counts = np.array([drawn.count(part) for part in set(parts.values())])
    assert ((counts - 40) ** 2 / 40).sum() < 85  # chi-squared with 49 degrees of freedom, 99.9 % quantile
    flipped = augmented(tf.constant(image), Augmentation(pad=0, flip=True), tf.constant([1, 2])).numpy()
    assert flipped.tobytes() in {image.tobytes(), image[:, :, ::-1].tobytes()}
    same = augmented(tf.constant(image), AUGMENTATIONS["none"], tf.constant([1, 2]))
    np.testing.assert_array_equal(same, image)


def test_labels_may_be_rows():
    x, y = numbered()
    (images, labels), *_ = epochs(data.pipeline(x, np.eye(10, dtype=np.float32)[y], 4), 10, 4, 1)
    np.testing.assert_array_equal(labels.argmax(axis=1), np.rint(images[:, 0, 0, 0] * 100) - 1)
    assert data.pipeline(x, y, 4).element_spec[0].shape.as_list() == [None, 8, 8, 3]


def test_training_continues_to_the_same_weights(tmp_path):
    """Invariant 6, with the pipeline: two epochs, and one more after one, end in the same weights."""
    x = np.random.default_rng(0).random((12, 8, 8, 3), dtype=np.float32)
    y = np.arange(12) % 3

    def model():
        keras.utils.set_random_seed(1)
        low_bit = esq.quantize_model(esq.models.small_cnn((8, 8, 3), classes=3, width=2), "ternary")
        attack = esq.attacks.FGSM(eps=0.1)
        built = esq.ErrorSilencedModel(low_bit, attack=attack, seed=1)
        built.compile("sgd", "sparse_categorical_crossentropy")
        return built

    def fit(one, first, last):
        batches = data.pipeline(x, y, 5, augment="crop_flip", seed=7, first_epoch=first)
        steps = data.steps_per_epoch(len(x), 5)
        one.fit(batches, steps_per_epoch=steps, initial_epoch=first, epochs=last, verbose=0)

    whole, first = model(), model()
    fit(whole, 0, 2)
    fit(first, 0, 1)
    first.save(tmp_path / "first.keras")
    second = esq.load_model(tmp_path / "first.keras")
    fit(second, 1, 2)
    for one, other in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((np.zeros((0, 8, 8, 3)), []), {}, ValueError, "n >= 1"),
        ((np.zeros((3, 8, 8, 3)), [0, 1]), {}, ValueError, "3 in all"),
        ((np.zeros((3, 8, 8, 3)), ["a", "b", "c"]), {}, TypeError, "numbers"),
        ((np.zeros((3, 8)), [0, 1, 2]), {"augment": "crop"}, ValueError, "to augment"),
        ((np.zeros((3, 8, 8, 3)), [0, 1, 2], 0), {}, ValueError, "batch_size"),
        ((np.zeros((3, 8, 8, 3)), [0, 1, 2], 1.5), {}, TypeError, "batch_size"),
        ((np.zeros((3, 8, 8, 3)), [0, 1, 2]), {"augment": "flip"}, ValueError, "Did you mean 'crop_flip'"),
        ((np.zeros((3, 8, 8, 3)), [0, 1, 2]), {"augment": True}, TypeError, "Augmentation"),
        ((np.zeros((3, 8, 8, 3)), [0, 1, 2]), {"seed": -1}, ValueError, "seed"),
        ((np.zeros((3, 8, 8, 3)), [0, 1, 2]), {"first_epoch": -1}, ValueError, "first_epoch"),
    ],
)
def test_bad_pipelines(arguments, options, error, text):
    with pytest.raises(error, match=text):
        data.pipeline(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "error"), [({"pad": -1}, ValueError), ({"pad": 0.5}, TypeError), ({"flip": 1}, TypeError)]
)
def test_bad_augmentations(options, error):
    with pytest.raises(error):
        Augmentation(**options)


def test_download_is_a_folder_or_a_file(home, monkeypatch):
    monkeypatch.setattr(
        keras.utils, "get_file", lambda name, url, cache_dir, cache_subdir, **_: f"{cache_dir}/{cache_subdir}/{name}"
    )
    assert download(SOURCES["mnist"]) == home / "mnist.npz"
    assert download(SOURCES["fashion_mnist"]) == home / "fashion-mnist"


# Bad files at random: whatever happens to them, they load or are refused, with the file's name.


def broken(content, rng, within):
    """`content` with one to three bytes changed among its first `within`, or its last if negative."""
    wrong = bytearray(content)
    for place in rng.integers(0, min(abs(within), len(wrong)), rng.integers(1, 4)):
        wrong[place if within > 0 else -1 - place] = rng.integers(0, 256)
    return bytes(wrong)


def npz_bytes(name, **change):
    file = io.BytesIO()
    np.savez_compressed(file, **{key: value[:8] for key, value in (raw(name) | change).items()})
    return file.getvalue()


@pytest.mark.parametrize("seed", range(3))
def test_changed_bytes_are_refused_or_harmless(seed, tmp_path):
    rng, mnist, cifar = np.random.default_rng(seed), raw("mnist"), raw("cifar10")
    images, labels = idx(mnist["x_train"][..., 0]), idx(mnist["y_train"])
    batch, saved = python_batch("cifar10", cifar["x_train"], cifar["y_train"]), npz_bytes("cifar10")

    def from_npz(content):
        (tmp_path / "some.npz").write_bytes(content)
        return data.from_npz(tmp_path / "some.npz")

    readers = [
        (images, 16, lambda content: read_idx_pair([("some", content), ("y", labels)], (28, 28), 10)),
        (gzip.compress(images), 40, lambda content: read_idx_pair([("some", content), ("y", labels)], (28, 28), 10)),
        (gzip.compress(images), -40, lambda content: read_idx_pair([("some", content), ("y", labels)], (28, 28), 10)),
        (labels, 12, lambda content: read_idx_pair([("x", images), ("some", content)], (28, 28), 10)),
        (batch, 200, lambda content: read_pickles([("some", content)], "labels", 10)),
        (batch, -400, lambda content: read_pickles([("some", content)], "labels", 10)),
        (saved, 400, from_npz),
        (saved, -600, from_npz),
    ]
    for content, within, read in readers:
        refused = []
        for _ in range(60):
            try:
                read(broken(content, rng, within))
            except ValueError as error:
                refused.append(str(error))
        assert len(refused) > 3
        # A number of images that is wrong shows in that of the labels.
        assert all(re.search("some|x_|y_|classes", text) for text in refused)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-8] + bytes([content[-8] ^ 1]) + content[-7:],  # the checksum
        lambda content: content[:-4] + b"\xff\xff\xff\x00",  # the length
        lambda content: content + b"garbage",
        lambda content: content[:20],
        lambda content: content[:2],
    ],
)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_damaged_gzip_files(name, change, tmp_path):
    write_idx(tmp_path, raw("mnist"), compress=True)
    file = tmp_path / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"{name.removesuffix('.gz')}.*gzip"):
        data.load("mnist", tmp_path)


def test_an_idx_header_that_promises_too_much(tmp_path):
    write_idx(tmp_path, raw("mnist"))
    file = tmp_path / IMAGES
    # More bytes than 64 bits count: no memory is asked for before that shows.
    file.write_bytes(b"\x00\x00\x08\x03" + b"\xff" * 12 + bytes(100))
    with pytest.raises(ValueError, match="79228162458924105385300197375 bytes"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("key", ["y_train", "x_test", "y_test", "x_val", "class_names"])
def test_objects_in_any_array_of_an_npz(key, tmp_path):
    marker = tmp_path / "marker"
    objects = np.array([Evil(os.system, f"touch {marker}")] * 8, object)
    content = npz_bytes("mnist", **{"x_val": raw("mnist")["x_test"], "y_val": raw("mnist")["y_test"], key: objects})
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        data.from_npz(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        data.resolve(str(tmp_path / "x.npz"))
    assert not marker.exists()
    np.load(tmp_path / "x.npz", allow_pickle=True)[key]  # and the poison is one
    assert marker.exists()
