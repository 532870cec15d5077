"""Changes to files that know what a file is made of: its lengths, sizes, offsets, types and JSON values.

Every function takes a file's bytes and a source of randomness and returns other bytes. They are written to
reach past the first check of a reader: archives are packed again, checksums and hashes made to fit.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 28, 32, 127, 128, 255, 256, 4096, 65535, 65536, 10**6),
    *(2**24, 2**26, 2**26 + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**63 - 1, 2**63, 2**64 - 1),
)
"""Sizes at which something may give way."""

LARGEST = 2**24  # bytes of what a change may lead to

TEXTS = (
    *("", "0", "a", "../../x", "/etc/passwd", "a\0b", "\x1b]0;x\x07", "\u202e", "\ud800", "é" * 300),
    *("<script>", "[bold]x[/bold]", "{{ 7 * 7 }}", "wrn-10-1", "wrn-94-99", "wrn-9999999-1", "linear"),
    *("tanh-cnn", "tanh-cnn-deep", "scatter-cnn", "encoder", "pixels", "scattering", "pixels+scattering"),
    *("random-wrn-10-1", "vgg19", "resnet18", "squeezenet1_0", "wrn-10-4-small", "timm:hf-hub:x/y", "+"),
    *("dp-sgd", "dp-mepf", "dp-ridge", "bundled:digits", "cpu", "cuda:99", "train", "test", "F64", "BF16"),
)


def any_number(random: random.Random) -> int:
    """Of either sign, and near one of those above."""
    return random.choice((1, 1, 1, -1)) * (random.choice(NUMBERS) + random.choice((0, 0, 0, -1, 1)))


def raw(data: bytes, random: random.Random) -> bytes:
    """A few bytes changed, taken out, put in or repeated; a number written over them; the end cut off."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(content) + 1)
        match random.randrange(6):
            case 0 if at < len(content):
                content[at] ^= 1 << random.randrange(8)
            case 1:
                size = random.choice((1, 2, 4, 8))
                order = random.choice(("little", "big"))
                number = any_number(random) % (1 << 8 * size)
                content[at : at + size] = number.to_bytes(size, order)
            case 2:
                del content[at : at + random.choice((1, 2, 4, 16, 256))]
            case 3:
                content[at:at] = random.randbytes(random.choice((1, 4, 32)))
            case 4:
                content[at:at] = content[at : at + random.choice((4, 64, 512))] * random.choice((1, 2, 8))
            case _:
                del content[random.choice((at, len(content) // 2, len(content) - 1)) :]
    return bytes(content)


def any_value(random: random.Random) -> Any:
    """A JSON value that is probably out of place."""
    match random.randrange(10):
        case 0 | 1 | 2:
            return any_number(random)
        case 3 | 4:
            return random.choice(TEXTS)
        case 5:
            return random.choice((0.5, -0.0, 1e-320, 1e300, float("inf"), float("nan")))
        case 6:
            return random.choice((None, True, False, [], {}))
        case 7:
            return [any_number(random) for _ in range(random.randrange(5))]
        case 8:
            return {random.choice(TEXTS): any_value(random)}
        case _:
            value: Any = 0
            for _ in range(random.choice((2, 31, 40, 300))):
                value = [value] if random.random() < 0.5 else {"a": value}
            return value


def change_value(value: Any, random: random.Random) -> Any:
    """A JSON value with something in it changed, taken out, put in, or exchanged."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        match random.randrange(12):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {random.choice((*TEXTS, *value)): any_value(random)}
            case 2:
                return value | {key: value[random.choice(list(value))]}
            case _:
                return value | {key: change_value(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        at = random.randrange(len(value))
        match random.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value[:at], any_value(random), *value[at:]]
            case 2:
                return value * random.choice((2, 10, 200))
            case _:
                return [*value[:at], change_value(value[at], random), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and random.random() < 0.5:
        return value + random.choice((-1, 1, value, -2 * value))
    return any_value(random)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def json_text(data: bytes, random: random.Random) -> bytes:
    """A value changed; now and then the text."""
    if random.random() < 0.1:
        return random.choice((raw(data, random), b"[" * 10**5, b'{"a":' * 10**5, b"1" + b"0" * 5000, b"\xff"))
    try:
        return _dumped(change_value(json.loads(data), random))
    except (ValueError, RecursionError):
        return raw(data, random)


def json_lines(data: bytes, random: random.Random) -> bytes:
    """One line changed, left out or repeated."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    match random.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[random.randrange(len(lines))])
        case _:
            lines[at] = json_text(lines[at], random)
    return b"\n".join(lines)


def ledger(data: bytes, random: random.Random) -> bytes:
    """Lines of a ledger changed, and the chain of their hashes made to fit, as its owner could."""
    changed = json_lines(data, random)
    if random.random() < 0.2:
        return changed
    previous, lines = "0" * 64, []
    for line in changed.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                entry.pop("sha256", None)
                entry["previous"] = previous
                own = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
                line, previous = _dumped({"previous": previous, **entry, "sha256": own}), own
        lines.append(line)
    return b"\n".join(lines)


def safetensors(data: bytes, random: random.Random) -> bytes:
    """The header changed (types, shapes, offsets, metadata), its length, or the tensors."""
    length = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + length], data[8 + length :]
    match random.randrange(10):
        case 0:
            return raw(data, random)
        case 1:
            return (any_number(random) % 2**64).to_bytes(8, "little") + data[8:]
        case 2:
            tensors = random.choice((b"\x00", b"\xff", b"\x7f")) * len(tensors)
        case 3:
            tensors = raw(tensors, random)
        case 4:  # one tensor's description for another's
            with contextlib.suppress(ValueError):
                fields = json.loads(header)
                one, other = random.choices(list(fields) or [""], k=2)
                fields[one] = fields.get(other)
                header = _dumped(fields)
        case 5 | 6:  # the JSON inside the metadata
            with contextlib.suppress(ValueError, AttributeError):
                fields = json.loads(header)
                metadata = fields.get("__metadata__", {})
                for key in metadata:
                    metadata[key] = json_text(metadata[key].encode(), random).decode(errors="replace")
                header = _dumped(fields)
        case 7:  # a tensor of another shape or type, in the bytes that it has
            with contextlib.suppress(ValueError, AttributeError, KeyError, TypeError, IndexError):
                fields = json.loads(header)
                name = random.choice([key for key in fields if key != "__metadata__"])
                if random.random() < 0.5:
                    kinds = (
                        "F64",
                        "F32",
                        "F16",
                        "BF16",
                        "I64",
                        "I32",
                        "I8",
                        "U8",
                        "BOOL",
                        "F8_E4M3",
                        "C64",
                        "F4",
                    )
                    fields[name]["dtype"] = random.choice(kinds)
                else:
                    fields[name]["shape"] = random.choice(
                        (fields[name]["shape"][::-1], [1, *fields[name]["shape"]])
                    )
                header = _dumped(fields)
        case _:
            header = json_text(header, random)
    return len(header).to_bytes(8, "little") + header + tensors


def idx(data: bytes, random: random.Random) -> bytes:
    """One of the numbers that an IDX file begins with."""
    if random.random() < 0.3:
        return raw(data, random)
    content = bytearray(data)
    at = 4 * random.randrange(4)
    content[at : at + 4] = struct.pack(">I", any_number(random) % 2**32)
    return bytes(content)


def gzipped_idx(data: bytes, random: random.Random) -> bytes:
    """The same inside gzip."""
    if random.random() < 0.2:
        return raw(data, random)
    try:
        content = gzip.decompress(data)
    except Exception:  # what was raw already
        return raw(data, random)
    if random.random() < 0.05:
        content += bytes(random.choice((1, 10**6, 10**7)))
    return gzip.compress(idx(content, random), mtime=0)


def npy(data: bytes, random: random.Random) -> bytes:
    """The description of an array: its type, its shape, its order."""
    if random.random() < 0.15 or data[:6] != b"\x93NUMPY":
        return raw(data, random)
    start = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    header, content = data[start : start + length].decode("latin1"), data[start + length :]
    match random.randrange(6):
        case 0:
            shape = tuple(any_number(random) for _ in range(random.randrange(6)))
            header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
        case 1:
            kinds = ("|O", "<f8", ">i8", "<U9", "|V7", "<M8[s]", "|b1", "<c16", "|S0", "<u2", "|V0", "<i1")
            header = header.replace("|u1", random.choice(kinds)).replace("<i8", random.choice(kinds))
        case 2:
            kinds = ("[('a', '|O')]", "[('a', '|u1', (10000, 100000))]", "('|u1', (9,) * 9)", "x", "[]", "1")
            header = header.replace("'|u1'", random.choice(kinds)).replace("'<i8'", random.choice(kinds))
        case 3:
            header = "(" * random.choice((50, 5000, 50000)) + header
        case 4:
            header = header.replace("False", random.choice(("True", "None", "1")))
        case _:
            header = raw(header.encode("latin1"), random).decode("latin1")
    encoded = header.encode("latin1")
    size = len(encoded).to_bytes(start - 8, "little") if len(encoded) < 2**16 else b"\xff" * (start - 8)
    return data[:8] + size + encoded + content


def npz(data: bytes, random: random.Random) -> bytes:
    """A member of the archive changed, renamed, repeated or left out, and the archive packed again."""
    if random.random() < 0.2:
        return raw(data, random)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        at = random.randrange(len(members))
    except Exception:  # what was raw already
        return raw(data, random)
    name, content = members[at]
    match random.randrange(8):
        case 0:
            members[at] = (
                random.choice((f"../{name}", f"/{name}", "train_images.npy", "labels.npy", "")),
                content,
            )
        case 1:
            members.append((name, npy(content, random)))
        case 2:
            del members[at]
        case 3:
            members[at] = (name, content + bytes(random.choice((1, 10**6, 10**7))))
        case _:
            members[at] = (name, npy(content, random))
    out = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")  # of two members of one name
        with zipfile.ZipFile(out, "w") as archive:
            method = random.choice(methods)
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


PNG_CHUNKS = (
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"iCCP",
    b"eXIf",
    b"PLTE",
    b"tRNS",
    b"IDAT",
    b"acTL",
    b"fdAT",
    b"IEND",
)


def png(data: bytes, random: random.Random) -> bytes:
    """A chunk changed, left out, repeated or put in, with its checksum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks or random.random() < 0.15:
        return raw(data, random)
    at = random.randrange(len(chunks))
    kind, content = chunks[at]
    match random.randrange(7):
        case 0 | 1:
            header = bytearray(chunks[0][1])
            if len(header) == 13:
                field = random.randrange(7)
                if field < 2:
                    header[4 * field : 4 * field + 4] = struct.pack(">I", any_number(random) % 2**32)
                else:
                    header[6 + field] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
            chunks[0] = (chunks[0][0], bytes(header))
        case 2:
            filled = bytes(random.choice((10, 10**6, 10**7)))
            text = b"Comment\0\0" + zlib.compress(filled)
            chunks.insert(random.choice((1, at)), (random.choice(PNG_CHUNKS), text))
        case 3:
            chunks.insert(at, chunks[random.randrange(len(chunks))])
        case 4:
            del chunks[at]
        case 5 if kind == b"IDAT":
            with contextlib.suppress(zlib.error):
                content = zlib.decompress(content)
            chunks[at] = (kind, zlib.compress(raw(content, random) + bytes(random.choice((0, 10**6)))))
        case _:
            chunks[at] = (kind, raw(content, random))
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return data[:8] + body


def tiff(data: bytes, random: random.Random) -> bytes:
    """An entry of the first directory: its tag, type, count or value."""
    if data[:4] != b"II*\0" or random.random() < 0.3:
        return raw(data, random)
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    content = bytearray(data)
    at = start + 2 + 12 * random.randrange(max(1, min(count, 40)))
    offset, size = random.choice(((0, 2), (2, 2), (4, 4), (8, 4), (8, 2)))
    content[at + offset : at + offset + size] = (any_number(random) % (1 << 8 * size)).to_bytes(
        size, "little"
    )
    return bytes(content)


def parquet(data: bytes, random: random.Random) -> bytes:
    """The footer, or a page, with the rest in place."""
    length = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != b"PAR1" or length > len(data) - 12:
        return raw(data, random)
    body, footer = data[: -8 - length], data[-8 - length : -8]
    content = bytearray(footer if random.random() < 0.5 else body)
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(content)) if content else 0
        match random.randrange(4):
            case 0 if content:
                content[at] ^= 1 << random.randrange(8)
            case 1 if content:
                content[at] = random.choice((0, 1, 2, 0x15, 0x7F, 0x80, 0xFF))
            case _:  # a number in the footer's own form, over another
                number, encoded = 2 * abs(any_number(random)), bytearray()
                while number > 127:
                    encoded.append(number & 127 | 128)
                    number >>= 7
                encoded.append(number)
                content[at : at + random.choice((1, len(encoded)))] = encoded
    if content[:4] == b"PAR1":
        return bytes(content) + footer + data[-8:]
    return body + bytes(content) + len(content).to_bytes(4, "little") + b"PAR1"


def arrow(data: bytes, random: random.Random) -> bytes:
    """Lengths, places and kinds, which are numbers of two, four or eight bytes, each at a multiple of its
    size."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        size = random.choice((2, 4, 4, 8, 8))
        at = size * random.randrange(len(content) // size + 1)
        number = random.choice((any_number(random), random.randrange(64)))
        content[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(content) if random.random() < 0.9 else raw(bytes(content), random)


TOML_WORDS = (
    *(
        b"[config]\n",
        b"a" * 5000 + b" = 1\n",
        b"a = " + b"[" * 5000,
        b"a." * 5000 + b"b = 1\n",
        b"epsilon = nan\n",
    ),
    *(
        b"epsilon = 1e999\n",
        b"steps = " + b"9" * 5000,
        b'x = """',
        b"d = 1979-05-27T07:32:00Z\n",
        b"\xff",
        b"\0",
    ),
    *(
        b"epsilon = true\n",
        b"data = '../../x'\n",
        b"size = -1\n",
        b"config = 3\n",
        b"[[config]]\n",
        b"[a.b.c]\n",
    ),
    *(
        b"x = {a = {b = {}}}\n",
        b"# \x1b[31m\n",
        b"seed = 0x7fffffffffffffffffffff\n",
        b"method = 'dp-randp'\n",
    ),
)


def toml(data: bytes, random: random.Random) -> bytes:
    """A line in, out or changed."""
    lines = data.splitlines(keepends=True) or [b""]
    at = random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            lines.insert(at, random.choice(TOML_WORDS))
        case 1:
            name, equals, _ = lines[at].partition(b"=")
            value = random.choice((str(any_number(random)), json.dumps(random.choice(TEXTS)), "[1, 2]", "{}"))
            lines[at] = name + equals + value.encode() + b"\n"
        case 2:
            del lines[at]
        case _:
            lines[at] = raw(lines[at], random)
    return b"".join(lines)


MUTATIONS: dict[str, Mutation] = {
    "raw": raw,
    "json": json_text,
    "lines": json_lines,
    "ledger": ledger,
    "safetensors": safetensors,
    "idx": idx,
    "gzip": gzipped_idx,
    "npz": npz,
    "png": png,
    "tiff": tiff,
    "parquet": parquet,
    "arrow": arrow,
    "toml": toml,
}
"""By the kinds of files that targets name."""


def mutate(kind: str, data: bytes, random: random.Random) -> bytes:
    """One change to a file of that kind. One that is none any more is changed byte by byte."""
    try:
        changed = MUTATIONS[kind](data, random)
    except Exception:  # earlier changes may have made anything of it
        return raw(data, random)
    return changed if len(changed) <= LARGEST else raw(data, random)
