"""What a camera or program wrote into a picture beside its pixels, taken out without decoding one.

The picture stays byte for byte what it was where pixels, colours and frames are concerned; what is kept is listed, and all the
rest goes: EXIF, XMP, IPTC, comments, thumbnails, and whatever hangs behind the end. The one fact kept of EXIF is which side is
up, since without it the picture would lie on its side.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

from ..errors import DamagedFile

_PNG_KEPT = frozenset(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP mDCV cLLI sBIT bKGD pHYs hIST acTL fcTL fdAT".split()
)
_WEBP_KEPT = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
_GIF_KEPT = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_SOI, _EOI, _SOS = b"\xff\xd8", 0xD9, 0xDA
_ORIENTATION = 0x0112


def without_metadata(data: bytes, media_type: str) -> bytes:
    """Returns a picture without its metadata. Raises DamagedFile if it can't be followed to its end."""
    strip = _STRIPPERS.get(media_type)
    if strip is None:
        raise DamagedFile(f"metadata can't be taken out of {media_type}; expected one of {', '.join(_STRIPPERS)}")
    try:
        return b"".join(strip(data))
    except (struct.error, IndexError) as error:
        raise DamagedFile(f"the picture ({media_type}) ends too early; get it again") from error


def orientation(exif: bytes) -> int:
    """Returns which side is up (1 to 8, 1 if untold) from the bytes of EXIF, whatever they hold."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    offset = struct.unpack_from(order + "I", exif, 4)[0]
    if offset + 2 > len(exif):
        return 1
    for index in range(struct.unpack_from(order + "H", exif, offset)[0]):
        at = offset + 2 + 12 * index
        if at + 12 > len(exif):
            break
        tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, at)
        if tag == _ORIENTATION and kind == 3:
            return value if 1 <= value <= 8 else 1
    return 1


def _exif(upright: int) -> bytes:
    """Returns EXIF that tells the orientation alone."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, _ORIENTATION, 3, 1, upright, 0, 0)


def _png(data: bytes) -> Iterator[bytes]:
    import zlib

    upright = 1
    for kind, begin, end in _png_chunks(data):
        if kind == b"eXIf":
            upright = orientation(data[begin:end])
    yield data[:8]
    for kind, begin, end in _png_chunks(data):
        if kind in _PNG_KEPT:
            yield data[begin - 8 : end + 4]
        if kind == b"IHDR" and upright != 1:
            chunk = b"eXIf" + _exif(upright)
            yield struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the name of each chunk and where its content begins and ends, up to IEND."""
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise IndexError
        yield kind, at + 8, at + 8 + length
        at += 12 + length


def _jpeg(data: bytes) -> Iterator[bytes]:
    yield _SOI
    at, told = 2, False
    while True:
        marker = data[at + 1]
        if data[at] != 0xFF:
            raise DamagedFile("the picture (image/jpeg) is damaged: a segment does not begin where it should")
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        if marker == _EOI:
            yield data[at : at + 2]
            return
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if end > len(data):
            raise IndexError
        body = data[at + 4 : end]
        if _jpeg_kept(marker, body):
            yield data[at:end]
        elif marker == 0xE1 and body[:6] == b"Exif\0\0" and not told and (upright := orientation(body)) != 1:
            segment, told = b"Exif\0\0" + _exif(upright), True
            yield b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
        at = end
        if marker == _SOS:
            at = _scan_end(data, end)
            yield data[end:at]


def _jpeg_kept(marker: int, body: bytes) -> bool:
    if marker == 0xE2:
        return body[:12] == b"ICC_PROFILE\0"
    if 0xE0 <= marker <= 0xEF:
        return marker in (0xE0, 0xEE) and body[:5] in (b"JFIF\0", b"Adobe")
    return marker != 0xFE


def _scan_end(data: bytes, at: int) -> int:
    """Returns where the next marker stands behind the compressed pixels that begin at `at`."""
    while (at := data.find(b"\xff", at)) >= 0:
        following = data[at + 1]
        if following == 0xFF:
            at += 1
        elif following == 0 or 0xD0 <= following <= 0xD7:  # a stuffed byte, or a restart marker within the pixels
            at += 2
        else:
            return at
    raise IndexError


def _webp(data: bytes) -> Iterator[bytes]:
    kept: list[bytes] = []
    upright, at, end = 1, 12, min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        behind = at + 8 + length + length % 2
        if at + 8 + length > len(data):
            raise IndexError
        if kind == b"EXIF":
            upright = orientation(data[at + 8 : at + 8 + length])
        elif kind in _WEBP_KEPT:
            kept.append(data[at:behind])
        at = behind
    if kept and kept[0][:4] == b"VP8X":
        flags = kept[0][8] & ~0x0C | (0x08 if upright != 1 else 0)  # 0x08: EXIF, 0x04: XMP
        kept[0] = kept[0][:8] + bytes([flags]) + kept[0][9:]
        if upright != 1:
            exif = _exif(upright)
            kept.append(b"EXIF" + struct.pack("<I", len(exif)) + exif)
    body = b"WEBP" + b"".join(kept)
    yield b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(data: bytes) -> Iterator[bytes]:
    at = 13 + _colours(data[10])
    yield data[:at]
    while data[at] != 0x3B:
        begin = at
        if data[at] == 0x2C:  # a frame
            at = _blocks_end(data, at + 11 + _colours(data[at + 9]))
            yield data[begin:at]
        elif data[at] == 0x21:  # an extension: timing is kept, and the loop count
            at = _blocks_end(data, at + 2)
            if data[begin + 1] == 0xF9 or (data[begin + 1] == 0xFF and data[begin + 3 : begin + 14] in _GIF_KEPT):
                yield data[begin:at]
        else:
            raise DamagedFile("the picture (image/gif) is damaged: a block does not begin where it should")
    yield b"\x3b"


def _colours(packed: int) -> int:
    """Returns the bytes of the table of colours that a packed field announces."""
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _blocks_end(data: bytes, at: int) -> int:
    while data[at]:
        at += 1 + data[at]
    return at + 1


_STRIPPERS: Mapping[str, Callable[[bytes], Iterator[bytes]]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/webp": _webp,
    "image/gif": _gif,
}
