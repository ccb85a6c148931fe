"""Data sets arrive as checked uint8 tensors, offline, or are refused in one sentence that says what to do."""

import re
import subprocess
import sys
import urllib.request
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from cl_tutor import data
from cl_tutor.data import Data, catalogue, digits, folder, load


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def pair(n=6, shape=(1, 4, 4), classes=3, dtype=np.uint8):
    return np.arange(n * int(np.prod(shape))).reshape(n, *shape).astype(dtype), np.arange(n) % classes


# -- digits ------------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_pixels_on_a_scale_to_255():
    from sklearn.datasets import load_digits

    d = digits()
    (x, y), (u, v) = d.train, d.test
    assert x.dtype == u.dtype == torch.uint8 and y.dtype == v.dtype == torch.int64
    assert x.shape == (1397, 1, 8, 8) and u.shape == (400, 1, 8, 8) and d.classes == 10
    rows = lambda a: sorted(map(bytes, a))
    original = np.rint(load_digits().images * 255 / 16).astype(np.uint8).reshape(-1, 64)
    assert rows(torch.cat([x, u]).flatten(1).numpy()) == rows(original)  # every image once: nothing lost, nothing twice
    assert x.max() == 255 and x.min() == 0


def test_digits_split_is_stratified_and_the_same_every_time():
    d, again = digits(), digits()
    share = torch.bincount(d.test[1]) / torch.bincount(torch.cat([d.train[1], d.test[1]]))
    assert (share - 400 / 1797).abs().max() < 0.005
    assert all(torch.equal(a, b) for a, b in zip(d.train + d.test, again.train + again.test))


def test_a_lesson_waits_for_neither_torchvision_nor_jsonschema():
    code = "import sys; from cl_tutor.data import *; load('digits'); catalogue(); import cl_tutor.widgets; "
    assert run_python(code + "print({'torchvision', 'jsonschema'} & {*sys.modules})") == "set()"


# -- torchvision's sets ------------------------------------------------------------------------------------------------


def test_torchvision_opens_whatever_its_state_and_says_which():
    assert run_python("from cl_tutor._torchvision import *; datasets().MNIST; print(state())") in ("real", "shimmed")


def test_the_cure_acts_after_the_known_symptom_only(monkeypatch, tmp_path):
    """A package that fails as torchvision does, unless the schema is there; and one that fails otherwise."""
    package = tmp_path / "torchvision"
    (package / "datasets").mkdir(parents=True)
    (package / "datasets" / "__init__.py").write_text("MNIST = 'opened'")
    ask = "import torch\ntorch.library.register_fake('torchvision::nms')(lambda *a: None)\n"
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from cl_tutor import _torchvision as t; "
    (package / "__init__.py").write_text(ask)
    assert run_python(code + "print(t.datasets().MNIST, t.state())") == "opened shimmed"
    (package / "__init__.py").write_text("")
    assert run_python(code + "print(t.datasets().MNIST, t.state())") == "opened real"
    (package / "__init__.py").write_text("raise RuntimeError('something else')")
    with pytest.raises(subprocess.CalledProcessError) as e:
        run_python(code + "t.datasets()")
    assert "something else" in e.value.stderr


def test_without_torchvision_the_remedy_is_named():
    code = "import sys; sys.modules['torchvision'] = None\nfrom cl_tutor import _torchvision as t\nprint(t.state())"
    assert run_python(code) == "absent"


def test_mnist_is_read_through_torchvision(shared_data):
    from cl_tutor import _torchvision

    d = load("mnist", shared_data)
    assert d.train[0].shape == (60000, 1, 28, 28) and d.train[0].dtype == torch.uint8 and d.test[0].shape[0] == 10000
    theirs = _torchvision.datasets().MNIST(shared_data, train=False)
    image, label = theirs[7]
    assert np.array_equal(np.asarray(image), d.test[0][7, 0]) and label == d.test[1][7]
    row = next(row for row in catalogue(shared_data) if row.name == "mnist")
    assert row.present and 54 < row.mb < 56


def test_an_absent_set_names_the_command_and_the_place_and_touches_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("load() used the network unasked"))
    monkeypatch.setenv("CL_TUTOR_DATA", str(tmp_path))
    for name in data.SOURCES:
        with pytest.raises(FileNotFoundError, match=f"cl-tutor data {name}") as e:
            load(name)
        assert str(tmp_path) in str(e.value)
    assert not list(tmp_path.iterdir())


