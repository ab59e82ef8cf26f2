#!/usr/bin/env bash
# pyarrow 26.0.1: `use_dictionary=[...]` and `column_encoding={...}` of `pyarrow.parquet.write_table` name the values of a
# list column by their path in the file, "codes.list.element". The name of the column, "codes", and the path by the name
# that Arrow itself gives to the values, "codes.list.item" (what `table.schema` prints), are taken without an error and
# change nothing: the first leaves a column that was to have a dictionary without one, the second the same. Integers of 10
# random bits in uint16 lists take 20 % more then (Parquet stores them as INT32; dictionary indices are packed to 10 bits).
# So: read `metadata.row_group(0).column(j).encodings` back. Seen: the lines at the end. This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "pyarrow==26.0.1" "numpy==2.2.6"

"$folder/venv/bin/python" - "$folder" <<'PY' | tee "$folder/seen"
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

codes = np.random.default_rng(0).integers(0, 1024, (20_000, 20)).astype(np.uint16)
table = pa.table({"codes": pa.array(codes.tolist(), pa.list_(pa.uint16()))})
print(table.schema.field("codes").type)
sizes = {}
for name in ("codes", "codes.list.item", "codes.list.element"):
    for option in ({"use_dictionary": [name]}, {"use_dictionary": False, "column_encoding": {name: "BYTE_STREAM_SPLIT"}}):
        path = f"{sys.argv[1]}/file.parquet"
        pq.write_table(table, path, compression="zstd", **option)
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        kinds = [kind for kind in ("RLE_DICTIONARY", "BYTE_STREAM_SPLIT") if kind in column.encodings]
        print(name, list(option)[-1], kinds or "as if it were not there")
        sizes[name, list(option)[-1]] = column.total_compressed_size
ratio = sizes["codes", "use_dictionary"] / sizes["codes.list.element", "use_dictionary"]
print("without the dictionary larger by 10 % or more:", ratio > 1.1)
PY
diff "$folder/seen" - <<'EXPECTED'
list<item: uint16>
codes use_dictionary as if it were not there
codes column_encoding as if it were not there
codes.list.item use_dictionary as if it were not there
codes.list.item column_encoding as if it were not there
codes.list.element use_dictionary ['RLE_DICTIONARY']
codes.list.element column_encoding ['BYTE_STREAM_SPLIT']
without the dictionary larger by 10 % or more: True
EXPECTED
