from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyarrow import NativeFile, RecordBatch, Schema, Table

class FileMetaData:
    metadata: dict[bytes, bytes] | None
    num_rows: int
    num_row_groups: int
    num_columns: int
    serialized_size: int
    def row_group(self, i: int) -> Any: ...

class ParquetFile:
    metadata: FileMetaData
    def __init__(self, source: NativeFile | Any, **options: Any) -> None: ...
    def read(self, columns: Sequence[str] | None = ..., use_threads: bool = ...) -> Table: ...
    def iter_batches(
        self,
        batch_size: int = ...,
        row_groups: Sequence[int] | None = ...,
        columns: Sequence[str] | None = ...,
        use_threads: bool = ...,
    ) -> Iterator[RecordBatch]: ...

class ParquetWriter:
    def __init__(
        self,
        where: NativeFile,
        schema: Schema,
        *,
        compression: str = ...,
        compression_level: int = ...,
        use_dictionary: Sequence[str] = ...,
        column_encoding: Mapping[str, str] = ...,
        write_statistics: Sequence[str] | bool = ...,
        store_schema: bool = ...,
    ) -> None: ...
    def close(self) -> None: ...
    def write_table(self, table: Table, row_group_size: int | None = ...) -> None: ...
    def add_key_value_metadata(self, key_value_metadata: Mapping[bytes, bytes]) -> None: ...
    def __enter__(self) -> ParquetWriter: ...
    def __exit__(self, *failure: object) -> None: ...
