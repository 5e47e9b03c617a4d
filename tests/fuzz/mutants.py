"""Broken PDFs from whole ones: seeded, so that a number brings the same file back. No file is opened but to make seeds of it."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pymupdf

MOST_BYTES = 4_000_000
"""Of a mutant: chunks may be repeated."""
_OBJECT = re.compile(rb"(?:^|[\r\n])(\d{1,7}) (\d{1,5}) obj\b(.*?)\bendobj", re.S)
_STREAM = re.compile(rb"\A(.*?)\bstream\r?\n(.*?)\r?\n?endstream\s*\Z", re.S)
_LENGTH = re.compile(rb"/Length\s+\d+(?:\s+\d+\s+R)?")
_REFERENCE = re.compile(rb"\b(\d{1,7}) 0 R\b")
_NUMBER = re.compile(rb"(?<![\w.#+-])[+-]?\d*\.?\d+(?![\w.])")
_NAME = re.compile(rb"/[A-Za-z][A-Za-z0-9]*")
_ROOT = re.compile(rb"/Root\s+(\d+) 0 R")
EXTREMES = (
    b"0",
    b"-1",
    b"1",
    b"-0",
    b"65536",
    b"2147483647",
    b"-2147483648",
    b"2147483648",
    b"4294967295",
    b"9223372036854775807",
    b"99999999999999999999999999",
    b"1e308",
    b"0.0000000001",
    b"-99999.5",
    b"1000000",
    b"null",
    b"true",
    b"()",
    b"[]",
    b"<<>>",
    b"nan",
)
FILTERS = (
    b"/FlateDecode",
    b"/DCTDecode",
    b"/LZWDecode",
    b"/JBIG2Decode",
    b"/JPXDecode",
    b"/CCITTFaxDecode",
    b"/RunLengthDecode",
    b"/ASCII85Decode",
    b"/ASCIIHexDecode",
    b"/Crypt",
    b"/Nonsense",
    b"[" + b"/FlateDecode " * 40 + b"]",
)
PARAMETERS = (
    b"",
    b"/DecodeParms << /Predictor 15 /Columns 2147483647 >>",
    b"/DecodeParms << /Predictor 2 /Colors 99999 /BitsPerComponent 16 /Columns 60000 >>",
    b"/DecodeParms << /K -1 /Columns 65500 /Rows 65500 >>",
)
OPERATORS = (
    b"q",
    b"Q",
    b"BT",
    b"ET",
    b"BI",
    b"ID",
    b"EI",
    b"Do",
    b"BDC",
    b"EMC",
    b"W n",
    b"f*",
    b"sh",
    b"Tj",
    b"TJ",
    b"'",
    b'"',
)
STOPS = (
    b"endobj",
    b"endstream",
    b"stream\n",
    b"%%EOF",
    b"trailer",
    b"<<",
    b">>",
    b"(",
    b"\\",
    b"\x00",
    b"\xff" * 9,
    b"xref\n0 1\n",
)


@dataclass(frozen=True)
class Seed:
    """A whole PDF that mutants are made of."""

    name: str
    data: bytes
    whole: bytes | None
    """The same with every stream decompressed, and no object within another: it can be taken apart. None: not to be had."""

    @classmethod
    def of(cls, name: str, path: Path, *, take_apart: bool) -> Seed:
        data = path.read_bytes()
        whole = None
        if take_apart:
            with pymupdf.open(stream=data, filetype="pdf") as document:
                whole = document.tobytes(expand=255, encryption=pymupdf.PDF_ENCRYPT_NONE)
        return cls(name, data, whole if whole is not None and len(whole) <= MOST_BYTES else None)


@dataclass
class Part:
    """One object: what it says, and its stream."""

    head: bytes
    stream: bytes | None = None

    @property
    def draws(self) -> bool:
        """Whether its stream looks like a page's content."""
        return self.stream is not None and re.search(rb"\b(?:Tf|Tj|TJ|cm|re|Do)\b", self.stream) is not None