def test_offline_the_download_fails_with_a_remedy(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    for name in data.SOURCES:
        with pytest.raises(ConnectionError, match=r"could not be fetched.*check the network"):
            load(name, tmp_path, download=True)


def test_a_truncated_file_is_called_damaged(tmp_path):
    for file in data.SOURCES["mnist"].files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"\0\0\x08\x03" + b"\0" * 7)
    with pytest.raises(ValueError, match=r"damaged.*delete them, then run `cl-tutor data mnist`"):
        load("mnist", tmp_path)


def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path):
    for file in data.SOURCES["cifar10"].files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"cos\nabort\n(tR.")  # would end this process
    with pytest.raises(ValueError, match="damaged"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_layouts_of_colour_sets_become_channels_first(name, tmp_path, monkeypatch):
    """Stand-ins with the real classes' attributes: CIFAR stores (N, 32, 32, 3) and a list, SVHN (N, 3, 32, 32)."""
    x = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)

    class Fake:
        def __init__(self, root, download, **split):
            assert not download and list(split) == (["split"] if name == "svhn" else ["train"])
            self.data = x.transpose(0, 3, 1, 2) if name == "svhn" else x
            self.targets = self.labels = list(range(10))

    module = type("datasets", (), {data.SOURCES[name].cls: Fake})
    monkeypatch.setattr(data._torchvision, "datasets", lambda: module)
    for file in data.SOURCES[name].files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    d = load(name, tmp_path)
    assert d.train[0].shape == (10, 3, 32, 32) and np.array_equal(d.train[0][3, 2], x[3, :, :, 2])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no data set 'minst': choose digits, mnist, .*folder:PATH"):
        load("minst")


def test_the_catalogue_has_every_set_with_size_licence_and_source(tmp_path):
    rows = catalogue(tmp_path)
    assert [r.name for r in rows] == ["digits", *data.SOURCES]
    assert [r.present for r in rows] == [True] + [False] * len(data.SOURCES)
    assert all(r.mb > 0 and r.licence and r.source for r in rows)


# -- a folder of images ------------------------------------------------------------------------------------------------


def images(root, classes=("cat", "dog"), n=10, size=(6, 4), mode="RGB"):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for k in range(n):
            Image.new(mode, size, (40 * c + k,) * len(mode)).save(root / name / f"{k:02}.png")
    return root


def test_a_folder_with_train_and_test_keeps_the_halves_apart(tmp_path):
    images(tmp_path / "train", n=5)
    images(tmp_path / "test", n=2)
    d = load(f"folder:{tmp_path}")
    assert d.train[0].shape == (10, 3, 4, 6) and d.test[0].shape == (4, 3, 4, 6) and d.train[0].dtype == torch.uint8
    assert d.train[0].is_contiguous()  # channels last, as files have them, would be another order of sums
    assert d.train[0][:, 0, 0, 0].tolist() == [*range(5), *range(40, 45)]  # the very pixels, in the order of names
    assert d.train[1].tolist() == [0] * 5 + [1] * 5 and d.test[1].tolist() == [0, 0, 1, 1]


def test_a_folder_of_classes_is_split_80_20_within_each_class_and_reproducibly(tmp_path):
    d, again = folder(images(tmp_path)), folder(tmp_path)
    assert torch.bincount(d.train[1]).tolist() == [8, 8] and torch.bincount(d.test[1]).tolist() == [2, 2]
    pixels = torch.cat([d.train[0], d.test[0]])[:, 0, 0, 0].tolist()
    assert sorted(pixels) == [*range(10), *range(40, 50)]
    assert torch.equal(d.train[0], again.train[0])


def test_grey_images_have_one_channel_and_beside_colour_three(tmp_path):
    assert folder(images(tmp_path / "grey", mode="L")).train[0].shape[1] == 1
    both = images(tmp_path / "both", mode="L")
    Image.new("RGB", (6, 4), (1, 2, 3)).save(both / "cat" / "colour.png")
    assert folder(both).train[0].shape[1] == 3


def test_other_files_and_hidden_folders_are_passed_over(tmp_path):
    images(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "cat" / "._00.png").write_bytes(b"x")
    assert len(folder(tmp_path).train[0]) == 16


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda p: (p / "dog" / "03.png").write_bytes(b"not a picture"), r"dog.03\.png cannot be read as an image"),
        (
            lambda p: (p / "dog" / "03.png").write_bytes((p / "dog" / "03.png").read_bytes()[:50]),
            r"03\.png cannot be read",
        ),
        (lambda p: Image.new("RGB", (9, 9)).save(p / "dog" / "03.png"), r"03\.png is 9x9 pixels, but .*00\.png is 6x4"),
        (lambda p: (p / "elk").mkdir(), "elk holds no image"),
        (lambda p: images(p / "train"), "has only train/CLASS"),
        (
            lambda p: (images(p / "train"), images(p / "test", ("cat", "elk"))),
            "same in train and test.*cat, dog and cat, elk",
        ),
        (lambda p: images(p, ("elk",), n=1), "elk holds one image"),
    ],
)
def test_a_spoilt_folder_is_refused_by_name(tmp_path, spoil, message):
    spoil(images(tmp_path))
    with pytest.raises(ValueError, match=message):
        folder(tmp_path)


