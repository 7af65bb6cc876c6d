#!/usr/bin/env python3
"""Fails where an object file of the CPU kernels defines a symbol that the linker could share between levels.

    python3 tools/check_isa_symbols.py OBJECT...

The kernels are compiled once for each x86-64 level. A weak or unique symbol without the level in its name (an
inline function, a template of the standard library) exists once after linking: code for the highest level could
then run on a processor that lacks it. What a kernel file defines must be local or carry tern::Isa in its name.
"""

import re
import subprocess
import sys

SHARED = {"W", "V", "u"}  # weak function, weak object, unique
ALLOWED = {"DW.ref.__gxx_personality_v0"}
LINE = re.compile(r"^\s*[0-9a-fA-F]+\s+(\S)\s+(.*)$")
LEVEL = re.compile(r"\(tern::Isa\)|LNS\d*_3IsaE|LN4tern3IsaE")  # nm leaves very long names mangled


def violations_of(path, listing):
    """Messages for one object file from the output of nm --demangle --defined-only."""
    found = []
    for line in listing.splitlines():
        match = LINE.match(line)
        if match and match[1] in SHARED and not LEVEL.search(match[2]) and match[2] not in ALLOWED:
            found.append(f"{path}: {match[2]} is shared between levels; make it local or give it the level")
    return found


def main():
    objects = sys.argv[1:]
    if not objects:
        print("no object files given")
        return 1
    found, symbols = [], 0
    for path in objects:
        command = ["nm", "--demangle", "--defined-only", path]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        symbols += listing.count("(tern::Isa)")
        found += violations_of(path, listing)
    if symbols == 0:
        found.append("no symbol carries tern::Isa: these are not the kernels' object files")
    print("\n".join(sorted(set(found))) if found else f"{symbols} kernel symbols, none shared between levels")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
