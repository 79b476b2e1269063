"""Data that need no files: text that ships with Python, sums as characters, vectors, and pictures made of digits."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import numpy as np

from jaffe.train.data.scenes import shapes

STREAMS = 32
# Modules written in Python, with much documentation; what of them a Python has not is left out.
_MODULES = (
    "_pydecimal argparse asyncio/events asyncio/streams cmd collections/__init__ concurrent/futures/_base configparser "
    "contextlib copy csv dataclasses datetime difflib doctest email/message enum fractions functools getopt gettext "
    "heapq html/parser http/client http/cookiejar http/server imaplib inspect ipaddress json/__init__ json/decoder "
    "json/encoder locale logging/__init__ logging/handlers mailbox numbers optparse os pathlib pdb pickle pickletools "
    "platform plistlib poplib pprint profile queue random sched shelve shlex shutil smtplib socket socketserver "
    "sqlite3/dbapi2 ssl statistics string subprocess sysconfig tarfile tempfile textwrap threading timeit tokenize "
    "trace traceback turtle types typing unittest/case unittest/mock urllib/parse urllib/request uuid warnings wave "
    "weakref webbrowser xml/dom/minidom xml/etree/ElementTree xmlrpc/client zipfile zoneinfo/_zoneinfo"
)
SYMBOLS = "0123456789+ ="  # of sums; a space fills up, "=" begins the answer
DIGITS = 3
FIELD, FRAMES = 16, 8  # of moving digits: pixels to a side, and how many
WAYS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))  # pixels down, and to the right


def python_text(split: str, streams: int = STREAMS) -> dict[str, np.ndarray]:
    """Python's licence and the documentation in its standard library, as ASCII codes, for a recurrent net.

    The text is cut into ``streams`` pieces that are read side by side, a row a step, so that a batch of T rows goes on
    where the one before ended. Every tenth part is ``test``, the others ``train``.

    Returns:
        ``data``, ``cont`` (0 in the first row, else 1) and ``label``, the symbol that follows: (rows, streams).
    """
    codes = np.frombuffer(_python_text().encode("ascii", "ignore"), np.uint8)
    tenth = len(codes) // 10
    chosen = codes[-tenth:] if split == "test" else codes[:-tenth]
    rows = (len(chosen) - 1) // streams
    data, label = (chosen[start : start + rows * streams].reshape(streams, rows).T for start in (0, 1))
    cont = np.ones(data.shape, np.uint8)
    cont[0] = 0
    return {"data": np.ascontiguousarray(data), "cont": cont, "label": np.ascontiguousarray(label)}


def _python_text() -> str:
    folder = Path(sysconfig.get_path("stdlib"))
    licence = folder / "LICENSE.txt"
    parts = [licence.read_text("utf-8", "ignore")] if licence.is_file() else []
    for module in _MODULES.split():
        path = folder / f"{module}.py"
        if path.is_file():
            tree = ast.parse(path.read_text("utf-8", "ignore"))
            nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            parts += filter(None, (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, nodes)))
    return "\n\n".join(parts)


def sums(split: str) -> dict[str, np.ndarray]:
    """``123+45`` and its answer as characters, indices into ``SYMBOLS``; numbers below 1000, drawn with fixed seeds.

    Returns:
        ``question`` (items, 7), filled up with spaces in front; ``before`` (items, 4), ``=`` and the answer but for its
        last character; ``answer`` (items, 4), filled up behind. 50,000 to train on, and 2,000 to test, which are not
        among them the other way round either.
    """
    pairs = np.random.default_rng(0).permutation(1000 * 1000)
    first, second = np.divmod(pairs, 1000)
    _, drawn = np.unique(np.minimum(first, second) * 1000 + np.maximum(first, second), return_index=True)
    drawn = np.sort(drawn)[: 52_000]  # of each two numbers the order that came first
    chosen = drawn[50_000:] if split == "test" else drawn[:50_000]
    numbers = [(int(first[i]), int(second[i])) for i in chosen]
    questions = [f"{a}+{b}".rjust(2 * DIGITS + 1) for a, b in numbers]
    answers = [str(a + b).ljust(DIGITS + 1) for a, b in numbers]
    befores = ["=" + answer[:-1] for answer in answers]
    return {"question": _indices(questions), "before": _indices(befores), "answer": _indices(answers)}


def _indices(texts: list[str]) -> np.ndarray:
    place = np.zeros(128, np.uint8)
    place[[ord(symbol) for symbol in SYMBOLS]] = np.arange(len(SYMBOLS))
    return place[np.frombuffer("".join(texts).encode(), np.uint8)].reshape(len(texts), -1)


def moving_digits(split: str) -> dict[str, np.ndarray]:
    """Clips of digits that move over a field whose opposite edges meet; which of eight ways is the class.

    The digits are those of ``tfds:digits``, one a clip, from a random place on: a frame alone does not tell the class.

    Returns:
        ``data`` (clips, 8, 1, 16, 16), 0 to 16; ``cont`` (clips, 8), 0 in the first frame, else 1; ``label`` (clips).
        8,000 to train on, and 1,000 of other digits to test.
    """
    digits = _digits(split)[0]
    random = np.random.default_rng(split == "test")
    count = 1_000 if split == "test" else 8_000
    label = random.integers(len(WAYS), size=count)
    moved = random.integers(FIELD, size=(count, 1, 2)) + np.arange(FRAMES)[:, None] * np.array(WAYS)[label][:, None]
    cells = (moved[..., None] + np.arange(digits.shape[-1])) % FIELD  # the rows, and the columns, that a digit covers
    data = np.zeros((count, FRAMES, 1, FIELD, FIELD), np.uint8)
    clip, frame = np.ogrid[:count, :FRAMES]
    at = (clip[..., None, None], frame[..., None, None], 0, cells[:, :, 0, :, None], cells[:, :, 1, None, :])
    data[at] = digits[random.integers(len(digits), size=count)][:, None]
    cont = np.ones((count, FRAMES), np.uint8)
    cont[:, 0] = 0
    return {"data": data, "cont": cont, "label": label.astype(np.int32)}


def pairs(split: str) -> dict[str, np.ndarray]:
    """Two digits each, of one class or of two, as often: for siamese nets.

    Returns:
        ``pair_data`` (pairs, 2, 28, 28), 0 to 255; ``sim`` (pairs), 1 where both are of one class, else 0. 8,000 to
        train on, and 2,000 of other digits to test.
    """
    digits, label = _digits(split)
    random = np.random.default_rng(split == "test")
    count = 2_000 if split == "test" else 8_000
    sim = np.arange(count) % 2
    first = random.integers(len(digits), size=count)
    alike = label[first][:, None] == label
    second = (random.random(alike.shape) * (alike == sim[:, None])).argmax(1)
    return {"pair_data": _enlarged(digits, 28)[np.stack([first, second], 1)], "sim": sim.astype(np.int32)}


def turned_digits(split: str) -> dict[str, np.ndarray]:
    """Digits turned by at most 45 degrees either way: three things to learn of each.

    Returns:
        ``data`` (digits, 1, 28, 28), 0 to 255; ``digit`` (digits); ``odd`` (digits), 1 where it is; ``angle``
        (digits, 1), -1 to 1: by how much, in units of 45 degrees, to the left. 12,000 to train on, and 1,000 of other
        digits to test.
    """
    import cv2

    digits, label = _digits(split)
    random = np.random.default_rng(split == "test")
    count = 1_000 if split == "test" else 12_000
    chosen = random.integers(len(digits), size=count)
    angle = random.uniform(-1, 1, count)
    large = np.pad(_enlarged(digits, 20), ((0, 0), (4, 4), (4, 4)))  # so that no corner is turned out
    data = np.stack([cv2.warpAffine(large[i], cv2.getRotationMatrix2D((13.5, 13.5), 45 * turn, 1), (28, 28))
                     for i, turn in zip(chosen, angle, strict=True)])
    digit = label[chosen]
    return {"data": data[:, None], "digit": digit, "odd": digit % 2, "angle": angle[:, None].astype(np.float32)}


def several_digits(split: str) -> dict[str, np.ndarray]:
    """Pictures of up to four digits, one in each quarter or none: which ones are there.

    Returns:
        ``data`` (pictures, 1, 28, 28), 0 to 255; ``label`` (pictures, 10), 1 for each digit that is there, else 0.
        12,000 to train on, and 1,000 of other digits to test.
    """
    digits, label = _digits(split)
    random = np.random.default_rng(split == "test")
    count = 1_000 if split == "test" else 12_000
    chosen = random.integers(len(digits), size=(count, 4))
    there = random.random((count, 4)) < 0.5
    quarters = _enlarged(digits, 14)[chosen] * there[..., None, None].astype(np.uint8)
    data = quarters.reshape(count, 2, 2, 14, 14).transpose(0, 1, 3, 2, 4).reshape(count, 1, 28, 28)
    present = (np.eye(10, dtype=np.float32)[label[chosen]] * there[..., None]).max(1)
    return {"data": data, "label": present}


def vectors(split: str) -> dict[str, np.ndarray]:
    """Points of two classes, two clusters each, that no line divides; two of their four numbers say nothing.

    Returns:
        ``data`` (points, 4), float32; ``label`` (points). 7,500 to train on, and 2,500 to test. Source: scikit-learn's
        ``make_classification`` with the settings of Caffe's ``examples/02-brewing-logreg.ipynb``.
    """
    from sklearn.datasets import make_classification

    data, label = make_classification(n_samples=10_000, n_features=4, n_redundant=0, n_informative=2,
                                      n_clusters_per_class=2, hypercube=False, random_state=0)
    chosen = slice(7_500, None) if split == "test" else slice(7_500)
    return {"data": data[chosen].astype(np.float32), "label": label[chosen].astype(np.int32)}


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Those of ``tfds:digits``: (digits, 8, 8), 0 to 16, and their classes."""
    from jaffe.train.data.tfds import TfdsSource  # slow to import

    source = TfdsSource("digits", split)
    records = [source[i] for i in range(len(source))]
    return (np.stack([record["image"][0] for record in records]),
            np.array([record["label"] for record in records], np.int32))


def _enlarged(digits: np.ndarray, size: int) -> np.ndarray:
    """(..., 8, 8), 0 to 16 -> (..., size, size), 0 to 255."""
    import cv2

    flat = digits.reshape(-1, *digits.shape[-2:]).astype(np.float32) * (255 / 16)
    large = np.stack([cv2.resize(digit, (size, size), interpolation=cv2.INTER_LINEAR) for digit in flat])
    return np.rint(large).astype(np.uint8).reshape(*digits.shape[:-2], size, size)


# What --data calls them, and whether training takes the records in another order each time.
MADE = {"text:python": (python_text, False), "made:sums": (sums, True), "made:moving": (moving_digits, True),
        "made:pairs": (pairs, True), "made:turned": (turned_digits, True), "made:several": (several_digits, True),
        "made:vectors": (vectors, True), "made:shapes": (shapes, True)}
