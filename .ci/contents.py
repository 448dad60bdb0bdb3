"""Check that a built wheel and sdist hold what they should, and nothing else.

    python contents.py WHEEL SDIST CHECKOUT

One wrong setting silently leaves alma.py out of the wheel, so this looks inside.
"""

import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

SDIST = {"alma.py", "test_alma.py", "README.md", "LICENSE", "pyproject.toml", ".ci/build_stubs.py"}
SDIST |= {".gitignore", "PKG-INFO"}  # added by hatchling itself


def main(wheel: str, sdist: str, checkout: str) -> None:
    source = Path(checkout, "alma.py").read_bytes()

    with zipfile.ZipFile(wheel) as archive:
        info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        modules = {name for name in archive.namelist() if not name.startswith(info)}
        assert modules == {"alma.py", "alma-stubs/__init__.pyi"}, modules
        assert archive.read("alma.py") == archive.read("alma-stubs/__init__.pyi") == source, "altered on the way"
        assert f"{info}/licenses/LICENSE" in archive.namelist(), "no licence"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())

    assert metadata["Name"] == "alma-framework", metadata["Name"]
    assert f'\n__version__ = "{metadata["Version"]}"\n'.encode() in source, metadata["Version"]
    required = [one for one in metadata.get_all("Requires-Dist", []) if "extra ==" not in one]
    assert not required, f"the core depends on {required}"

    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
        assert names == SDIST, names ^ SDIST

    print(f"{Path(wheel).name}: {sorted(modules)} identical to the source, no dependency")
    print(f"{Path(sdist).name}: {sorted(names)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
