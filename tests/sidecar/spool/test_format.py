"""The layout on disk, which is a promise to spools that exist, and the reader against any damage to it."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import hypothesis.strategies as st
import pytest
import zstandard
from hypothesis import given, settings

from contract.framing import BodyFormat
from sidecar.spool.damage import DamageLedger
from sidecar.spool.filesystem import MAX_BUFFERS, Filesystem, write_all
from sidecar.spool.format import (
    MAX_RECORD_BYTES,
    Encoding,
    Flags,
    Record,
    SegmentHeader,
    ShedClass,
    pack_record_header,
    pack_segment_header,
    unpack_record_header,
    unpack_segment_header,
)
from sidecar.spool.identity import write_spool_id
from sidecar.spool.reader import SpoolReader
from sidecar.spool.segments import list_segments, segment_path
from tests.sidecar.spool.memory_disk import MemoryDisk, MemoryFilesystem

SPOOL = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
HEADER = SegmentHeader(SPOOL, 41, 1_750_000_000_000_000)


def crc32c(data: bytes, crc: int = 0) -> int:
    """Castagnoli's checksum bit by bit, to have a second opinion."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_layout_of_a_segment_header_has_changed() -> None:
    packed = pack_segment_header(HEADER)
    parts = ["544d53504f4f4c00", "0100", "4000", "00000000", SPOOL.hex, "2900000000000000", "00605ba09d370600", "00" * 12]
    assert packed[:60].hex() == "".join(parts)
    assert packed[60:] == crc32c(packed[:60]).to_bytes(4, "little")
    assert unpack_segment_header(packed) == HEADER


def test_the_layout_of_a_record_has_changed() -> None:
    flags = Flags(Encoding.ZSTD, BodyFormat.SINGLE, ShedClass.VITAL)
    packed = pack_record_header(b"body", 42, 7, flags.to_int(), 1_750_000_000_000_001, HEADER.seed)
    seed = crc32c(SPOOL.bytes + (41).to_bytes(8, "little"))
    parts = ["f5544d52", "04000000", "2a00000000000000", "01605ba09d370600", "07000000", "2e00", "0000"]
    assert packed[:32].hex() == "".join(parts)
    assert packed[32:36] == crc32c(b"body", seed).to_bytes(4, "little")
    assert packed[36:] == crc32c(packed[:36], seed).to_bytes(4, "little")
    header = unpack_record_header(packed, seed)
    assert header is not None
    assert (header.length, header.seq, header.events, header.flags, header.last_seq) == (4, 42, 7, flags, 48)
    assert header.matches(b"body", seed)
    assert not header.matches(b"bodY", seed)


def test_a_record_of_another_segment_passes() -> None:
    packed = pack_record_header(b"body", 42, 1, 0, 0, HEADER.seed)
    assert unpack_record_header(packed, HEADER._replace(first_seq=1).seed) is None
    assert unpack_record_header(packed, HEADER._replace(spool_id=UUID(int=0)).seed) is None


SENSELESS = {
    "too long": {"payload": bytes(MAX_RECORD_BYTES + 1)},
    "no events": {"count": 0},
    "number zero": {"seq": 0},
    "number beyond the largest": {"seq": 2**63 - 1, "count": 2},
    "unknown flag": {"flags": 1 << 6},
    "unknown encoding": {"flags": 3},
}


@pytest.mark.parametrize("change", SENSELESS.values(), ids=SENSELESS)
def test_a_header_with_a_right_checksum_and_senseless_fields_is_believed(change: dict[str, object]) -> None:
    fields = {"payload": b"", "seq": 1, "count": 1, "flags": 0, "received_at": 0} | change
    assert unpack_record_header(pack_record_header(**fields, seed=HEADER.seed), HEADER.seed) is None  # type: ignore[arg-type]


@given(st.sampled_from(Encoding), st.sampled_from(BodyFormat), st.sampled_from(ShedClass))
def test_flags_change_on_their_way(encoding: Encoding, body_format: BodyFormat, shed: ShedClass) -> None:
    flags = Flags(encoding, body_format, shed)
    assert Flags.from_int(flags.to_int()) == flags
    assert Flags.of(flags.content_encoding, body_format, shed) == flags


@pytest.mark.parametrize(
    ("body", "body_format"),
    [
        (b'[{"a":  1}, {"b": 2}]', BodyFormat.ARRAY),
        (b'{"events": [{"a":  1},\n{"b": 2}]}', BodyFormat.WRAPPED),
        (b'{"a":  1}\n{"b": 2}', BodyFormat.NDJSON),
    ],
)
@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
def test_an_events_own_text_is_lost_in_ndjson(body: bytes, body_format: BodyFormat, encoding: str | None) -> None:
    packed = {None: bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}[encoding](body)
    assert Record(1, 2, Flags.of(encoding, body_format), packed, 0).ndjson() == b'{"a":  1}\n{"b": 2}\n'


