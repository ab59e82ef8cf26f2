"""`python -m flexicodec` is the command `flexicodec`."""

from flexicodec.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
