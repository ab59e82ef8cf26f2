"""Helpers of these tests."""


def tables(folder):
    """The bytes of all tables of a folder by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}
