#!/usr/bin/env python3
"""Fails on files, functions and lines that are too long, on banned words and on paths of one machine.

Files have at most 350 lines, functions 60 (100 in kernels), lines 112 columns. A function is a block with a
parameter list at namespace or class scope, counted from its signature to its closing brace.
"""

import re
import sys
from pathlib import Path

FILE_LINES, FUNCTION_LINES, KERNEL_LINES, COLUMNS = 350, 60, 100, 112
CODE = {".h", ".cpp", ".cu", ".cuh"}
TEXT = CODE | {".py", ".sh", ".cmake", ".txt", ".yaml", ".yml", ".md"}
FOLDERS = ("src", "include", "tests", "tools", "configs", "docs", "data")
BANNED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(wo" r"rk|ho" r"me|ro" r"ot|Us" r"ers)/\w")
NOISE = re.compile(
    r"""//[^\n]*|/\*.*?\*/                          # comments
    |R"\((?:.*?)\)"|"(?:\\.|[^"\\\n])*"            # texts
    |'(?:\\.|[^'\\\n])'                           # characters
    |^[ \t]*\#(?:[^\n\\]|\\.)*(?:\\\n[^\n]*)*    # preprocessor lines, continued ones too""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def blanked(text):
    """The text with comments, literals and preprocessor lines replaced by blanks, line for line."""
    return NOISE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)


def functions_of(text):
    """(first line, last line, signature) of each function body at namespace or class scope."""
    code = blanked(text)
    scopes, header_start, found = [], 0, []
    for place, char in enumerate(code):
        if char not in "{};":
            continue
        header = code[header_start:place]
        if char == "{":
            words = set(re.findall(r"\w+", re.sub(r"<[^<>]*>", "", header)))
            is_outer = all(kind in ("namespace", "type") for kind, _, _ in scopes)
            if not is_outer:
                kind = "inner"
            elif "namespace" in words:
                kind = "namespace"
            elif "(" in header and not re.search(r"=\s*$", header):
                kind = "function"
            else:
                kind = "type" if words & {"class", "struct", "enum", "union", "concept"} else "inner"
            start = header_start + len(header) - len(header.lstrip())
            scopes.append((kind, start, header.strip()))
        elif char == "}" and scopes:
            kind, start, signature = scopes.pop()
            if kind == "function":
                first, last = (code.count("\n", 0, at) + 1 for at in (start, place))
                found.append((first, last, " ".join(signature.split())[:60]))
        header_start = place + 1
    return found


def violations_of(path, text):
    """Messages for one file; `path` is relative to the project."""
    path = Path(path)
    lines = text.splitlines()
    found = []
    if path.suffix in CODE | {".py"}:
        if len(lines) > FILE_LINES:
            found.append(f"{path}:1: {len(lines)} lines, at most {FILE_LINES}")
        found += [f"{path}:{n}: {len(line)} columns, at most {COLUMNS}" for n, line in enumerate(lines, 1)
                  if len(line) > COLUMNS]  # fmt: skip
    for number, line in enumerate(lines, 1):
        if path.suffix != ".md" and BANNED.search(line):
            found.append(f"{path}:{number}: {BANNED.search(line).group()} stands for unfinished work")
        if MACHINE_PATH.search(line):
            found.append(f"{path}:{number}: names a path of one machine")
    if path.suffix in CODE:
        limit = KERNEL_LINES if "kernels" in path.parts[:2] else FUNCTION_LINES
        found += [f"{path}:{first}: {last - first + 1} lines, at most {limit}: {signature}"
                  for first, last, signature in functions_of(text) if last - first + 1 > limit]  # fmt: skip
    return found


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    files = [p for folder in FOLDERS for p in sorted((root / folder).rglob("*"))
             if p.suffix in TEXT and p.is_file() and "__pycache__" not in p.parts]  # fmt: skip
    files += [p for p in sorted(root.iterdir()) if p.suffix in TEXT and p.is_file()]
    if not files:
        print(f"no sources below {root}")
        return 1
    found = [line for p in files for line in violations_of(p.relative_to(root), p.read_text())]
    print("\n".join(found) if found else f"{len(files)} files keep the style")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