@dataclass
class Parts:
    """A PDF in objects."""

    objects: dict[int, Part]
    root: int
    lengths: dict[int, bytes] = field(default_factory=dict)
    """What is said of the lengths of streams, where it is not true."""

    @classmethod
    def of(cls, data: bytes) -> Parts | None:
        """None where it has no catalog that can be seen."""
        objects = {}
        for match in _OBJECT.finditer(data):
            stream = _STREAM.match(match[3])
            objects[int(match[1])] = Part(stream[1], stream[2]) if stream else Part(match[3])
        root = _ROOT.search(data)
        return cls(objects, int(root[1])) if root and int(root[1]) in objects else None

    def write(self) -> bytes:
        """The file: a correct table, and lengths that are true unless they are to be lies."""
        out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
        offsets = {}
        for number, part in sorted(self.objects.items()):
            offsets[number] = len(out)
            body = part.head.strip()
            if part.stream is not None:
                length = b"/Length " + self.lengths.get(number, b"%d" % len(part.stream))
                body = _LENGTH.sub(b"", body).rstrip()
                body = (
                    (body[:-2] if body.endswith(b">>") else body)
                    + length
                    + b" >>\nstream\n"
                    + part.stream
                    + b"\nendstream"
                )
            out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
        table = len(out)
        size = max(offsets) + 1
        rows = (b"%010d 00000 n \n" % offsets[n] if n in offsets else b"0000000000 65535 f \n" for n in range(size))
        out += b"xref\n0 %d\n%s" % (size, b"".join(rows))
        out += b"trailer\n<< /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, self.root, table)
        return bytes(out)


Chance = random.Random
OnBytes = Callable[[bytearray, Chance, Sequence[Seed]], None]
OnParts = Callable[[Parts, Chance, Sequence[Seed]], None]


# -- damage to the bytes of a file ---------------------------------------------------------------------------------


