"""Made scenes: coloured shapes that stand on a floor, with a map of classes, boxes and depths."""

from __future__ import annotations

import numpy as np

SIDE = 64
SHAPES = ("background", "circle", "square", "triangle")
MOST = 4  # shapes in a scene
_HAZE, _DENSITY = 200.0, 0.5  # its brightness, and how much of it a unit of depth adds
_SEEDS = {"train": 0, "test": 1}
_COUNTS = {"train": 2_000, "test": 400}


def shapes(split: str) -> dict[str, np.ndarray]:
    """Pictures of one to four filled shapes on a noisy floor that goes away into haze.

    The lowest row of the floor is at depth 1, the highest at a depth between 1.5 and 3 that its haze shows; a shape is
    as far away as the floor where it stands, and the smaller the farther. Shapes are turned at random and do not
    overlap. All is drawn with fixed seeds.

    Returns:
        ``data`` (scenes, 3, 64, 64), 0 to 255, blue, green, red. ``label`` (scenes, 64, 64): 0 background, 1 circle,
        2 square, 3 triangle. ``boxes`` (scenes, 4, 8): a row for each shape as SSD has them, image, class, instance,
        xmin, ymin, xmax, ymax as shares of the picture, and difficult; image is 0, and -1 in rows without a shape.
        ``depth`` (scenes, 1, 64, 64). 2,000 to train on, and 400 to test.
    """
    random = np.random.default_rng(_SEEDS[split])
    scenes = [_scene(random) for _ in range(_COUNTS[split])]
    return {name: np.stack([scene[name] for scene in scenes]) for name in scenes[0]}


def _scene(random: np.random.Generator) -> dict[str, np.ndarray]:
    floor = _floor(random.uniform(1.5, 3))
    depth = np.repeat(floor[:, None], SIDE, 1)
    label = np.zeros((SIDE, SIDE), np.uint8)
    boxes = np.full((MOST, 8), -1, np.float32)
    colours = random.uniform(20, 160, 3) + _texture(random)[..., None]
    for instance, (kind, outline) in enumerate(_places(random, floor)):
        mask = _filled(outline)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        ends = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / SIDE
        boxes[instance] = 0, kind, instance, *ends, 0
        label[mask] = kind
        depth[mask] = floor[rows[-1]]
        colours[mask] = random.uniform(0, 255, 3)
    seen = np.exp(-_DENSITY * (depth - 1))[..., None]
    pixels = colours * seen + _HAZE * (1 - seen) + 8 * random.standard_normal(colours.shape, np.float32)
    data = np.rint(pixels).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
    return {"data": data, "label": label, "boxes": boxes, "depth": depth[None].astype(np.float32)}


def _floor(far: float) -> np.ndarray:
    """Depths of the rows of a floor, (SIDE), the highest first: their inverses are on a line, as in perspective."""
    share = np.linspace(0, 1, SIDE)
    return 1 / (share + (1 - share) / far)


def _texture(random: np.random.Generator) -> np.ndarray:
    """Noise in patches of some pixels, (SIDE, SIDE)."""
    import cv2

    return cv2.resize(random.normal(0, 25, (SIDE // 4, SIDE // 4)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def _places(random: np.random.Generator, floor: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Class and outline of each shape, at least one; those that find no room are left out."""
    placed: list[tuple[np.ndarray, float]] = []
    found = []
    for _ in range(random.integers(1, MOST + 1)):
        for _ in range(20):
            lowest = random.integers(SIDE // 4, SIDE)
            radius = random.uniform(14, 20) / floor[lowest]
            centre = np.array([random.uniform(radius, SIDE - radius), lowest - radius])
            apart = all(np.hypot(*(centre - other)) > radius + size for other, size in placed)
            if centre[1] >= radius and apart:
                kind = int(random.integers(1, len(SHAPES)))
                placed.append((centre, radius))
                found.append((kind, centre + radius * _corners(kind, random.uniform(0, 2 * np.pi))))
                break
    return found


def _corners(kind: int, turned: float) -> np.ndarray:
    """Points of the unit circle that the shape's outline joins, (points, 2)."""
    count = {"circle": 64, "square": 4, "triangle": 3}[SHAPES[kind]]
    angles = turned + np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _filled(outline: np.ndarray) -> np.ndarray:
    """Pixels inside of an outline, (SIDE, SIDE)."""
    import cv2

    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)
