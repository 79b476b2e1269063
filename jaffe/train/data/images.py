"""Image files as Caffe reads them: OpenCV's decoder, channels first and in the order blue, green, red."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaffe.netdef.errors import JaffeError, listed
from jaffe.train.data.dataset import Record

MOST_PIXELS = 2**27  # of one image: 11,585 x 11,585. A small file can state any size.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jpe", ".jp2")


def decode_image(content: bytes, color: bool | None = None) -> np.ndarray:
    """Pixels of an encoded image, (channels, height, width), uint8, BGR.

    Args:
        color: three channels or one, of 8 bits; ``None``: as many as the file has, transparency among them. With one or
            three, OpenCV turns photographs upright as their EXIF says; otherwise not.

    Raises:
        ValueError: it is no image, is cut off, or is larger than 2^27 pixels; or, with ``None``, has more than 8 bits a
            channel.
    """
    import cv2

    _check(content)
    flag = cv2.IMREAD_UNCHANGED if color is None else cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error as error:
        raise ValueError(f"OpenCV cannot decode the image: {error.err}") from None
    if pixels is None:
        raise ValueError("is not an image that OpenCV decodes, or is damaged")
    if pixels.dtype != np.uint8:
        raise ValueError(f"has pixels of {pixels.dtype}; expected 8 bits a channel")
    return channels_first(pixels)


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) as (C, H, W)."""
    import cv2

    if pixels.ndim == 2:
        return pixels[None]
    planes = np.empty((pixels.shape[2], *pixels.shape[:2]), pixels.dtype)
    cv2.split(pixels, list(planes))  # many times as fast as NumPy's transposition
    return planes


def resize_image(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, H, W) resized to (height, width) by OpenCV's bilinear interpolation, which does not smooth, as in Caffe."""
    import cv2

    if pixels.shape[1:] == size:
        return pixels
    height, width = size
    planes = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    resized = cv2.resize(planes, (width, height), interpolation=cv2.INTER_LINEAR)
    return channels_first(resized)


def image_size(content: bytes) -> tuple[int, int]:
    """Height and width that an image's header states. Raises ValueError when it has none."""
    if content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        return height, width
    if content[:2] == b"\xff\xd8":
        return _jpeg_size(content)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:  # reads the header only
            return image.height, image.width
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problem = "is not an image" if isinstance(error, UnidentifiedImageError) else f"is not an image: {error}"
        raise ValueError(problem) from None


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """From the frame header, which comes before the pixels: ITU-T T.81, B.2.2."""
    at = 2
    while at + 9 <= len(content):
        if content[at] != 0xFF:
            break
        marker = content[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[at + 5 : at + 9])
            return height, width
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            at += 2
        else:
            at += 2 + struct.unpack(">H", content[at + 2 : at + 4])[0]
    raise ValueError("is a JPEG without a frame header: cut off, or damaged")


def _check(content: bytes) -> None:
    """Raises ValueError for what OpenCV would take without a word, or at any price."""
    if not content:
        raise ValueError("is empty; expected an image")
    height, width = image_size(content)
    if height * width > MOST_PIXELS:
        raise ValueError(f"states {height} x {width} pixels; expected at most {MOST_PIXELS:,}")
    # Cut-off files: libjpeg fills what is missing with grey and says so on standard error only.
    if content[:2] == b"\xff\xd8" and content.rfind(b"\xff\xd9") < 0:
        raise ValueError("is a JPEG that is cut off: it has no end marker")


def paths_of(names: Sequence[str], listing: Path, root: str) -> list[str]:
    """Where the files of a list are: behind ``root``, which is written before each name as it is (Caffe's
    ``root_folder``, which so needs its slash); without it as they are, or, if the first one is not found from the
    current folder, beside the list."""
    beside = not root and not os.path.exists(names[0])
    return [str(listing.parent / name) if beside else root + name for name in names]


