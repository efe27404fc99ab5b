#!/usr/bin/env python3
"""Reads a recording by nothing but the chapter `recordings` of the manual, and the program `zstd`.

    read_recording.py FILE      a line of JSON for each event, then one for how it ended
"""
import base64
import json
import subprocess
import sys
import zlib


class Bad(Exception):
    pass


def need(truth, what):
    if not truth:
        raise Bad(what)


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def take(self, count):
        if self.left() < count:
            raise EOFError
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "big")

    def varint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                need(value < 1 << 64 and shift <= 70, "a number is too large")
                return value


def check(crc, *parts):
    need(zlib.crc32(b"".join(parts)) == crc, "a checksum is wrong")


def u32(number):
    return number.to_bytes(4, "big")


def decompress(data):
    """What of the frame can be decompressed: it may have no end."""
    return subprocess.run(["zstd", "-d", "-c", "-q"], input=data, capture_output=True).stdout


def events(plain, now):
    source = Bytes(plain)
    while source.left():
        kind = source.take(1)[0]
        now += source.varint()
        if kind in (1, 2):
            data = source.take(source.varint())
            yield {"ms": now, "kind": kind, "data": base64.b64encode(data).decode()}
        elif kind == 3:
            yield {"ms": now, "kind": kind, "columns": source.varint(), "rows": source.varint()}
        elif kind in (4, 5):
            yield {"ms": now, "kind": kind, "number": source.varint()}
        elif kind == 6:
            yield {"ms": now, "kind": kind, "signal": source.take(source.varint()).decode()}
        else:
            need(kind == 7, "an event of an unknown kind")
            yield {"ms": now, "kind": kind}


class Segment:
    def __init__(self, source, number):
        self.offset = source.at
        head = source.take(24)
        fields = Bytes(head)
        need(fields.take(4) == b"TPSG", "no segment begins here")
        need(fields.number(4) == number, "a segment is missing")
        self.time = fields.number(8)
        self.size = (fields.number(2), fields.number(2))
        check(fields.number(4), head[:20])
        self.data = b""


def index(source, segments):
    begin = source.at
    need(source.take(4) == b"TPIX", "no index begins here")
    length = source.number(4)
    crc = source.number(4)
    body = source.take(length)
    need(source.number(4) == length and source.take(4) == b"TPEN", "the index has another end")
    check(crc, b"TPIX", u32(length), body, u32(length), b"TPEN")
    need(source.left() == 0, "something follows the index")
    need(int.from_bytes(source.data[-8:-4], "big") + 20 == len(source.data) - begin, "it is not found from the end")
    body = Bytes(body)
    found = {"duration": body.number(8), "output": body.number(8), "segments": body.number(4)}
    found["largest"] = [body.number(2), body.number(2)]
    need(body.left() % 16 == 0 and body.left() <= 1024 * 16, "the entries do not fit")
    entries = [(body.number(8), body.number(8)) for _ in range(body.left() // 16)]
    known = {(segment.time, segment.offset) for segment in segments}
    need(found["segments"] == len(segments), "it counts other segments")
    need(all(entry in known for entry in entries), "an entry points to no segment")
    need(not segments or entries[0] == (segments[0].time, segments[0].offset), "the first entry is another")
    return found


def units(source, segments):
    """Reads all units into `segments`; the index, or why there is none."""
    header = source.take(8)
    need(header == b"TPREC\0\0\1", "it does not begin like a recording")
    length = source.number(4)
    crc = source.number(4)
    text = source.take(length)
    check(crc, header, u32(length), text)
    yield {"meta": json.loads(text)}
    while source.left():
        first = source.data[source.at]
        if first == 0:
            length = source.number(4)
            need(0 < length <= 524288, "a chunk has an impossible length")
            crc = source.number(4)
            data = source.take(length)
            check(crc, u32(length), data)
            segments[-1].data += data
        elif source.data[source.at:source.at + 4] == b"TPSG":
            segments.append(Segment(source, len(segments)))
        else:
            yield {"index": index(source, segments)}


def main(path):
    with open(path, "rb") as file:
        source = Bytes(file.read())
    segments, lines, ending = [], [], {"ending": "whole"}
    try:
        for line in units(source, segments):
            lines.append(line)
    except EOFError:
        ending = {"ending": "cut"}
    except Bad as bad:
        ending = {"ending": str(bad)}
    out = lines[:1]
    for segment in segments:
        try:
            out.extend(events(decompress(segment.data), segment.time))
        except (EOFError, Bad) as bad:
            ending = {"ending": f"events: {bad}"}
    for line in out + lines[1:] + [ending]:
        print(json.dumps(line))


main(sys.argv[1])