def test_no_folder_and_no_classes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
        load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match=r"two or more class folders.*none"):
        folder(tmp_path)


def test_real_photographs(shared_data, tmp_path):
    """Three of each class of CIFAR-10 (JPEG copy)."""
    if not (shared_data / "cifar10_images.zip").is_file():
        pytest.skip("cifar10_images.zip is not beside MNIST")
    with zipfile.ZipFile(shared_data / "cifar10_images.zip") as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if re.search(r"/000[0-2]\.jpg$", name)])
    d = folder(tmp_path)
    assert d.classes == 10 and d.train[0].shape == d.test[0].shape == (30, 3, 32, 32)
    assert d.train[0].float().std() > 20  # photographs, not blanks


# -- bring your own ----------------------------------------------------------------------------------------------------


def test_arrays_tensors_and_data_sets_give_the_same_data():
    x, y = pair()
    X, Y = torch.from_numpy(x), torch.from_numpy(y)

    class Pictures(Dataset):  # as torchvision's own: a PIL image and an int
        def __len__(self):
            return len(y)

        def __getitem__(self, i):
            return Image.fromarray(x[i, 0]), int(y[i])

    for part in ((x, y), [x, list(y)], (X, Y), TensorDataset(X, Y), Pictures()):
        d = Data.of(part, part)
        assert torch.equal(d.train[0], X) and torch.equal(d.test[1], Y) and d.classes == 3 and d.name == "mine"


def test_colour_pictures_from_a_data_set_become_channels_first():
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    part = [(Image.fromarray(a), k % 2) for k, a in enumerate(x)]
    assert np.array_equal(Data.of(part, part).train[0], x.transpose(0, 3, 1, 2))


def test_types_in_memory():
    assert Data.of(pair(dtype=np.float64), pair(dtype=np.float32)).train[0].dtype == torch.float32
    assert Data.of(pair(shape=(4, 4), dtype=float), pair(shape=(4, 4), dtype=float)).train[0].dtype == torch.float32
    assert Data.of(pair(shape=(7,), dtype=float), pair(shape=(7,), dtype=float)).train[0].shape == (6, 7)
    assert Data.of(pair(shape=(4, 4)), pair(shape=(4, 4))).train[0].shape == (6, 1, 4, 4)


def test_bringing_your_own_data_leaves_it_alone():
    x, y = pair()
    before = x.copy()
    d = Data.of((x, y), (x, y))
    d.train[0].zero_()
    assert np.array_equal(x, before)


x, y = pair()
nan = np.where(np.arange(6) == 2, np.nan, 1.0)[:, None]


@pytest.mark.parametrize(
    "train, test, message",
    [
        ((x, y - 1), (x, y), "train: labels are whole numbers from 0, but y holds -1"),
        ((x, y * 0.5), (x, y), "y holds float64"),
        ((x, y * 2), (x, y), "no sample has the label 1, though labels go up to 4"),
        ((x, y), (x, y + 4), "test: the label 6 never occurs in train, whose last label is 2"),
        ((x, y), (x[..., :3], y), r"\(1, 4, 4\) uint8 in train but \(1, 4, 3\) uint8 in test"),
        ((x, y), (x.astype(float), y), "uint8 in train but .* float32 in test"),
        ((x, y[:5]), (x, y), r"shapes are \(6, 1, 4, 4\) and \(5,\)"),
        ((x[:0], y[:0]), (x, y), "one N of 1 or more"),
        ((x.astype(int), y), (x, y), "x is int64: make pixels uint8"),
        ((nan, y), (nan, y), "x holds nan"),
        ((x.reshape(6, 4, 4, 1), y), (x, y), "channels last"),
        (([["a"]], ["b"]), (x, y), "arrays of numbers"),
        (7, (x, y), "expected a pair .* or a torch Dataset"),
        ([(x[0], 0), (x[0, :, :2], 1), (x[0], 0)], (x, y), "x of one shape"),
    ],
)
def test_what_does_not_fit_is_named(train, test, message):
    with pytest.raises(ValueError, match=message):
        Data.of(train, test)
