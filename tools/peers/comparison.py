"""What the comparison programs share: runs of programs that print JSON lines, and tables of pages made from
results."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def output_of(command, prefix=()):
    """The JSON lines that a command prints; ends the program where the command fails."""
    words = [str(word) for word in [*prefix, *command]]
    print("+", " ".join(words), file=sys.stderr, flush=True)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def commit():
    if "TERN_COMMIT" in os.environ:  # a tree without its history
        return os.environ["TERN_COMMIT"]
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def _add_table_command(commands, table_of):
    """`table RESULT PAGE [--check]`: what stands between <!-- name of the result file --> and <!-- end -->
    becomes table_of(result)."""

    def table(options):
        result = json.loads(Path(options.result).read_text())
        page = Path(options.page).read_text()
        marker = f"<!-- {Path(options.result).stem} -->"
        begin, end = f"{marker}\n", "\n<!-- end -->"
        if page.count(begin) != 1 or end not in page.split(begin)[1]:
            lines = f"{marker}, an empty one, <!-- end -->"
            raise SystemExit(f"{options.page}: must hold the lines {lines}")
        head, rest = page.split(begin)
        fresh = head + begin + table_of(result) + end + rest.split(end, 1)[1]
        if not options.check:
            Path(options.page).write_text(fresh)
        elif fresh != page:
            raise SystemExit(
                f"{options.page}: its table is not what {options.result} says; run this without --check"
            )

    written = commands.add_parser("table")
    written.add_argument("result")
    written.add_argument("page")
    written.add_argument("--check", action="store_true")
    written.set_defaults(work=table)


def main(description, add_options, run, table_of):
    """The command line of a comparison: `run`, with the options that add_options(parser) gives it, calls
    run(options); `table` as above."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    timed = commands.add_parser("run")
    add_options(timed)
    timed.set_defaults(work=run)
    _add_table_command(commands, table_of)
    options = parser.parse_args()
    options.work(options)
