"""How large an image, a PDF, a sound or a film is, read from its header.

Base64 is decoded only where a header stands, so that the size of a large image costs microseconds; a PDF, whose pages
may be anywhere, is read as a whole, up to a limit. Nothing here raises: what cannot be read is 0.

Formats: PNG (ISO/IEC 15948), JPEG (ITU-T T.81), GIF89a, BMP, WebP (RFC 9649), PDF (ISO 32000-1, 7.5.7 and 7.7.3), RIFF
WAVE, MPEG audio (ISO/IEC 11172-3), FLAC (RFC 9639), Ogg (RFC 3533), MP4 (ISO/IEC 14496-12).
"""

from __future__ import annotations

from binascii import Error, a2b_base64
from collections.abc import Callable
from typing import Literal

__all__ = ["Source", "audio_ms", "image_size", "pdf_pages", "source_of", "video_ms"]

_PDF_BYTES = 32 << 20  # the most that Anthropic takes in a request
_INFLATED_BYTES = 64 << 20
_SEGMENTS = 2000
_FRAMES = 4000


class Source:
    """Bytes, or base64 of which only what is asked for is decoded.

    Attributes:
        size: How many bytes there are.
    """

    def __init__(self, data: str | bytes) -> None:
        self._data = data
        self.size = len(data) if isinstance(data, bytes) else len(data.rstrip("=")) * 3 // 4

    def at(self, start: int, count: int) -> bytes:
        """Return up to `count` bytes from `start` on; fewer where the data ends or is no base64."""
        if isinstance(self._data, bytes):
            return self._data[start : start + count]
        first = start // 3
        piece = self._data[first * 4 : -(-(start + count) // 3) * 4].rstrip("=")
        try:
            raw = a2b_base64((piece + "=" * (-len(piece) % 4)).replace("-", "+").replace("_", "/"))
        except (Error, ValueError):
            return b""
        return raw[start - first * 3 :][:count]

    def number(self, start: int, count: int, order: Literal["big", "little"] = "big") -> int:
        """Return the integer that stands there, 0 if it is cut short."""
        raw = self.at(start, count)
        return int.from_bytes(raw, order) if len(raw) == count else 0


def source_of(data: object) -> Source | None:
    """Return what there is to read; None for what holds no data, such as a URL that has to be fetched."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return Source(bytes(data))
    if not isinstance(data, str):
        return None
    if data.startswith("data:"):
        head, comma, data = data.partition(",")
        if not comma or not head.endswith(";base64"):
            return None
    elif "://" in data[:16]:
        return None
    return Source("".join(data.split()) if any(c.isspace() for c in data[:256]) else data)


def image_size(source: Source) -> tuple[int, int]:
    """Return width and height in pixels; zeros if they cannot be read."""
    head = source.at(0, 32)
    for magic, read in _IMAGES:
        if head.startswith(magic):
            return read(source, head)
    return 0, 0


def _png_size(source: Source, _: bytes) -> tuple[int, int]:
    return source.number(16, 4), source.number(20, 4)


def _gif_size(source: Source, _: bytes) -> tuple[int, int]:
    return source.number(6, 2, "little"), source.number(8, 2, "little")


def _bmp_size(source: Source, head: bytes) -> tuple[int, int]:
    if head[14:15] == b"\x0c":
        return source.number(18, 2, "little"), source.number(20, 2, "little")
    if len(head) < 26:
        return 0, 0
    width, height = (int.from_bytes(head[at : at + 4], "little", signed=True) for at in (18, 22))
    return abs(width), abs(height)


def _jpeg_size(source: Source, head: bytes) -> tuple[int, int]:
    at = 2
    for _ in range(_SEGMENTS):
        head = source.at(at, 9)
        if len(head) < 9 or head[0] != 0xFF:
            break
        if head[1] == 0xFF:  # fill
            at += 1
        elif head[1] in (0x01, *range(0xD0, 0xD8)):  # markers without a length
            at += 2
        elif 0xC0 <= head[1] <= 0xCF and head[1] not in (0xC4, 0xC8, 0xCC):  # start of a frame, progressive ones too
            return int.from_bytes(head[7:9], "big"), int.from_bytes(head[5:7], "big")
        else:
            at += 2 + int.from_bytes(head[2:4], "big")
    return 0, 0


def _webp_size(_: Source, head: bytes) -> tuple[int, int]:
    kind = head[8:16].removeprefix(b"WEBP")
    if len(head) < 30:
        return 0, 0
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    if kind == b"VP8L" and head[20:21] == b"\x2f":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return 0, 0


_IMAGES: tuple[tuple[bytes, Callable[[Source, bytes], tuple[int, int]]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png_size),
    (b"\xff\xd8", _jpeg_size),
    (b"GIF87a", _gif_size),
    (b"GIF89a", _gif_size),
    (b"RIFF", _webp_size),
    (b"BM", _bmp_size),
)


def pdf_pages(source: Source) -> int:
    """Count a PDF's pages, those in compressed object streams too, and at least what the page tree says.

    Returns:
        The pages, rather too many than too few (older versions of a page stay in a file); 0 if they cannot be counted:
        encrypted, damaged, or too large to be read here.
    """
    return _pages(source.at(0, source.size)) if source.size <= _PDF_BYTES else 0


def _pages(raw: bytes) -> int:
    import re

    if not raw.startswith(b"%PDF-") or re.search(rb"/Encrypt\b", raw):
        return 0
    parts = [raw]
    room = _INFLATED_BYTES
    for found in re.finditer(rb"/Type\s*/ObjStm\b", raw):
        stream = re.compile(rb"stream\r?\n").search(raw, found.end(), found.end() + 1000)
        inflated = _inflated(raw, stream.end(), room) if stream else b""
        room -= len(inflated)
        if not inflated or room <= 0:
            return 0
        parts.append(inflated)
    pages, said = 0, 0
    for part in parts:
        pages += len(re.findall(rb"/Type\s*/Page(?![A-Za-z])", part))
        for tree in re.finditer(rb"/Type\s*/Pages\b", part):
            near = part[max(0, tree.start() - 200) : tree.end() + 200]
            said = max([said, *(int(count[:9]) for count in re.findall(rb"/Count\s+(\d+)", near))])
    return max(pages, said)


def _inflated(raw: bytes, start: int, most: int) -> bytes:
    import zlib

    try:
        return zlib.decompressobj().decompress(memoryview(raw)[start:], most)
    except zlib.error:
        return b""


def audio_ms(source: Source) -> int:
    """Return the length of a WAV, MP3, FLAC or Ogg in milliseconds, rounded up; 0 if it cannot be read."""
    return next(filter(None, (read(source) for read in (_wav_ms, _flac_ms, _ogg_ms, _mp3_ms))), 0)


def _wav_ms(source: Source) -> int:
    head = source.at(0, 12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0
    at = 12
    for _ in range(_SEGMENTS):
        name, size = source.at(at, 4), source.number(at + 4, 4, "little")
        if name == b"fmt ":
            second = source.number(at + 16, 4, "little")
            if source.number(at + 8, 2, "little") in (1, 3):  # uncompressed: what the figures say, whatever the sum
                channels, hertz, bits = (source.number(at + 8 + i, n, "little") for i, n in ((2, 2), (4, 4), (14, 2)))
                second = min(second, channels * hertz * bits // 8)
            rest = source.size - at - 8 - size - 8  # what is after this, without the head of the data
            return -(-max(rest, 0) * 1000 // second) if second else 0
        if len(name) < 4:
            break
        at += 8 + size + size % 2
    return 0


def _flac_ms(source: Source) -> int:
    if source.at(0, 4) != b"fLaC":
        return 0
    bits = source.number(18, 8)  # 20 of the rate, 3 of channels, 5 of the depth, 36 of the number of samples
    hertz, samples = bits >> 44, bits & (1 << 36) - 1
    return -(-samples * 1000 // hertz) if hertz else 0


def _ogg_ms(source: Source) -> int:
    head = source.at(0, 64)
    if not head.startswith(b"OggS"):
        return 0
    if (codec := head.find(b"OpusHead")) > 0:
        hertz = 48_000
    elif (codec := head.find(b"\x01vorbis")) > 0:
        hertz = source.number(codec + 12, 4, "little")
    else:
        return 0
    tail = source.at(max(0, source.size - 70_000), 70_000)  # a page is at most 65,307 bytes
    last = tail.rfind(b"OggS")
    samples = int.from_bytes(tail[last + 6 : last + 14], "little", signed=True) if last >= 0 else 0
    return -(-samples * 1000 // hertz) if hertz and samples > 0 else 0


_MP3_KBITS = {  # layer III; by MPEG version bits: 3 is version 1, 2 version 2, 0 version 2.5
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_HERTZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _mp3_ms(source: Source) -> int:
    """Add up the frames; of what is beyond the first thousands, take the lowest bit rate that there is."""
    at = 0
    if source.at(0, 3) == b"ID3":
        at = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(source.at(6, 4), (21, 14, 7, 0), strict=False))
    micros = frames = per_ms = 0
    while at + 4 <= source.size and frames < _FRAMES:
        head = source.at(at, 4)
        version, kbit, hertz = head[1] >> 3 & 3, (head[2] >> 4) - 1, head[2] >> 2 & 3
        if head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or version == 1 or not 0 <= kbit < 14 or hertz == 3:
            break
        rate, samples = _MP3_HERTZ[version][hertz], 1152 if version == 3 else 576
        at += samples * _MP3_KBITS[version or 2][kbit] * 125 // rate + (head[2] >> 1 & 1)
        micros += -(-samples * 1_000_000 // rate)
        frames += 1
        per_ms = 4 if version == 3 else 1  # bytes, at the lowest bit rate
    return -(-micros // 1000) + -(-max(0, source.size - at) // per_ms) if frames else 0


def video_ms(source: Source) -> int:
    """Return the length of an MP4 or QuickTime film in milliseconds, rounded up; 0 if it cannot be read."""
    at, end = 0, source.size
    for _ in range(_SEGMENTS):
        size, name, body = source.number(at, 4), source.at(at + 4, 4), at + 8
        if size == 1:
            size, body = source.number(at + 8, 8), at + 16
        if name == b"moov":
            at, end = body, at + size
            continue
        if name == b"mvhd":
            long = source.number(body, 1) == 1
            scale = source.number(body + (20 if long else 12), 4)
            length = source.number(body + (24 if long else 16), 8 if long else 4)
            return -(-length * 1000 // scale) if scale else 0
        at += size
        if len(name) < 4 or size < 8 or at >= end:
            break
    return 0