def read_regular(path: str | Path) -> bytes:
    """The bytes of a file, not of a pipe or a device, which may have no end. Raises JaffeError when there are none."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(file, "rb") as content:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(None, "is not a regular file")
            return content.read()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        problem = error.strerror if isinstance(error, OSError) else error
        raise JaffeError(f"{path}: cannot be read: {problem}") from None


class ImageFiles:
    """Images in files and their labels: fields ``data`` (C, H, W), uint8, BGR, and ``label``.

    Args:
        paths: of the images.
        labels: whole numbers, (items); or several of any kind for each image, (items, labels).
        size: (height, width) to resize to, bilinear without smoothing.
        color: three channels, or one.
        names: what messages and databases call the images, where not their paths.
        classes: names of the labels, where they are known.
    """

    def __init__(
        self, paths: Sequence[str], labels: np.ndarray, *, size: tuple[int, int] | None = None, color: bool = True,
        names: Sequence[str] | None = None, classes: Sequence[str] = (),
    ):
        self.paths = paths
        self.labels = labels
        self.size = size
        self.color = color
        self.names = paths if names is None else names
        self.classes = classes
        self.ragged = size is None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        try:
            pixels = decode_image(self.content(index), self.color)
        except ValueError as error:
            raise error if isinstance(error, JaffeError) else JaffeError(f"{self.paths[index]}: {error}") from None
        if self.size:
            pixels = resize_image(pixels, self.size)
        return {"data": pixels, "label": np.asarray(self.labels[index])}

    def content(self, index: int) -> bytes:
        """The file's bytes. Raises JaffeError when it cannot be read."""
        return read_regular(self.paths[index])

    def key(self, index: int) -> str:
        """The image's name in the list."""
        return self.names[index]

    def column(self, field: str) -> np.ndarray | None:
        """All labels; ``None`` for another field."""
        return self.labels if field == "label" else None


def read_image_list(
    path: Path, *, root: str = "", labels: int = 1, size: tuple[int, int] | None = None, color: bool = True
) -> ImageFiles:
    """A list of image files, a line ``path label`` each, as ImageData layers and ``convert_imageset`` read it.

    Args:
        root: see ``paths_of``.
        labels: numbers at the end of a line; several become a vector of float32.
        size, color: as ``ImageFiles`` has them.

    Raises:
        JaffeError: the list cannot be read, is empty, or a line ends in something else than its labels. A line without
            a space has label 0, as in Caffe.
    """
    names: list[str] = []
    found: list[list[float]] = []
    content = read_regular(path)
    if b"\0" in content:
        raise JaffeError(f"{path} is not text; expected lines: path label")
    # Names of files are bytes, which need not be UTF-8: as Python's own functions take them.
    for number, line in enumerate(os.fsdecode(content).split("\n"), 1):
        line = line.rstrip()
        if not line:
            continue
        name, *words = line.rsplit(" ", labels)
        if not words:
            words = ["0"] * labels
        try:
            values = [float(word) for word in words]
            if len(values) != labels or (labels == 1 and not (values[0].is_integer() and abs(values[0]) < 2**31)):
                raise ValueError
        except ValueError:
            wanted = "a whole number of 32 bits, the label" if labels == 1 else f"{labels} numbers, the labels"
            raise JaffeError(f"{path}:{number}: expected a path and {wanted}; found {line!r}") from None
        names.append(name.rstrip())
        found.append(values)
    if not names:
        raise JaffeError(f"{path} lists no images; expected lines: path label")
    paths = paths_of(names, path, root)
    array = np.array(found, np.float32) if labels > 1 else np.array(found, np.int64).ravel().astype(np.int32)
    return ImageFiles(paths, array, size=size, color=color, names=names)


def read_image_folder(
    folder: Path, split: str, *, size: tuple[int, int] | None = None, color: bool = True
) -> ImageFiles:
    """A folder with a sub-folder of images for each class; classes are numbered in the order of their names.

    Where it has a folder named as ``split`` (``val`` for ``test`` too), that is taken; classes are then those of its
    folder ``train``. Names that begin with a dot are passed over.

    Raises:
        JaffeError: there are no such images; or some of a class that there is none of to train on.
    """
    whole = folder
    for name in (split, "val") if split == "test" else (split,):
        if name and (folder / name).is_dir():
            folder = folder / name
            break
    classes = _folders(whole / "train" if folder != whole and (whole / "train").is_dir() else folder)
    if others := sorted(set(_folders(folder)) - set(classes)):
        raise JaffeError(f"{folder}: class {others[0]} is not in {whole / 'train'}, which has {listed(classes)}")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(str(file) for file in (folder / name).rglob("*")
                       if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file())
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise JaffeError(f"{folder}: expected a folder of images for each class; found "
                         + (f"{listed(classes)} without images" if classes else "no folders"))
    names = [str(Path(path).relative_to(folder)) for path in paths]
    return ImageFiles(paths, np.array(labels, np.int32), size=size, color=color, names=names, classes=classes)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
