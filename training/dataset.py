"""Makes the picture set: fetches the emoji packages, renders every emoji once, and stores the result as one file.

The set is a uint8 RGBA array at 128x128 with a name and a style for each picture. Backgrounds, colours and captions
are added later, by `augmentation`, so this file never has to be written twice.

    python -m training.dataset --work WORK
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

SIZE = 128  # pixels, both sides; 16x16 latents
PACKAGES = {  # npm package, by style word. Licences: Apache-2.0, MIT, MIT.
    "noto": "@iconify-json/noto@1.2.9",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
}
STYLES = tuple(PACKAGES)

_TONE = re.compile(r"-(light|medium-light|medium|medium-dark|dark)(-skin-tone)?$")
_TONED_CODE = re.compile(r"(^|-)1f3f[b-f](-|$)")
_NOT_TONES = {"police-car-light"}  # its stem names an icon too, but it is no skin tone
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureSet:
    """All pictures: `rgba` is (n, 128, 128, 4) uint8 with straight alpha; names use spaces; styles index `STYLES`."""

    rgba: np.ndarray
    names: list[str]
    styles: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def load_pictures(work: Path) -> PictureSet:
    """Returns the stored picture set of a work folder, made by running this module."""
    path = work / "pictures.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no picture set. Run: python -m training.dataset --work {work}")
    with np.load(path) as stored:
        return PictureSet(stored["rgba"], [str(name) for name in stored["names"]], stored["styles"])


def make_pictures(work: Path) -> PictureSet:
    """Returns every emoji of the three packages without skin-tone variants, rendered at 128x128."""
    roots = {style: _fetch_package(package, work / "npm") for style, package in PACKAGES.items()}
    rgba: list[np.ndarray] = []
    names: list[str] = []
    styles: list[int] = []
    for style in ("noto", "flat"):
        for name, svg in _iconify_svgs(roots[style]):
            rgba.append(_render_svg(svg))
            names.append(name)
            styles.append(STYLES.index(style))
    for name, path in _codepoint_files(roots["3d"], _names_by_code(roots["noto"])):
        rgba.append(_read_bitmap(path))
        names.append(name)
        styles.append(STYLES.index("3d"))
    return PictureSet(np.stack(rgba), names, np.array(styles, dtype=np.int64))


def _fetch_package(package: str, folder: Path) -> Path:
    """Returns the folder of an unpacked npm package; fetches its archive with `npm pack` when it is not there yet."""
    stem = re.sub(r"[@/]+", "-", package).strip("-")
    archive, target = folder / f"{stem}.tgz", folder / stem
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True)
    if not target.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    return target / "package"


def _iconify_svgs(root: Path) -> list[tuple[str, str]]:
    """Returns (name, SVG text) for each icon of an Iconify package that is not a skin-tone variant."""
    icons = json.loads((root / "icons.json").read_text(encoding="utf-8"))
    width, height = icons.get("width", 16), icons.get("height", 16)
    found = []
    for name, icon in icons["icons"].items():
        if icon.get("hidden") or _is_tone(name, icons["icons"]):
            continue
        box = f"0 0 {icon.get('width', width)} {icon.get('height', height)}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">'
        found.append((_spaced(name), f"{svg}{icon['body']}</svg>"))
    return found


def _is_tone(name: str, known: dict[str, object]) -> bool:
    if "skin-tone" in name:
        return True
    return bool(_TONE.search(name)) and name not in _NOT_TONES and _TONE.sub("", name) in known


def _spaced(name: str) -> str:
    return name.replace("-", " ")


def _names_by_code(root: Path) -> dict[str, str]:
    """Returns icon names by code points in lower-case hex without variation selectors, e.g. '1f9d1-200d-1f680'."""
    codes: dict[str, str] = json.loads((root / "chars.json").read_text(encoding="utf-8"))
    return {_bare(code): name for code, name in codes.items() if "skin-tone" not in name}


def _bare(code: str) -> str:
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _codepoint_files(root: Path, names: dict[str, str]) -> list[tuple[str, Path]]:
    found = []
    for path in sorted((root / "assets").glob("*.webp")):
        code = _bare(path.stem)
        if code in names and not _TONED_CODE.search(code):
            found.append((_spaced(names[code]), path))
    return found


def _render_svg(svg: str) -> np.ndarray:
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    return _squared(Image.open(io.BytesIO(png)).convert("RGBA"))


def _read_bitmap(path: Path) -> np.ndarray:
    return _squared(Image.open(path).convert("RGBA"))


def _squared(image: Image.Image) -> np.ndarray:
    """Returns a picture fitted into 128x128, centred, as (128, 128, 4) uint8 with straight alpha."""
    if image.size != (SIZE, SIZE):
        scale = SIZE / max(image.size)
        fitted = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        image = Image.new("RGBA", (SIZE, SIZE))
        image.paste(fitted, ((SIZE - fitted.width) // 2, (SIZE - fitted.height) // 2))
    return np.asarray(image, dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads and the picture set")
    work: Path = parser.parse_args().work
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pictures = make_pictures(work)
    np.savez_compressed(
        work / "pictures.npz", rgba=pictures.rgba, names=np.array(pictures.names), styles=pictures.styles
    )
    counts = ", ".join(f"{style} {int((pictures.styles == i).sum())}" for i, style in enumerate(STYLES))
    _logger.info("%d pictures (%s)", len(pictures), counts)


if __name__ == "__main__":
    main()
