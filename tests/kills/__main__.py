# ruff: noqa: T201
"""Kill commands at random moments and print what had to be done again.

Usage: python -m tests.kills [--count 50] [--seed 0] [--first 0] [--verbs label,embed,train,evaluate,predict,run]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from .killing import VERBS, Killing, moments


def main() -> int:
    """Kill, print a line for each and their sums; 1 where a result is not the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first kill, to go on with a long list")
    parser.add_argument("--verbs", default=",".join(VERBS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        verbs = given.verbs.split(",")
        killing = Killing(Path(folder))
        killing.leave_alone([verb for verb in VERBS if verb in verbs or verb != "run"])
        whole = ", ".join(f"{verb} {seconds:.1f} s" for verb, seconds in killing.whole_s.items())
        print(f"left alone: {whole}", flush=True)
        kills = []
        for number, (verb, fraction) in enumerate(moments(given.seed, given.count, verbs)):
            if number < given.first:
                continue
            kills.append(killing.kill(verb, fraction, f"kill-{number}"))
            print(f"{number:>3} {kills[-1].line()}", flush=True)
            if not kills[-1].faults:
                shutil.rmtree(Path(folder) / f"kill-{number}")
        for verb in verbs:
            mine = [one for one in kills if one.verb == verb]
            if mine:
                redone = sorted(one.redone_s for one in mine)
                middle, most = redone[len(redone) // 2], redone[-1]
                print(f"{verb:<9} {len(mine)} kills: {middle:.1f} s done again, at most {most:.1f}")
        wrong = [one for one in kills if one.faults]
        print(f"{len(kills) - len(wrong)} of {len(kills)} ended in the same bytes")
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
