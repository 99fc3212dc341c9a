from collections.abc import Mapping, Sequence
from typing import Any

from pyarrow import NativeFile, Table

class FileMetaData:
    num_rows: int
    num_row_groups: int
    num_columns: int
    serialized_size: int
    def row_group(self, i: int) -> Any: ...

class ParquetFile:
    metadata: FileMetaData
    def __init__(self, source: NativeFile | Any, **options: Any) -> None: ...
    def read(self, columns: Sequence[str] | None = ..., use_threads: bool = ...) -> Table: ...

def write_table(
    table: Table,
    where: NativeFile,
    *,
    row_group_size: int = ...,
    compression: str = ...,
    compression_level: int = ...,
    use_dictionary: Sequence[str] = ...,
    column_encoding: Mapping[str, str] = ...,
    write_statistics: Sequence[str] | bool = ...,
    store_schema: bool = ...,
) -> None: ...
