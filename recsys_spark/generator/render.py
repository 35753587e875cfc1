"""Arrow tables to files: Parquet, CSV, JSON lines, and files that nothing can read."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from pyarrow import fs

from recsys_spark.generator.hashing import Ints

CODED = ["user_id", "item_id", "event_type", "session_id", "device", "category", "brand", "segment", "country"]
BROKEN_CSV = (b"one,two", b'"e1","u1","i1","view","2026-01-01","1","s1","web","more","and more"')
BROKEN_JSON = (b'{"event_id": "e1", "user_id": ', b"no json at all", b'{"event_id": "e1", "item_id": "i1"')


def write_parquet(system: fs.FileSystem, path: str, table: pa.Table) -> None:
    """Write a table; dictionaries become plain strings for readers."""
    coded = [name for name in CODED if name in table.column_names]
    with (
        system.open_output_stream(path) as stream,
        pq.ParquetWriter(
            stream,
            table.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=coded,
            dictionary_pagesize_limit=64 << 20,
            write_statistics=["event_time", "event_type"],
            store_schema=False,
        ) as writer,
    ):
        writer.write_table(table, row_group_size=1 << 20)


def write_lines(system: fs.FileSystem, path: str, log_format: str, table: pa.Table, broken: Ints) -> None:
    """Write CSV with a header, or JSON lines; the rows at ``broken`` become lines that are neither."""
    is_csv = log_format == "csv"
    plain = pa.table({name: _decoded(table[name]) for name in table.column_names})
    text = (
        _csv(plain) if is_csv else plain.to_pandas().to_json(orient="records", lines=True, force_ascii=False).encode()
    )
    if len(broken):
        text = _with_broken(text, broken, BROKEN_CSV if is_csv else BROKEN_JSON, header=int(is_csv))
    with system.open_output_stream(path) as stream:
        stream.write(text)


def write_unreadable(system: fs.FileSystem, path: str, number: int) -> None:
    """Write a file of one of four kinds: empty, torn, of another format, with a damaged footer."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"event_id": [f"e{n}" for n in range(500)]}), buffer)
    good = buffer.getvalue()
    kinds = (b"", good[: len(good) // 2], b"event_id,user_id\n" * 40, good[:-40] + b"\xff" * 32 + good[-8:])
    with system.open_output_stream(path) as stream:
        stream.write(kinds[number % len(kinds)])


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _csv(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pc.write_csv(table, buffer)
    return buffer.getvalue()


def _with_broken(text: bytes, places: Ints, broken: tuple[bytes, ...], header: int) -> bytes:
    """Replace some lines; no field holds a line break."""
    lines = text.split(b"\n")
    for number, place in enumerate(places.tolist()):
        lines[header + place] = broken[number % len(broken)]
    return b"\n".join(lines)
