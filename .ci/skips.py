"""List the tests that a pytest run has skipped; fail if one was skipped for want of an extra or a program.

    python skips.py JUNIT_XML

With all of them installed, such a skip means that a test no longer runs anywhere.
"""

import sys
import xml.etree.ElementTree as ET


def main(report: str) -> int:
    skipped = wanting = 0
    for case in ET.parse(report).iter("testcase"):
        for skip in case.iter("skipped"):
            reason = skip.get("message", "")
            skipped += 1
            wanting += "needs the extra" in reason or "needs the program" in reason
            print(f"skipped: {case.get('name')}: {reason}")
    print(f"{skipped} tests skipped, {wanting} of them for a missing extra or program")
    return 1 if wanting else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
