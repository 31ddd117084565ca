"""Media: sizes from hand-made headers, what a family's rules make of them, and that nothing in a file can do harm."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget import Budget
from budget.estimator import Measure, headers, measure
from budget.estimator.constants import FAMILIES, family
from budget.estimator.media import Media, audio_of, image_of, pdf_of, tokens, video_of
from budget.estimator.openai_media import FILES

CANARY = "canary-7f3a"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


# --- images -----------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 6, 0, 0, 0) + bytes(4)


def jpeg(width: int, height: int, marker: int = 0xC0, before: bytes = b"") -> bytes:
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 17, 8, height, width, 3) + b"\1\x11\0" * 3
    return b"\xff\xd8" + before + frame + b"\xff\xda\0\2"


def segment(marker: int, size: int) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, size + 2) + b"\xff\xc0" * (size // 2)  # its content looks like a frame


def webp(chunk: bytes, body: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + chunk + struct.pack("<I", len(body)) + body


def vp8(width: int, height: int) -> bytes:
    return webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width | 0x4000, height | 0x8000) + b"\0" * 8)


def vp8l(width: int, height: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14 | 1 << 28) + b"\0" * 8)


def vp8x(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp(b"VP8X", b"\x10\0\0\0" + sizes)


EXIF, ICC = segment(0xE1, 65000), segment(0xE2, 40000)
IMAGES = {
    "png": png(1245, 1395),
    "jpeg": jpeg(1245, 1395),
    "jpeg, progressive, after exif and profile": jpeg(1245, 1395, 0xC2, EXIF + ICC + b"\xff" * 5 + segment(0xC4, 20)),
    "gif": b"GIF89a" + struct.pack("<HH", 1245, 1395) + b"\0" * 20,
    "bmp": b"BM" + b"\0" * 12 + struct.pack("<Iii", 40, 1245, -1395) + b"\0" * 20,
    "bmp of os/2": b"BM" + b"\0" * 12 + struct.pack("<IHH", 12, 1245, 1395) + b"\0" * 20,
    "webp lossy": vp8(1245, 1395),
    "webp lossless": vp8l(1245, 1395),
    "webp extended": vp8x(1245, 1395),
}


@pytest.mark.parametrize("name", IMAGES)
def test_size_from_header_bytes(name: str) -> None:
    raw = IMAGES[name]
    urlsafe = base64.urlsafe_b64encode(raw).decode()
    wrapped = base64.encodebytes(raw).decode()
    for data in (raw, bytearray(raw), b64(raw), urlsafe, wrapped, f"data:image/x;base64,{b64(raw)}"):
        assert image_of(data, "low") == Media("image", 1245, 1395, detail="low")


@pytest.mark.parametrize("name", IMAGES)
def test_a_header_that_is_cut_short_is_no_size(name: str) -> None:
    raw = IMAGES[name]
    for length in range(0, len(raw), 1 if len(raw) < 999 else 7919):
        found = image_of(b64(raw[:length]))
        assert (found.width, found.height) in ((0, 0), (1245, 1395))
    assert image_of(b64(raw[:9])) == Media("image")


@pytest.mark.parametrize(
    "data",
    [None, "", CANARY, "https://example.com/a.png", "data:image/png," + CANARY, "data:", b"", 5, {"a": 1},
     b64(png(0, 5)), b64(jpeg(5, 0)), b"\xff\xd8" + b"\xff" * 9999, b"\xff\xd8\xff\xe0\0\0" * 9999, "é" * 99],
)  # fmt: skip
def test_what_cannot_be_read_has_no_size(data: object) -> None:
    assert image_of(data) == Media("image")


def test_an_image_is_not_decoded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    real = headers.a2b_base64
    monkeypatch.setattr(headers, "a2b_base64", lambda piece: decoded.append(len(piece)) or real(piece))
    big = b64(jpeg(10, 20, before=EXIF * 20) + bytes(4_000_000))
    assert image_of(f"data:image/jpeg;base64,{big}") == Media("image", 10, 20)
    assert sum(decoded) < 2000


# --- PDF --------------------------------------------------------------------------------------------------------------


def pdf(pages: int, *more: bytes, tree: bytes = b"") -> bytes:
    objects = b"".join(b"%d 0 obj <</Type /Page /Parent 2 0 R>> endobj\n" % (i + 3) for i in range(pages))
    tree = tree or b"2 0 obj <</Type/Pages/Kids[3 0 R]/Count %d>> endobj\n" % pages
    return b"%PDF-1.7\n" + tree + objects + b"".join(more) + b"trailer <<>>\n%%EOF"


def packed(content: bytes, start: bytes = b"<</Type /ObjStm /N 2 /Filter /FlateDecode>> stream\r\n") -> bytes:
    return b"9 0 obj " + start + zlib.compress(content) + b"\nendstream endobj\n"


@pytest.mark.parametrize(
    ("raw", "pages"),
    [
        (pdf(1), 1),
        (pdf(12), 12),
        (pdf(1, packed(b"<</Type/Page>> <</Type /Page /X 1>> <</Type /PageLabel>>")), 3),
        (pdf(0, packed(b"<</Type/Page>><</Count 7/Type/Pages>>"), tree=b"2 0 obj <<>> endobj"), 7),
        (pdf(2, tree=b"2 0 obj <</Count 40 /Kids [] /Type /Pages>> endobj\n"), 40),
    ],
)
def test_pages_are_counted(raw: bytes, pages: int) -> None:
    for data in (raw, b64(raw), "data:application/pdf;base64," + b64(raw)):
        assert pdf_of(data) == Media("pdf", pages=pages)


@pytest.mark.parametrize(
    "raw",
    [b"", b"no PDF /Type /Page", b"%PDF-1.7 nothing", pdf(2, b"<</Encrypt 5 0 R>>"),
     pdf(2, b"1 0 obj <</Type /ObjStm>> stream\nbroken endstream"), pdf(2, b"1 0 obj <</Type /ObjStm>> endobj")],
)  # fmt: skip
def test_pages_that_cannot_be_counted(raw: bytes) -> None:
    assert pdf_of(b64(raw)) is None


def test_a_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_INFLATED_BYTES", 100_000)
    assert pdf_of(pdf(1, packed(bytes(10_000_000)))) is None
    monkeypatch.setattr(headers, "_PDF_BYTES", 50)
    assert pdf_of(pdf(1)) is None


# --- sound and film ---------------------------------------------------------------------------------------------------


def wav(seconds: int, hertz: int = 8000, said: int | None = None) -> bytes:
    shape = struct.pack("<HHIIHH", 1, 1, hertz, said or hertz * 2, 2, 16)
    body = b"fmt " + struct.pack("<I", 16) + shape + b"LIST\4\0\0\0INFOdata\xff\xff\xff\xff"
    body += bytes(seconds * hertz * 2)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def mp3(frames: int, rest: int = 0) -> bytes:
    """Frames of 128 kbit/s at 44.1 kHz: 417 bytes of 26.122 ms."""
    return b"ID3\4\0\0\0\0\1\0" + bytes(128) + (b"\xff\xfb\x90\0" + bytes(413)) * frames + bytes(rest)


def flac(seconds: int) -> bytes:
    bits = 44100 << 44 | 1 << 41 | 15 << 36 | 44100 * seconds
    return b"fLaC\0\0\0\x22" + bytes(10) + bits.to_bytes(8, "big") + bytes(16)


def ogg(head: bytes, samples: int) -> bytes:
    page = b"OggS\0\2" + bytes(21) + b"\x13" + head
    return page + bytes(90_000) + b"OggS\0\4" + struct.pack("<q", samples) + bytes(14)


def mp4(ms: int, long: bool = False) -> bytes:
    times = struct.pack(">QQIQ", 1, 1, 1000, ms) if long else struct.pack(">IIII", 1, 1, 1000, ms)
    header = bytes([long, 0, 0, 0]) + times
    inner = struct.pack(">I4s", 8 + len(header), b"mvhd") + header
    movie = struct.pack(">I4s", 8 + len(inner), b"moov") + inner
    data = struct.pack(">I4sQ", 1, b"mdat", 16 + 5000) + bytes(5000)
    return struct.pack(">I4s4sI", 16, b"ftyp", b"mp42", 0) + data + movie


@pytest.mark.parametrize(
    ("raw", "least", "most"),
    [
        (wav(3), 3000, 3010),
        (wav(3, said=1_000_000), 3000, 3010),  # a header that says more bytes a second than there are
        (mp3(100), 2612, 2614),
        (mp3(100, rest=4000), 3612, 3614),  # what is no frame counts at the lowest bit rate
        (flac(7), 7000, 7000),
        (ogg(b"OpusHead\1\1\0\0", 48_000 * 5), 5000, 5000),
        (ogg(b"\x01vorbis\0\0\0\0\1" + struct.pack("<I", 16_000), 48_000), 3000, 3000),
    ],
)
def test_length_of_a_sound(raw: bytes, least: int, most: int) -> None:
    found = audio_of(b64(raw))
    assert found is not None
    assert least <= found.ms <= most
    assert audio_of(raw) == found


@pytest.mark.parametrize("long", [False, True])
def test_length_of_a_film(long: bool) -> None:
    assert video_of(b64(mp4(12_345, long))) == Media("video", ms=12_345)


@pytest.mark.parametrize(
    "data", [None, "", CANARY, "https://x/y.mp3", b"RIFF1234WAVEfmt ", b"fLaC", b"OggS", b"ID3", wav(0)[:30]]
)
def test_length_that_cannot_be_read(data: object) -> None:
    assert audio_of(data) is None
    assert video_of(data) is None


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*IMAGES.values(), pdf(2, packed(b"<</Type/Page>>")), wav(1), mp3(3), flac(1), mp4(5), b""]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=8),
    st.integers(0, 400),
)
def test_no_damage_raises(raw: bytes, damage: list[tuple[int, int]], length: int) -> None:
    hurt = bytearray(raw)
    for at, byte in damage:
        if at < len(hurt):
            hurt[at] = byte
    for data in (bytes(hurt[:length]), b64(bytes(hurt)), bytes(hurt)):
        assert image_of(data).width >= 0
        for read in (pdf_of, audio_of, video_of):
            found = read(data)
            assert found is None or found.pages > 0 or found.ms > 0


# --- what it costs ----------------------------------------------------------------------------------------------------


def cost(name: str, model: str, media: Media) -> tuple[int, int] | None:
    return tokens(media, family(name).media, model)


def image(width: int, height: int, detail: str = "") -> Media:
    return Media("image", width, height, detail=detail)


@pytest.mark.parametrize(
    ("name", "model", "media", "expected"),
    [  # recorded, or from a public table: the sources in families/
        ("claude-1", "claude-sonnet-4-5", image(256, 256), 100),
        ("claude-1", "claude-sonnet-4-5", image(540, 360), 260),
        ("claude-1", "claude-sonnet-4-5", image(228, 148), 54),
        ("claude-2", "claude-opus-5-5", image(1024, 1024), 1369),
        ("claude-2", "claude-opus-5-5", image(1920, 1080), 2691),
        ("o200k", "gpt-4o", image(3008, 2000), 1105),
        ("o200k", "gpt-4o-2024-08-06", image(1024, 1024), 765),
        ("o200k", "gpt-4o", image(4096, 8192, "low"), 85),
        ("o200k", "gpt-4o-mini", image(1, 1), 8500),
        ("o200k", "gpt-5-mini", image(400, 301), 156),
        ("o200k", "gpt-5-mini", image(597, 566), 411),
        ("o200k", "gpt-5.5", image(1245, 1395), 2060),
    ],
)
def test_images_that_were_billed(name: str, model: str, media: Media, expected: int) -> None:
    found = cost(name, model, media)
    assert found is not None
    assert found[1] == expected
    assert expected <= found[0] <= expected * 2.5


@pytest.mark.parametrize(
    ("name", "model", "cap"),
    [("claude-1", "claude-sonnet-4-5", 1600), ("claude-2", "claude-opus-5", 4784), ("o200k", "gpt-4o", 1445),
     ("o200k", "gpt-4o-mini", 48169), ("o200k", "gpt-5.5", 16200), ("o200k", "gpt-6-astra", None),
     ("o200k", "unheard-of", None), ("cl100k", "gpt-3.5-turbo", None)],
)  # fmt: skip
def test_an_image_of_no_known_size_costs_the_cap_if_there_is_one(name: str, model: str, cap: int | None) -> None:
    found = cost(name, model, Media("image"))
    assert (found and found[0]) == cap


SIZES = st.integers(1, 20_000)


@settings(max_examples=200, deadline=None)
@given(SIZES, SIZES, st.sampled_from(["", "low", "high", "auto"]), st.integers(1, 500), st.integers(1, 10**7))
def test_expected_is_at_most_bound_and_bound_at_most_the_cap(w: int, h: int, detail: str, pages: int, ms: int) -> None:
    for name in FAMILIES:
        models = {pattern.replace("*", "x") for rule in family(name).media for pattern in rule["models"]}
        for model in models:
            for media in (image(w, h, detail), Media("pdf", pages=pages), Media("audio", ms=ms), Media("video", ms=ms)):
                found, unknown = cost(name, model, media), cost(name, model, Media("image", detail=detail))
                if found is not None:
                    assert 0 <= found[1] <= found[0]
                    assert media.kind != "image" or unknown is None or found[0] <= unknown[0]


def test_pages_and_seconds_add_up() -> None:
    one, ten = (cost("claude-2", "m", Media("pdf", pages=n)) for n in (1, 10))
    assert one is not None
    assert ten == (one[0] * 10, one[1] * 10)
    assert cost("o200k", "gpt-4o-audio-preview", Media("audio", ms=4488)) == (50, 44)


# --- images that are asked for ----------------------------------------------------------------------------------------


def drawing(model: str, width: int, height: int, quality: str) -> int | None:
    found = cost("o200k", model, Media("drawing", width, height, detail=quality))
    assert found is None or found[0] == found[1]
    return found and found[0]


@pytest.mark.parametrize(
    ("model", "size", "quality", "expected"),
    [  # billed, or from the vendor's guide and calculator: the sources in families/o200k.toml
        ("gpt-image-2", (1024, 1024), "low", 196),
        ("gpt-image-2-2026-04-21", (1024, 1024), "medium", 1756),
        ("gpt-image-2", (1024, 1024), "high", 7024),
        ("gpt-image-2", (1536, 1024), "high", 5488),
        ("gpt-image-2", (1024, 1536), "medium", 1372),
        ("gpt-image-2", (1792, 1024), "high", 5063),
        ("gpt-image-2", (3584, 2048), "high", 12329),
        ("gpt-image-2", (3840, 2160), "high", 13342),
        ("gpt-image-2", (976, 704), "low", 129),
        ("gpt-image-2.5-flare", (2560, 1440), "low", 205),
        ("gpt-image-2.5-sunburst-2026-09-08", (1024, 1536), "high", 1372),
        ("gpt-image-2.5-sunburst", (1254, 1254), "high", 2058),
        ("gpt-image-2.5-sunburst", (1122, 1402), "high", 1630),
        ("gpt-image-1", (1024, 1536), "high", 6240),
        ("gpt-image-1", (0, 0), "low", 408),
        ("gpt-image-1", (1024, 1024), "auto", 4160),
        ("gpt-image-1", (512, 512), "low", None),
        ("gpt-image-2", (1024, 1024), "max", None),
        ("gpt-image-1.5", (1024, 1024), "low", None),
        ("gpt-image-2.6-flare", (1024, 1024), "low", None),
        ("gpt-5.5", (1024, 1024), "low", None),
    ],
)
def test_images_that_are_made(model: str, size: tuple[int, int], quality: str, expected: int | None) -> None:
    assert drawing(model, *size, quality) == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 240), st.integers(1, 240), st.sampled_from(["gpt-image-2", "gpt-image-2.5-flare"]))
def test_an_image_of_no_said_size_costs_the_most_that_one_can(columns: int, rows: int, model: str) -> None:
    width, height = 16 * columns, 16 * rows
    for quality in ("low", "medium", "high"):
        made, dearest = drawing(model, width, height, quality), drawing(model, 0, 0, quality)
        assert made is not None
        assert dearest is not None
        if width * height <= 8_294_400:
            assert made <= dearest <= (drawing(model, 0, 0, "") or 0)


def asked(**fields: Any) -> Measure:
    body = {"model": "gpt-image-2", "prompt": CANARY, "size": "1024x1024", "quality": "low", **fields}
    return measure(body, provider="openai", endpoint="images", vocabulary="o200k")


def test_each_of_several_images_is_billed_as_a_request() -> None:
    files = [("image[]", None), ("image[]", None), ("mask", None)]
    one, three = asked(**{FILES: files}), asked(**{FILES: files}, n=3, partial_images=2)
    assert one.reasons == three.reasons == ()
    assert (one.drawn("o200k", "gpt-image-2"), three.drawn("o200k", "gpt-image-2")) == (196, 3 * (196 + 200))
    assert three.bound("o200k", "gpt-image-2") == 3 * one.bound("o200k", "gpt-image-2") > 3 * 3 * 1536
    assert three.parts_named == {"input_image", "output_image"}
    assert CANARY not in repr(three)


# --- in requests ------------------------------------------------------------------------------------------------------

PNG, PDF, WAV = b64(png(256, 256)), b64(pdf(3)), b64(wav(3))
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
LINK = {"type": "image", "source": {"type": "url", "url": f"https://example.com/{CANARY}"}}


def claude(*content: Any) -> Measure:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": list(content)}]}
    return measure(body, provider="anthropic", endpoint="messages")


def chat(*content: Any, **fields: Any) -> Measure:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": list(content)}], **fields}
    return measure(body, provider="openai", endpoint="chat", vocabulary="o200k")


def test_images_of_claude() -> None:
    text = {"type": "text", "text": "x"}
    plain, one = claude(text), claude(text, PICTURE)
    assert one.reasons == ()
    assert one.bound("claude-1") == plain.bound("claude-1") + 108 + 8
    assert one.expected("claude-1") == plain.expected("claude-1") + 100
    inside = [{"type": "tool_result", "tool_use_id": "t", "content": [PICTURE]},
              {"type": "document", "source": {"type": "content", "content": [PICTURE]}},
              {"type": "image", "source": {"type": "file", "file_id": CANARY}}, LINK]  # fmt: skip
    for block in inside:
        got = claude(block)
        assert got.reasons == got.open("claude-1") == ()
        assert [media.kind for media in got.media] == ["image"]
        assert CANARY not in repr(got)
    assert claude(LINK).bound("claude-2") - claude(text).bound("claude-2") > 4700


def test_documents_of_claude() -> None:
    document = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
    got = claude(document)
    assert (got.reasons, got.media) == ((), (Media("pdf", pages=3),))
    assert got.parts_named == {"input_image"}
    for source in ({"type": "url", "url": CANARY}, {"type": "file", "file_id": CANARY},
                   {"type": "base64", "data": b64(b"%PDF-1.7")}):  # fmt: skip
        assert len(claude({"type": "document", "source": source}).reasons) == 1


def test_media_of_chat_and_responses() -> None:
    url = f"data:image/png;base64,{PNG}"
    picture = chat({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
    assert (picture.reasons, picture.media) == ((), (image(256, 256, "low"),))
    assert picture.bound("o200k", "gpt-4o") == chat().bound("o200k", "gpt-4o") + 85 + 4
    file = chat({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a b"}})
    assert (file.reasons, file.media, file.base_tokens) == ((), (Media("pdf", pages=3),), 2)
    sound = chat({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}, modalities=["text", "audio"])
    assert sound.reasons == ()
    assert sound.parts_named == {"input_audio", "output_audio"}
    assert sound.open("o200k", "gpt-4o-audio-preview") == ()
    assert sound.open("o200k", "gpt-5") == ("audio: its cost on gpt-5 is not known",)
    items = [{"role": "user", "content": [
        {"type": "input_image", "image_url": url, "detail": "high"}, {"type": "input_image", "file_id": "f"},
        {"type": "input_file", "file_data": PDF, "filename": "x"}]},
        {"type": "function_call_output", "call_id": "c",
         "output": [{"type": "input_image", "image_url": url}]}]  # fmt: skip
    got = measure({"model": "gpt-4o", "input": items}, provider="openai", endpoint="responses", vocabulary="o200k")
    assert got.reasons == ()
    assert [media.kind for media in got.media] == ["image", "image", "pdf", "image"]


def test_an_image_by_url_is_open_where_no_cap_is_known() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]}
    with Budget("memory://") as budget:
        assert budget.estimate({"model": "gpt-4o", **body}, provider="openai", endpoint="chat").closed
        got = budget.estimate({"model": "gpt-6-astra", **body}, provider="openai", endpoint="chat")
    assert got.reasons == ("image: its cost on gpt-6-astra is not known",)
