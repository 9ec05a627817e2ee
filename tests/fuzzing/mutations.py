"""Changes to files that keep them close to valid: of bytes, and of pickles, archives, headers and texts by their structure."""

import binascii
import io
import json
import pickletools
import random
import re
import struct
import zipfile

_NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    31,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**16,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
_TOKENS = [
    b"cposix\nsystem\n",
    b"cbuiltins\neval\n",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"c_codecs\nencode\n",
    b"cbuiltins\ntuple\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nSize\n",
    b"__builtin__\ngetattr\n",
    b"cmmengine\nX\n",
    b"X\x01\x00\x00\x00O",
    b"X\x06\x00\x00\x00latin1",
    b"X\x02\x00\x00\x00f4",
    b"(X\x02\x00\x00\x00idtR",
    b"R",
    b"b",
    b"\x81",
    b"\x92",
    b"(",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b")",
    b"]",
    b"}",
    b"N",
    b"\x88",
    b"h\x00",
    b"q\x00",
    b"r\xff\xff\xff\x7f",
    b"j\x05\0\0\0",
    b"\x94",
    b"2",
    b"0",
    b"1",
    b"o",
    b"i",
    b"Q",
    b"P0\n",
    b"\x82\x01",
    b"\x84\1\0\0\0",
    b"e",
    b"a",
    b"u",
    b"s",
    b"\x90",
    b"\x91",
    b"\x8f",
    b".",
    b"J\xff\xff\xff\xff",
    b"\x8a\x08\0\0\0\0\0\0\0\x40",
    b"\x8b\xff\xff\xff\x7f",
    b"L1L\n",
    b"I01\n",
    b"F1e999\n",
    b"\x8e\0\0\0\0\x01\0\0\0",
    b"\x96\0\0\0\0\x01\0\0\0",
    b"\x95\0\0\0\0\x01\0\0\0",
    b"\x8d\0\0\0\0\0\0\0\x80",
    b"B\xff\xff\xff\x7f",
    b"K\x00",
    b"G\x7f\xf0\0\0\0\0\0\0",
    b"__class__",
    b"__setstate__",
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"\xff\xd8",
    b"\xff\xda",
    b"\xff\xd9",
    b"II*\0",
]
_WORDS = [
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    "=",
    ":",
    "-",
    "+",
    ".a",
    "()",
    "[0]",
    "dict(",
    "'",
    '"',
    "'''",
    "\\",
    "\n",
    "\r",
    "#",
    "lambda: ",
    "not ",
    "f'",
    "b'",
    "9",
    "1e9",
    "0x",
    "norm_cfg",
    "model",
    "*",
    "**",
    "if ",
    " else ",
    "\n ",
    "\t",
    "\0",
    "\x0c",
    "é",
    "None",
    "{1}",
    "{[1]:",
    "...",
    "1j",
    "@",
    ";",
    "&a ",
    "*a",
    "<<: ",
    "- ",
    "? ",
    "!!int ",
    "!!python/name:os.system ",
    "nan",
    ".inf",
]


def mutated(kind: str, samples: list, chosen: random.Random) -> bytes:
    """Returns one of the samples of a format after one to four changes."""
    content = chosen.choice(samples)
    for _ in range(chosen.choice((1, 1, 1, 2, 2, 3, 4))):
        change = _of_bytes if chosen.random() < 0.4 else _BY_KIND.get(kind, _of_bytes)
        try:
            content = change(content, chosen, samples)
        except Exception:  # it cannot be taken apart any more
            content = _of_bytes(content, chosen, samples)
        content = content[: 2**16]
    return content


def _of_bytes(content, chosen, samples):
    place = chosen.randrange(len(content) + 1)
    change = chosen.randrange(8)
    if change == 0:
        place = min(place, len(content) - 1) if content else 0
        return content[:place] + bytes([content[place] ^ 1 << chosen.randrange(8)]) + content[place + 1 :] if content else b"\0"
    if change == 1:
        return content[:place]
    if change == 2:
        return content[:place] + chosen.choice(_TOKENS) + content[place:]
    if change == 3:
        return content[:place] + content[place + chosen.choice((1, 1, 2, 4, 8, 50)) :]
    if change == 4:
        part = content[place : place + chosen.choice((1, 4, 16, 200))]
        return content[:place] + part * chosen.choice((2, 3, 50, 1000)) + content[place + len(part) :]
    if change == 5:
        other = chosen.choice(samples)
        return content[:place] + other[chosen.randrange(len(other) + 1) :]
    width, order = chosen.choice((1, 2, 4, 8)), chosen.choice(("little", "big"))
    number = (chosen.choice(_NUMBERS) + chosen.choice((0, 0, 1, -1))) % 256**width
    return content[:place] + number.to_bytes(width, order) + content[place + width :]


