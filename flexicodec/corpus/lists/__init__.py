"""Lists of clips: manifests of this package and of other tools, lhotse cuts, and audio packed in Parquet and tars."""
