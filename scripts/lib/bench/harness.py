"""Interleaved pairs, medians, ratios with their spread."""
import json
import statistics
import sys
import time


class Row:
    """One row: what torpor takes against what the baseline takes, in milliseconds (or whatever `unit` says)."""

    def __init__(self, name, goal, what):
        self.name, self.goal, self.what = name, goal, what
        self.ours, self.theirs = [], []

    def result(self):
        ratios = sorted(a / b for a, b in zip(self.ours, self.theirs))
        quartile = lambda q: ratios[min(len(ratios) - 1, int(q * len(ratios)))]
        return {
            "id": self.name,
            "ratio": round(statistics.median(self.ours) / statistics.median(self.theirs), 3),
            "low": round(quartile(0.25), 3),
            "high": round(quartile(0.75), 3),
            "torporMs": round(statistics.median(self.ours), 2),
            "baselineMs": round(statistics.median(self.theirs), 2),
            "n": len(ratios),
        }


def interleave(row, ours, theirs, times):
    """Runs both in turn, each first every other time, and one pair before that counts nothing."""
    for n in range(times + 1):
        order = [(row.ours, ours), (row.theirs, theirs)]
        for into, work in order if n % 2 else reversed(order):
            value = work()
            if n > 0:
                into.append(value)
    return row


def milliseconds(begun):
    return (time.monotonic() - begun) * 1000


def show(row, as_json):
    result = row.result()
    if as_json:
        print(json.dumps(result), flush=True)
        return
    met = "met" if result["ratio"] <= row.goal else "missed"
    print(f"{row.name:4} {result['ratio']:6.2f} ({result['low']:.2f}-{result['high']:.2f})  goal {row.goal:<5} {met:7}"
          f" torpor {result['torporMs']:9.1f}  baseline {result['baselineMs']:9.1f}  n={result['n']:<3} {row.what}", flush=True)


def note(text):
    print(text, file=sys.stderr, flush=True)