def test_a_group_of_more_buffers_than_one_call_takes_is_cut(tmp_path: Path) -> None:
    class Short(Filesystem):
        def write_at(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
            assert len(buffers) <= MAX_BUFFERS
            return super().write_at(fd, [b"".join(buffers)[:1000]], offset)

    filesystem = Short()
    buffers = [b"%06d" % number for number in range(3 * MAX_BUFFERS + 7)]
    fd = filesystem.open(tmp_path / "file", 0o102)  # O_RDWR | O_CREAT
    assert write_all(filesystem, fd, buffers, 0) == 6 * len(buffers)
    filesystem.close(fd)
    assert (tmp_path / "file").read_bytes() == b"".join(buffers)


class RenamedWhileListed(Filesystem):
    """A folder listing that misses a file, as happens when it is renamed meanwhile."""

    def __init__(self, misses: list[str]) -> None:
        self.misses = misses

    def list_folder(self, path: Path) -> list[tuple[str, int]]:
        missed = self.misses.pop(0) if self.misses else ""
        return [file for file in super().list_folder(path) if not file[0].startswith(missed or "?")]


@pytest.mark.parametrize("misses", [[f"{6:020d}"], ["", f"{6:020d}"]])
def test_a_segment_renamed_during_a_listing_is_taken_for_lost(tmp_path: Path, misses: list[str]) -> None:
    for first_seq in (1, 6, 9):
        path = segment_path(tmp_path, first_seq, closed=True)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert [file.first_seq for file in list_segments(RenamedWhileListed(misses), tmp_path)] == [1, 6, 9]


# ------------------------------------------------------------------------------------------------------------ any damage at all

FOLDER = Path("/spool")
FIRST = (1, 21, 41)
SIZES = (0, 10, 120, 33, 300)

Edit = tuple[str, int, int, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "delete", "insert", "zero", "repeat"]),
        st.integers(0, 900),
        st.integers(1, 200),
        st.binary(min_size=1, max_size=60),
    ),
    min_size=1,
    max_size=4,
)


def make_spool() -> tuple[MemoryFilesystem, dict[int, bytes]]:
    """Three closed segments of 5 records of 4 events, and an empty open one."""
    disk = MemoryDisk().mount()
    write_spool_id(FOLDER, str(SPOOL), disk)
    written = {}
    for first_seq in FIRST:
        header = SegmentHeader(SPOOL, first_seq, 0)
        content = pack_segment_header(header)
        for index, size in enumerate(SIZES):
            seq = first_seq + 4 * index
            written[seq] = b"%d:" % seq + bytes([seq]) * size
            content += pack_record_header(written[seq], seq, 4, 0, 0, header.seed) + written[seq]
        put(disk, segment_path(FOLDER, first_seq, closed=True), content)
    put(disk, segment_path(FOLDER, 61, closed=False), pack_segment_header(SegmentHeader(SPOOL, 61, 0)))
    return disk, written


def put(disk: MemoryFilesystem, path: Path, content: bytes) -> None:
    fd = disk.open(path, 0o1102)  # O_RDWR | O_CREAT | O_TRUNC
    disk.write_at(fd, [content], 0)
    disk.close(fd)


def damaged(content: bytes, edits: list[Edit]) -> bytes:
    for kind, where, length, noise in edits:
        start = where % (len(content) + 1)
        end = min(start + length, len(content))
        match kind:
            case "flip":
                content = content[:start] + bytes(byte ^ 0x41 for byte in content[start : start + 1]) + content[start + 1 :]
            case "delete":
                content = content[:start] + content[end:]
            case "insert":
                content = content[:start] + noise + content[start:]
            case "zero":
                content = content[:start] + bytes(end - start) + content[end:]
            case "repeat":
                content = content[:end] + content[start:]
    return content


@given(st.sampled_from(FIRST), EDITS)
@settings(max_examples=300, deadline=None)
def test_some_damage_stops_the_reader_or_is_read_as_events_or_is_counted_wrongly(first_seq: int, edits: list[Edit]) -> None:
    disk, written = make_spool()
    path = segment_path(FOLDER, first_seq, closed=True)
    fd = disk.open(path, 0)
    content = disk.read_at(fd, 10_000, 0)
    put(disk, path, damaged(content, edits))
    ledger = DamageLedger(FOLDER, disk)
    records = list(SpoolReader(FOLDER, filesystem=disk, ledger=ledger).read(0, 10**6, 10**6))
    read = {record.seq: record.payload for record in records}
    assert len(read) == len(records)
    assert read.items() <= written.items()
    assert list(read) == sorted(read)
    assert [seq for seq in written if not first_seq <= seq < first_seq + 20] == [
        seq for seq in read if not first_seq <= seq < first_seq + 20
    ], "a segment that isn't damaged lost something"
    assert ledger.events == 4 * (len(written) - len(read))