def _of_pickle(content, chosen, samples):
    """Changes, adds, removes, repeats or moves operations of the first pickle that is in there."""
    places, rest = [], len(content)
    for operation, argument, place in pickletools.genops(content):
        places.append((place, operation, argument))
    rest = place + 1
    ends = [place for place, _, _ in places[1:]] + [rest]
    parts = [content[place:end] for (place, _, _), end in zip(places, ends)]
    here = chosen.randrange(len(parts))
    change = chosen.randrange(7)
    if change == 0:
        parts.insert(here, chosen.choice(_TOKENS))
    elif change == 1:
        parts[here] = chosen.choice(_TOKENS)
    elif change == 2:
        del parts[here : here + chosen.choice((1, 1, 2, 5))]
    elif change == 3:
        parts[here:here] = parts[here : here + chosen.choice((1, 2, 5, 20))] * chosen.choice((1, 2, 60))
    elif change == 4:
        there = chosen.randrange(len(parts))
        parts[here], parts[there] = parts[there], parts[here]
    elif change == 5:
        numbers = [
            index for index, (_, _, argument) in enumerate(places) if type(argument) is int and parts[index][:1] in b"KMJ\x8a"
        ]
        if numbers:
            value = chosen.choice((*_NUMBERS, -1, -4, -(2**31), -(2**62)))
            parts[chosen.choice(numbers)] = b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
    else:
        texts = [
            index for index, (_, _, argument) in enumerate(places) if isinstance(argument, str) and parts[index][:1] == b"X"
        ]
        if texts:
            text = chosen.choice(
                (b"O", b"V8", b"f8", b"i1", b">", b"=", b"latin1", b"", b"a" * 300, b"../x", b"\xff\xfe", b"w\n\x1b[0m")
            )
            parts[chosen.choice(texts)] = b"X" + struct.pack("<I", len(text)) + text
    return b"".join(parts) + content[rest:]


def _of_stream(content, chosen, samples):
    """Changes one of the five pickles in PyTorch's old format."""
    start = 0
    for _ in range(chosen.choice((1, 2, 3, 3, 3, 3, 3, 4))):
        *_, (_, _, place) = pickletools.genops(content[start:])
        start += place + 1
    return content[:start] + _of_pickle(content[start:], chosen, samples)


def _of_archive(content, chosen, samples):
    """Changes an archive's pickle, entries or directory; checksums are right."""
    if chosen.random() < 0.2:
        directory = content.index(b"PK\x01\x02")
        return content[:directory] + _of_bytes(content[directory:], chosen, samples)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    change = chosen.random()
    if change < 0.7:
        entries = [
            (name, _of_pickle(values, chosen, samples) if name.endswith("data.pkl") else values) for name, values in entries
        ]
    elif change < 0.8:
        del entries[chosen.randrange(len(entries))]
    elif change < 0.9:
        name, values = chosen.choice(entries)
        entries.append((chosen.choice((name, name + "/", "x/data.pkl", "a/b/data.pkl", "")), values))
    else:
        here = chosen.randrange(len(entries))
        entries[here] = entries[here][0], _of_bytes(entries[here][1], chosen, samples)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", chosen.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))) as archive:
        for name, values in entries:
            archive.writestr(name, values)
    return file.getvalue()


def _of_json(content, chosen, samples):
    """Changes a value or a key somewhere in a JSON text."""
    found = json.loads(content)
    holders, waiting = [], [found]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, (dict, list)) and holder:
            holders.append(holder)
            waiting.extend(holder.values() if isinstance(holder, dict) else holder)
    holder = chosen.choice(holders)
    key = chosen.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    value = chosen.choice(
        (*_NUMBERS, -1, 0.5, None, True, "F8_E4M3", "BF16", "x" * 300, [], {}, [2, 3], [0, 8], "a\n\x1b[0m", holder[key])
    )
    if isinstance(holder, dict) and chosen.random() < 0.3:
        holder[chosen.choice(("", "a\n", "__metadata__", "weights_sha256", "k" * 300))] = value
    else:
        holder[key] = value
    return json.dumps(found).encode()


def _of_safetensors(content, chosen, samples):
    size = int.from_bytes(content[:8], "little")
    header = _of_json(content[8 : 8 + size], chosen, samples)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def _of_text(content, chosen, samples):
    """Adds a word to a text, or many, or replaces or moves parts of it."""
    parts = re.findall(r"\w+|\W", content.decode("utf-8", "replace"))
    here = chosen.randrange(len(parts) + 1)
    change = chosen.randrange(4)
    if change == 0:
        parts.insert(here, chosen.choice(_WORDS) * chosen.choice((1, 1, 1, 2, 100, 5000)))
    elif change == 1:
        parts[here : here + 1] = [chosen.choice(_WORDS)]
    elif change == 2:
        del parts[here : here + chosen.choice((1, 2, 10))]
    else:
        parts[here:here] = parts[here : here + chosen.choice((2, 10, 50))] * chosen.choice((1, 2, 50))
    return "".join(parts).encode()


def _of_image(content, chosen, samples):
    """Changes a chunk of a PNG, whose checksum is right; other images as any bytes, most at their beginning."""
    if not content.startswith(b"\x89PNG"):
        start = min(len(content), chosen.choice((60, 200, 1000)))
        return _of_bytes(content[:start], chosen, samples) + content[start:]
    chunks, place = [], 8
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    here = chosen.randrange(len(chunks))
    if chosen.random() < 0.2:
        chunks.insert(chosen.randrange(len(chunks) + 1), chunks[here])
    else:
        chunks[here] = chunks[here][0], _of_bytes(chunks[here][1], chosen, samples)
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", binascii.crc32(kind + body)) for kind, body in chunks
    ]
    return content[:8] + b"".join(parts)


_BY_KIND = {
    "pdparams": _of_pickle,
    "pdopt": _of_pickle,
    "pth": _of_archive,
    "stream": _of_stream,
    "safetensors": _of_safetensors,
    "config": _of_text,
    "note": _of_json,
    "deploy": _of_text,
    "labelme": _of_json,
    "polygons": _of_json,
    "image": _of_image,
    "label": _of_image,
}
