"""Tables of studies: means over seeds and paired differences."""

import numpy as np


def paired(a, b):
    """Mean and standard error of the differences over the seeds both have, in %."""
    seeds = sorted(set(a) & set(b))
    if len(seeds) < 2:
        return ""
    d = 100 * np.array([a[s] - b[s] for s in seeds])
    return f"{d.mean():+.2f} +- {d.std(ddof=1) / np.sqrt(len(d)):.2f}"


def means(rows, field, order, least=1):
    """Mean of ``field`` by method, as ``draw_comparison`` takes it.

    Args:
      rows: dicts with ``method`` and the field.
      field: such as ``final_top1``.
      order: names of methods; those with fewer rows than ``least`` are left out.
      least: rows.

    >>> means([{"method": "none", "x": x} for x in (0.5, 1.0)], "x", ["none", "kd"])
    [{'method': 'none', 'x': 0.75}]
    """
    found = {m: [r[field] for r in rows if r["method"] == m] for m in order}
    return [
        {"method": method, field: float(np.mean(values))}
        for method, values in found.items()
        if len(values) >= least
    ]


def table(rows, field, order, score="top-1", bases=("none", "kd")):
    """A Markdown table of ``field`` (a share) by method, in the order given.

    Args:
      rows: dicts with ``method``, ``seed`` and the field.
      field: such as ``final_top1``.
      order: names of methods; those without rows are left out.
      score: what the field is called.
      bases: methods that the others are compared with.

    >>> rows = [{"method": "none", "seed": s, "top1": 0.5} for s in (0, 1)]
    >>> print(table(rows, "top1", ["none"]).splitlines()[-1])
    | none | 2 | 50.00 | 0.00 |  |  |
    """
    values = {}
    for row in rows:
        values.setdefault(row["method"], {})[row["seed"]] = row[field]
    against = [f"minus {'KD' if base == 'kd' else base}" for base in bases]
    lines = [f"| method | seeds | {score} % mean | std | {' | '.join(against)} |"]
    lines.append("|---|---|---|---|" + "---|" * len(bases))
    for method in [m for m in order if m in values]:
        v = 100 * np.array(list(values[method].values()))
        spread = f"{v.std(ddof=1):.2f}" if len(v) > 1 else ""
        cells = [method, str(len(v)), f"{v.mean():.2f}", spread]
        for base in bases:
            compared = base in values and method not in ("none", base)
            cells.append(paired(values[method], values[base]) if compared else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
