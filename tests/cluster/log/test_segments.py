"""Segments: what is torn or damaged ends the reading, and never the reader."""

from __future__ import annotations

from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.log import Log, LogSettings
from cluster.log.segments import END_MARK, HEADER, SegmentReader, frame, segments
from tests.cluster.log.entries import ids, record
from tests.waiting import eventually


def read(path: Path) -> tuple[list[bytes], SegmentReader]:
    with path.open("rb") as file:
        reader = SegmentReader(file, path.name)
        return list(reader), reader


def written(tmp_path: Path, count: int) -> Path:
    """A log with one finished segment of `count` records; the path of the segment."""
    with Log(tmp_path).writer("w") as writer:
        writer.append_many(record(number) for number in range(count))
    (segment,) = segments(tmp_path / "segments")
    return segment.path


def test_checksum_is_crc32c() -> None:
    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720's check value (Castagnoli)


@given(payloads=st.lists(st.binary(min_size=1, max_size=50), max_size=6), data=st.data())
def test_a_segment_cut_anywhere_gives_its_whole_frames(tmp_path_factory, payloads, data) -> None:
    path = tmp_path_factory.mktemp("cut") / "segment"
    frames = [frame(payload) for payload in payloads]
    whole = HEADER + b"".join(frames) + END_MARK
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    found, reader = read(path)
    ends = [len(HEADER) + sum(map(len, frames[: place + 1])) for place in range(len(frames))]
    assert found == payloads[: sum(end <= cut for end in ends)]
    assert reader.finished == (cut == len(whole))


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_damaged_byte_never_gives_a_wrong_entry(tmp_path_factory, place: int, flip: int) -> None:
    path = tmp_path_factory.mktemp("flip") / "segment"
    payloads = [b'{"n":%d}' % number for number in range(5)]
    whole = bytearray(HEADER + b"".join(map(frame, payloads)))
    place = len(HEADER) + place % (len(whole) - len(HEADER))
    whole[place] ^= flip
    path.write_bytes(whole)
    found, reader = read(path)
    assert found == payloads[: len(found)] and len(found) < len(payloads)
    assert reader.tail


def test_a_tail_of_zeros_is_neither_a_frame_nor_an_end(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(HEADER + frame(b"{}") + bytes(4096))
    found, reader = read(path)
    assert found == [b"{}"]
    assert not reader.finished


def test_a_torn_length_of_four_gigabytes_asks_for_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(HEADER + b"\xff" * 12)
    assert read(path)[0] == []


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(HEADER, HEADER[:-1] + b"\x09"))
    with pytest.raises(ValueError, match="has format 9, this Trivium reads 1"):
        list(Log(tmp_path).entries())


def test_a_damaged_segment_is_put_aside_and_counted_rather_than_deleted(tmp_path: Path) -> None:
    path = written(tmp_path, 5)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"req-3"', b'"req-8"'))
    log = Log(tmp_path)
    assert log.compact().rows_added == 3
    assert ids(log.read()) == ["req-0", "req-1", "req-2"]
    assert log.stats().damaged == 1
    (aside,) = (tmp_path / "damaged").iterdir()
    assert b'"req-4"' in aside.read_bytes()


def test_segments_roll_by_size(tmp_path: Path) -> None:
    log = Log(tmp_path, LogSettings(segment_bytes=1200))
    with log.writer("w") as writer:
        for number in range(6):
            writer.append_sync(record(number))
    assert [segment.index for segment in segments(tmp_path / "segments")] == [0, 1, 2]
    assert ids(log.entries()) == [f"req-{number}" for number in range(6)]


def test_an_idle_segment_is_finished_when_it_is_old(tmp_path: Path) -> None:
    log = Log(tmp_path, LogSettings(segment_s=0.05))
    with log.writer("w") as writer:
        writer.append_sync(record(1))
        (segment,) = segments(tmp_path / "segments")
        eventually(lambda: read(segment.path)[1].finished, 10, "the segment is finished")
        writer.append_sync(record(2))
        assert len(segments(tmp_path / "segments")) == 2