def flip(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Some bytes are others."""
    for _ in range(chance.choice((1, 4, 32, max(1, len(data) // 500)))):
        data[chance.randrange(len(data))] = chance.randrange(256)


def truncate(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """The end is missing."""
    del data[chance.randrange(len(data)) :]


def cut(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """A chunk is missing."""
    start = chance.randrange(len(data))
    del data[start : start + chance.choice((1, 10, 100, 1000, 10_000))]


def repeat(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """A chunk is there many times."""
    start = chance.randrange(len(data))
    chunk = data[start : start + chance.choice((2, 50, 2000))]
    data[start:start] = (chunk * chance.choice((1, 10, 200)))[:MOST_BYTES]


def zero(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """A block of zeros, as a file system leaves it."""
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.choice((16, 512, 4096)))
    data[start:end] = bytes(end - start)


def lie_about_lengths(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Streams are longer or shorter than they say."""
    found = list(_LENGTH.finditer(data))
    for match in reversed(chance.sample(found, min(len(found), chance.choice((1, 3, 1000))))):
        data[match.start() : match.end()] = b"/Length " + chance.choice(
            (*EXTREMES, b"%d" % chance.randrange(5000), b"1 0 R")
        )


def break_table(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Offsets, startxref, trailer or the table's head are wrong."""
    offsets = list(re.finditer(rb"\d{10} \d{5} [nf]", data))
    kind = chance.randrange(4)
    if kind == 0 and offsets:
        for match in chance.sample(offsets, min(len(offsets), chance.choice((1, 5, 1000)))):
            data[match.start() : match.start() + 10] = b"%010d" % chance.randrange(2 * len(data))
    elif kind == 1 and (start := data.rfind(b"startxref")) >= 0:
        data[start:] = b"startxref\n%d\n%%%%EOF\n" % chance.choice(
            (0, 1, len(data), 2**40, chance.randrange(len(data)))
        )
    elif kind == 2:
        _replace_one(data, re.compile(rb"trailer|xref|/Root|/Size|/Prev|/W\b|/Index"), lambda _: b"/X", chance)
    else:
        _replace_one(data, re.compile(rb"startxref\s+(\d+)\s+%%EOF"), _its_own_predecessor, chance)


def _its_own_predecessor(match: re.Match[bytes]) -> bytes:
    return b"trailer\n<< /Prev %s /Root 1 0 R /Size 9 >>\n%s" % (match[1], match[0])


def swap_objects(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Two objects stand under each other's number."""
    found = list(_OBJECT.finditer(data))
    if len(found) >= 2:
        first, second = sorted(chance.sample(found, 2), key=lambda match: match.start())
        one, two = first[3], second[3]
        data[second.start(3) : second.end(3)] = one
        data[first.start(3) : first.end(3)] = two


def append_again(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Objects are there once more behind the end, changed."""
    found = list(_OBJECT.finditer(data))
    for match in chance.sample(found, min(len(found), chance.choice((1, 5)))):
        other = chance.choice(found)
        data += b"\n%s 0 obj%sendobj\n" % (match[1], other[3])


def insert(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Words of the format where they do not belong, or noise."""
    start = chance.randrange(len(data))
    nest = chance.choice((b"<<", b"[", b"<</A", b"(")) * 20_000
    data[start:start] = chance.choice((*STOPS, chance.randbytes(200), nest))


def splice(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """The head of one file, the tail of another."""
    other = chance.choice(seeds).data
    del data[chance.randrange(len(data)) :]
    data += other[chance.randrange(len(other)) :]


def numbers_anywhere(data: bytearray, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Numbers outside of streams become extremes."""
    for _ in range(chance.choice((1, 3, 10))):
        _replace_one(
            data, re.compile(rb"(?<=[ \[])-?\d+(?:\.\d+)?(?=[ \]/\r\n])"), lambda _: chance.choice(EXTREMES), chance
        )


# -- whole files that say odd things -------------------------------------------------------------------------------


def swap_parts(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Two objects stand under each other's number."""
    one, two = chance.choice([*parts.objects]), chance.choice([*parts.objects])
    parts.objects[one], parts.objects[two] = parts.objects[two], parts.objects[one]


def redirect(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """References lead elsewhere: to wrong kinds, to nothing, in circles."""
    numbers = [*parts.objects, 0, 9_999_999]
    _edit_heads(parts, chance, _REFERENCE, lambda _: b"%d 0 R" % chance.choice(numbers))


def extreme_numbers(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Numbers in dictionaries and arrays become extremes."""
    _edit_heads(parts, chance, _NUMBER, lambda _: chance.choice(EXTREMES))


def other_names(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Names become other names of the same file."""
    names = [name for part in parts.objects.values() for name in _NAME.findall(part.head)]
    if names:
        _edit_heads(parts, chance, _NAME, lambda _: chance.choice(names))


def nest(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """A value is nested thousands deep."""
    opening, closing = chance.choice(((b"[", b"]"), (b"<</A ", b">>")))
    depth = chance.choice((100, 5000, 100_000))
    _edit_heads(parts, chance, _NUMBER, lambda match: opening * depth + match[0] + closing * depth, most=1)


def drop(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Objects are missing."""
    for number in chance.sample([*parts.objects], min(len(parts.objects) - 1, chance.choice((1, 2, 5)))):
        if number != parts.root:
            del parts.objects[number]


def swap_streams(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """An object has another one's stream."""
    having = [number for number, part in parts.objects.items() if part.stream is not None]
    if having:
        parts.objects[chance.choice(having)].stream = parts.objects[chance.choice(having)].stream


def claim_filter(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """A stream says that it is compressed, and how, and it is not; or it is, and broken, or twice."""
    having = [part for part in parts.objects.values() if part.stream is not None]
    for part in chance.sample(having, min(len(having), chance.choice((1, 3)))):
        kind = chance.choice(FILTERS)
        assert part.stream is not None
        if kind == b"/FlateDecode":
            packed = bytearray(zlib.compress(part.stream))
            for _ in range(chance.choice((0, 1, 20))):
                packed[chance.randrange(len(packed))] = chance.randrange(256)
            part.stream = bytes(packed)
        head = part.head.rstrip()
        part.head = (
            head[:-2] + b" /Filter %s %s >>" % (kind, chance.choice(PARAMETERS)) if head.endswith(b">>") else head
        )


def wrong_lengths(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Lengths of streams are lies."""
    having = [number for number, part in parts.objects.items() if part.stream is not None]
    for number in chance.sample(having, min(len(having), chance.choice((1, 3)))):
        parts.lengths[number] = chance.choice((*EXTREMES, b"%d 0 R" % number, b"%d" % chance.randrange(5000)))


def bring(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Objects of another file, with references as they were there."""
    whole = chance.choice([seed for seed in seeds if seed.whole is not None]).whole
    other = Parts.of(whole) if whole is not None else None
    if other is not None:
        for number in chance.sample([*other.objects], min(len(other.objects), chance.choice((1, 5, 20)))):
            parts.objects[number] = other.objects[number]


def content_numbers(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Operands of drawing become extremes."""

    def edit(content: bytes) -> bytes:
        data = bytearray(content)
        for _ in range(chance.choice((1, 5, 20))):
            _replace_one(data, _NUMBER, lambda _: chance.choice(EXTREMES), chance)
        return bytes(data)

    _edit_content(parts, chance, edit)


def content_lines(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Lines of drawing are missing, in another order, there many times, or have operators between them."""

    def edit(content: bytes) -> bytes:
        lines = content.split(b"\n")
        match chance.randrange(4):
            case 0:
                chance.shuffle(lines)
            case 1:
                start = chance.randrange(len(lines))
                lines[start:start] = (lines[start : start + 20] * chance.choice((2, 100, 1000)))[:50_000]
            case 2:
                lines = [line for line in lines if chance.random() > 0.2]
            case _:
                for _ in range(chance.choice((1, 20))):
                    lines.insert(chance.randrange(len(lines) + 1), chance.choice(OPERATORS) + b" ")
                lines.insert(chance.randrange(len(lines) + 1), b"q " * chance.choice((1, 1000, 100_000)))
        return b"\n".join(lines)[:MOST_BYTES]

    _edit_content(parts, chance, edit)


def content_bytes(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Bytes of drawing are others."""

    def edit(content: bytes) -> bytes:
        data = bytearray(content)
        flip(data, chance, seeds)
        return bytes(data)

    _edit_content(parts, chance, edit)


def stream_bytes(parts: Parts, chance: Chance, seeds: Sequence[Seed]) -> None:
    """Bytes of some stream, a font, an image, a map, are others."""
    having = [part for part in parts.objects.values() if part.stream]
    if having:
        part = chance.choice(having)
        data = bytearray(part.stream or b"")
        flip(data, chance, seeds)
        part.stream = bytes(data)


ON_BYTES: tuple[OnBytes, ...] = (
    flip,
    truncate,
    cut,
    repeat,
    zero,
    lie_about_lengths,
    break_table,
    swap_objects,
    append_again,
    insert,
    splice,
    numbers_anywhere,
)
ON_PARTS: tuple[OnParts, ...] = (
    swap_parts,
    redirect,
    extreme_numbers,
    other_names,
    nest,
    drop,
    swap_streams,
    claim_filter,
    wrong_lengths,
    bring,
    content_numbers,
    content_lines,
    content_bytes,
    stream_bytes,
)


@dataclass(frozen=True)
class Mutant:
    """A broken PDF, and how it came about."""

    number: int
    seed: str
    how: tuple[str, ...]
    data: bytes

    def __str__(self) -> str:
        return f"{self.number} {self.seed} ({', '.join(self.how)})"


def mutant(seeds: Sequence[Seed], campaign: int, number: int) -> Mutant:
    """The mutant of that number in the campaign of that number."""
    chance = Chance(f"{campaign}/{number}")
    seed = chance.choice(seeds)
    parts = Parts.of(seed.whole) if seed.whole is not None and chance.random() < 0.6 else None
    how = []
    data = bytearray(seed.data)
    if parts is not None:
        for change in chance.choices(ON_PARTS, k=chance.choice((1, 1, 2, 3))):
            change(parts, chance, seeds)
            how.append(change.__name__)
        data = bytearray(parts.write())
    if parts is None or chance.random() < 0.1:
        for damage in chance.choices(ON_BYTES, k=chance.choice((1, 1, 2, 3))):
            if data:
                damage(data, chance, seeds)
                how.append(damage.__name__)
    return Mutant(number, seed.name, tuple(how), bytes(data[:MOST_BYTES]))


def _replace_one(
    data: bytearray, pattern: re.Pattern[bytes], by: Callable[[re.Match[bytes]], bytes], chance: Chance
) -> None:
    found = list(pattern.finditer(data))
    if found:
        match = chance.choice(found)
        start, end, new = match.start(), match.end(), by(match)
        data[start:end] = new


def _edit_heads(
    parts: Parts,
    chance: Chance,
    pattern: re.Pattern[bytes],
    by: Callable[[re.Match[bytes]], bytes],
    most: int = 8,
) -> None:
    having = [part for part in parts.objects.values() if pattern.search(part.head)]
    for _ in range(chance.randint(1, most) if having else 0):
        part = chance.choice(having)
        data = bytearray(part.head)
        _replace_one(data, pattern, by, chance)
        part.head = bytes(data)


def _edit_content(parts: Parts, chance: Chance, edit: Callable[[bytes], bytes]) -> None:
    having = [part for part in parts.objects.values() if part.draws]
    if having:
        part = chance.choice(having)
        part.stream = edit(part.stream or b"")
