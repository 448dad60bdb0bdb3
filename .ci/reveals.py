"""Check what mypy and pyright make of consumer.py with the package that an interpreter has installed.

    python reveals.py PYTHON

Both have to find no mistake, and for each reveal_type the type in the comment behind it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List

CHECKERS = {
    "mypy": ["mypy", "--strict", "--warn-unused-ignores", "--cache-dir", os.devnull, "--python-executable"],
    "pyright": ["pyright", "--pythonpath"],
}
REVEALED = re.compile(r':(\d+):.*(?:Revealed type is|Type of ".*" is) "(.+)"$')
EXPECTED = re.compile(r"^ *reveal_type\(.*\)  # (.+)$")


def without_modules(shown: str) -> str:
    """Return a type as both checkers spell it: builtins.list[alma.X] and List[X] are list[X]."""
    return (
        re.sub(r"\b(?:\w+\.)+(?=\w)", "", shown)
        .replace("List[", "list[")
        .replace("Dict[", "dict[")
        .replace("Tuple[", "tuple[")
    )


def complaints(checker: str, python: str, consumer: Path) -> List[str]:
    """Return the mistakes *checker* finds, and where it and the comments in *consumer* differ."""
    # In the folder of the copy, where no alma.py, stubs or settings of a checkout are in sight.
    command = [sys.executable, "-m", *CHECKERS[checker], python, consumer.name]
    done = subprocess.run(command, cwd=str(consumer.parent), stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    revealed = {int(match[1]): without_modules(match[2]) for match in map(REVEALED.search, lines) if match}
    found = [line for line in lines if not REVEALED.search(line)] if done.returncode else []
    for number, line in enumerate(consumer.read_text().splitlines(), 1):
        expected = EXPECTED.match(line)
        if expected and revealed.get(number) != expected[1]:
            found.append(f"line {number}, {line}: it says {revealed.get(number)}")
    print(f"{checker}: {len(revealed)} types revealed, {'as expected' if not found else 'with complaints:'}")
    return found


def main(python: str) -> int:
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        consumer = Path(shutil.copy(str(Path(__file__).with_name("consumer.py")), folder))
        for checker in CHECKERS:
            for complaint in complaints(checker, python, consumer):
                print(f"  {complaint}")
                failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
