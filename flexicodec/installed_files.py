"""Files of other packages, found without importing them and accepted only if they are the pinned version.

Several wheels on PyPI hold model weights under permissive licences. Importing such a package may load a native
library, open audio devices or download other files, so only its files are used.
"""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class PinnedFile(NamedTuple):
    """A file of an installed distribution."""

    distribution: str  # name and version on PyPI, "moonshine-voice==0.0.73"
    path: str  # inside the distribution
    sha256: str

    @property
    def package(self) -> str:
        """Name of the distribution, without its version."""
        return self.distribution.partition("==")[0]

    def is_installed(self) -> bool:
        """Whether the distribution is installed and has a file of this name; the content is not checked."""
        try:
            return Path(str(metadata.distribution(self.package).locate_file(self.path))).is_file()
        except metadata.PackageNotFoundError:
            return False

    def find(self, extra: str = "instruments") -> Path:
        """Return the path of the file.

        Args:
            extra: The extra of this package that installs the distribution.

        Raises:
            ImportError: The distribution is not installed.
            ValueError: It is another version: the file is missing, or has another content.
        """
        try:
            distribution = metadata.distribution(self.package)
        except metadata.PackageNotFoundError as error:
            raise ImportError(f"{self.package} is not installed: pip install flexicodec-lab[{extra}]") from error
        path = Path(str(distribution.locate_file(self.path)))
        installed = f"{self.package} {distribution.version}"
        if not path.is_file():
            raise ValueError(f"{installed} has no file {self.path}; expected {self.distribution}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{path} of {installed} has SHA-256 {found[:12]}..., expected {self.sha256[:12]}... of "
                f"{self.distribution}; is it another version, or a damaged file?"
            )
        return path
