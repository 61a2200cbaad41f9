"""
The report as one page: HTML without a script and without anything fetched, its plots drawn here as SVG; and some of
those plots as one picture, for a README.

Pure: results in, text out. Colours are variables of the style sheet, so that one drawing serves a light and a dark
screen. Ours is drawn in the accent's colour; each other line and bar has its label beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from benchmarks.contestants import CONTESTANTS
from benchmarks.report import (
    METHOD,
    Case,
    Results,
    by_case,
    commands,
    goal,
    older_words,
    replay_words,
    scenario_rows,
    short,
)
from benchmarks.scenarios import SCENARIOS
from benchmarks.targets import Verdict, verdicts

WIDTH: Final = 860
LABELS: Final = 400
ROW: Final = 26
LINES: Final = 8  # colours of lines; more are drawn in the first again

STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126; --dim: #66717c; --rule: #dde2e7; --ours: #0b6bcb;
  --bar: #b7c0ca; --good: #1a7f37; --bad: #c4320a; --c0: #8a5a00; --c1: #a2185b; --c2: #4b7f00; --c3: #6941c6;
  --c4: #0e7f86; --c5: #b4461c; --c6: #5b6570; --c7: #7a2fa0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e6eaee; --dim: #96a1ac; --rule: #2c343c;
  --ours: #58a6ff; --bar: #4a5561; --good: #4ac26b; --bad: #ff8a65; --c0: #e3b341; --c1: #f778ba; --c2: #9ccc3c;
  --c3: #b09cff; --c4: #4fd1d9; --c5: #ffa372; --c6: #a9b4bf; --c7: #d79bff; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 940px; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .3rem } h2 { font-size: 1.15rem; margin: 2.4rem 0 .5rem } p { max-width: 72ch }
.dim { color: var(--dim); font-size: 13px } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: .6rem 0 1rem }
th, td { text-align: right; padding: .22rem .6rem; border-bottom: 1px solid var(--rule); white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 } th { color: var(--dim); font-weight: 500 }
td.left { text-align: left } tr.ours td { font-weight: 600 } .met { color: var(--good) } .not { color: var(--bad) }
svg { display: block; max-width: 100%; height: auto; margin: .4rem 0 } svg text { fill: var(--ink); font-size: 12px }
svg .dim { fill: var(--dim) } svg .rule { stroke: var(--rule) }
svg .target { stroke: var(--ink); stroke-dasharray: 4 3 }
"""


def page(results: Results) -> str:
    """Draw the report."""
    machine = results.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    cases = by_case(results.runs)
    parts = [
        "<h1>What it costs, measured</h1>",
        f"<p class=dim>{escape(machine['date'])} · {machine['cores']} cores of {escape(machine['processor'])}"
        f"{' (virtual)' if machine['virtual'] else ''} · {machine['memory_gib']} GiB"
        f" · Linux {escape(machine['kernel'])}"
        f"<br>{escape(versions)}<br><code>{escape(results.command)}</code></p>",
        "<p><strong>Quick runs: they show that everything works, and their numbers mean little.</strong></p>"
        if results.quick
        else "",
        f"<p>{escape(METHOD)}</p>",
        "<h2>Targets</h2>",
        targets_plot(verdicts(results.runs)),
        targets_table(verdicts(results.runs)),
    ]
    for scenario in SCENARIOS.values():
        same = [case for case in cases if case.scenario == scenario.name]
        if same:
            parts.append(f"<h2>{scenario.name}: {escape(scenario.title)}</h2>")
            parts += [f"<p class=dim>{escape(each)}</p>" for each in older_words(results, scenario.name)]
            parts += [f"<p>{escape(each.replace('`', ''))}</p>" for each in scenario.note.split("\n\n") if each]
            parts += [bars(same), html_table(*scenario_rows(same)), delays(same)]
            said = "".join(f"<li>{escape(each.removeprefix('- '))}</li>" for each in replay_words(same))
            parts.append(f"<ul>{said}</ul>" if said else "")
    absent = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in results.absent.items())
    failures = "".join(
        f"<li>{each.scenario}, round {each.round + 1}, {escape(each.contestant)}:"
        f" {escape('; '.join(each.faults)[:300])}</li>"
        for each in results.runs
        if each.faults
    )
    started = "".join(
        f"<tr><td>{escape(name)}</td><td class=left><code>{escape(text)}</code></td></tr>"
        for name, text in commands(results).items()
    )
    parts += ["<h2>How they were started</h2>", f"<div class=scroll><table>{started}</table></div>"]
    parts += ["<h2>Absent</h2>", f"<ul>{absent}</ul>", "<h2>Failed runs</h2>"]
    parts.append(f"<ul>{failures}</ul>" if failures else "<p>None: every ledger was clean.</p>")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    body = "\n".join(filter(None, parts))
    head += f"<title>What it costs, measured</title><style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en">{head}\n{body}\n</html>\n'


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; rows of ours stand out."""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(
        f"<tr{' class=ours' if row[0] in CONTESTANTS and CONTESTANTS[row[0]].is_ours else ''}>"
        + "".join(f"<td>{escape(each)}</td>" for each in row)
        + "</tr>"
        for row in rows
    )
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def targets_table(judged: Sequence[Verdict]) -> str:
    """Write every target with its numbers."""
    rows = []
    for each in judged:
        kind = {True: "met", False: "not", None: "dim"}[each.is_met]
        numbers = "<td></td><td></td>"
        if each.value is not None:
            numbers = f"<td><b>{each.value:.3g}</b></td><td>{each.least:.3g}–{each.most:.3g}</td>"
        rows.append(
            f"<tr><td>{escape(each.target.name)}</td><td>{escape(goal(each))}</td>{numbers}"
            f"<td>{each.rounds or ''}</td><td class={kind}>{each.word}</td></tr>"
        )
    heads = "".join(f"<th>{each}</th>" for each in ("target", "asked", "median", "least–most", "rounds", ""))
    return f"<div class=scroll><table><tr>{heads}</tr>{''.join(rows)}</table></div>"


# The picture

PICTURE: Final = {
    "S1": "To write one message to one of 1,000 members",
    "S11": "The same, compressed",
    "S6": "To take in one client: connect, handshake, join",
    "S7": "To keep one idle client in a room with presence",
}


def picture(results: Results) -> str:
    """Draw what some scenarios cost, one below the other: an SVG file by itself."""
    cases = by_case(results.runs)
    drawn: list[str] = []
    height = 0.0
    for name, title in PICTURE.items():
        same = [case for case in cases if case.scenario == name and case.cpu]
        if same:
            drawn.append(f'<text x="0" y="{height + 20:.0f}" style="font-weight:600;font-size:14px">{title}</text>')
            plot = bars(same).partition(">")[2].removesuffix("</svg>")
            drawn.append(f'<g transform="translate(0 {height + 30:.0f})">{plot}</g>')
            height += 30 + 26 + ROW * len(same) + 22
    style = f"{STYLE} svg text {{ font-family: system-ui, sans-serif }}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {WIDTH + 20} {height:.0f}" width="{WIDTH + 20}">'
        f'<style>{style}</style><rect x="-10" width="100%" height="100%" style="fill:var(--paper)"/>'
        f"{''.join(drawn)}</svg>\n"
    )


# Plots


def _svg(height: float, body: Iterable[str], label: str) -> str:
    inner = "".join(body)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img" aria-label="{escape(label)}">{inner}</svg>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "", fill: str = "") -> str:
    style = f' style="fill:var({fill})"' if fill else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}"{style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "rule") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _of_target(verdict: Verdict, amount: float) -> float:
    """Return an amount as a share of what is allowed: above 1 the target is missed, whichever way it is put."""
    return verdict.target.limit / amount if verdict.target.at_least else amount / verdict.target.limit


def targets_plot(judged: Sequence[Verdict]) -> str:
    """Draw each target's median, least and most, all as shares of what is allowed; the line is the target."""
    measured = [each for each in judged if each.value]
    if not measured:
        return ""
    ends = [_of_target(each, amount) for each in measured for amount in (each.least, each.most) if amount]
    low, high = min(0.5, *ends) / 1.15, max(2.0, *ends) * 1.15
    right = WIDTH - 70

    def place(share: float) -> float:
        return LABELS + (right - LABELS) * (math.log(share / low) / math.log(high / low))

    bottom = 26 + ROW * len(measured)
    drawn = [_text(place(1), 14, "target", anchor="middle", kind="dim")]
    for tick in (0.1, 0.25, 0.5, 2, 4, 10, 25):
        if low < tick < high:
            drawn += [
                _line(place(tick), 22, place(tick), bottom),
                _text(place(tick), 14, f"{tick:g}×", anchor="middle", kind="dim"),
            ]
    for number, each in enumerate(measured):
        assert each.value is not None
        assert each.least is not None
        assert each.most is not None
        y = 26 + ROW * (number + 0.5)
        colour = "--good" if each.is_met else "--bad"
        left, middle, end = (place(_of_target(each, amount)) for amount in (each.least, each.value, each.most))
        name = each.target.name if len(each.target.name) <= 66 else each.target.name[:64] + "…"
        drawn.append(f"<g><title>{escape(each.target.name)}: {each.value:.3g} {each.target.unit}, {each.word}</title>")
        drawn.append(_text(0, y + 4, name))
        drawn.append(
            f'<line x1="{left:.1f}" y1="{y}" x2="{end:.1f}" y2="{y}" style="stroke:var({colour})" stroke-width="2"/>'
        )
        drawn.append(f'<circle cx="{middle:.1f}" cy="{y}" r="5" style="fill:var({colour})"/>')
        drawn.append(_text(WIDTH, y + 4, f"{each.value:.3g} {each.target.unit}", anchor="end", fill=colour) + "</g>")
    drawn.append(_line(place(1), 18, place(1), bottom, "target"))
    return _svg(bottom + 6, drawn, "Targets: how far each is from what was asked")


def bars(cases: Sequence[Case]) -> str:
    """Draw what a unit costs: the bar is the median, the whisker least and most."""
    scenario = SCENARIOS[cases[0].scenario]
    amounts = [(case, case.value("uss_bytes") if scenario.name == "S7" else case.cpu) for case in cases]
    shown = [(case, amount) for case, amount in amounts if amount is not None]
    if not shown:
        return ""
    left, right = 250, WIDTH - 80
    top = max(amount.most for _, amount in shown) or 1.0

    def place(amount: float) -> float:
        return left + (right - left) * max(amount, 0) / top

    what = "bytes of user space per connection" if scenario.name == "S7" else f"µs of CPU per {scenario.unit}"
    drawn = [_text(left, 13, what, kind="dim")]
    for number, (case, amount) in enumerate(shown):
        y = 22 + ROW * number
        ours = case.contestant in CONTESTANTS and CONTESTANTS[case.contestant].is_ours
        drawn.append(f"<g><title>{escape(case.contestant)}: {amount}</title>")
        drawn.append(_text(left - 10, y + 14, case.contestant, anchor="end"))
        fill = "--ours" if ours else "--bar"
        width = max(place(amount.middle) - left, 1)
        drawn.append(
            f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="{ROW - 9}" rx="2" style="fill:var({fill})"/>'
        )
        drawn.append(
            f'<line x1="{place(amount.least):.1f}" y1="{y + 11.5}" x2="{place(amount.most):.1f}" y2="{y + 11.5}"'
            ' style="stroke:var(--ink)" stroke-width="1.5"/>'
        )
        drawn.append(_text(max(place(amount.most), left) + 8, y + 16, short(amount.middle)) + "</g>")
    return _svg(26 + ROW * len(shown), drawn, f"{scenario.name}: {what}")


SHARES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99)


def delays(cases: Sequence[Case]) -> str:
    """Draw the delays by percentile, both axes by powers of ten; a line that ends early: the rest never came."""
    curves = [(case, [(share, us) for share, us in case.curve() if share in SHARES and us]) for case in cases]
    shown = [(case, [(share, us) for share, us in curve if us is not None]) for case, curve in curves if len(curve) > 1]
    if not shown:
        return ""
    left, right, top, bottom = 62.0, WIDTH - 210.0, 26.0, 230.0
    all_us = [us for _, curve in shown for _, us in curve]
    low, high = 10 ** math.floor(math.log10(min(all_us))), 10 ** math.ceil(math.log10(max(all_us) + 1))

    def x(share: float) -> float:
        nines = [math.log10(100 / (100 - each)) for each in (share, SHARES[0], SHARES[-1])]
        return left + (right - left) * (nines[0] - nines[1]) / (nines[2] - nines[1])

    def y(us: float) -> float:
        return bottom - (bottom - top) * math.log(us / low) / math.log(high / low)

    drawn = [_text(0, 13, "delay from when a message was due, by percentile", kind="dim")]
    tick = low
    while tick <= high:
        drawn += [
            _line(left, y(tick), right, y(tick)),
            _text(left - 8, y(tick) + 4, duration(tick), anchor="end", kind="dim"),
        ]
        tick *= 10
    for share in (50.0, 90.0, 99.0, 99.9, 99.99):
        drawn.append(_text(x(share), bottom + 18, f"p{share:g}", anchor="middle", kind="dim"))
    names: list[tuple[float, str, str]] = []
    others = 0
    for case, curve in shown:
        ours = case.contestant in CONTESTANTS and CONTESTANTS[case.contestant].is_ours
        colour = "--ours" if ours else f"--c{others % LINES}"
        others += not ours
        points = " ".join(f"{x(share):.1f},{y(us):.1f}" for share, us in curve)
        drawn.append(
            f'<polyline points="{points}" fill="none" style="stroke:var({colour})"'
            f' stroke-width="{2.6 if ours else 1.4}">'
            f"<title>{escape(case.contestant)}</title></polyline>"
        )
        names.append((y(curve[-1][1]), case.contestant, colour))
    at = top - 14
    for wanted, name, colour in sorted(names):
        at = max(wanted, at + 14)
        drawn += [_line(right + 2, wanted, right + 12, at), _text(right + 16, at + 4, name, fill=colour)]
    return _svg(max(bottom + 26, at + 12), drawn, "Delays by percentile")


def duration(us: float) -> str:
    """Write a time with its unit."""
    if us >= 1e6:
        return f"{us / 1e6:g} s"
    return f"{us / 1000:g} ms" if us >= 1000 else f"{us:g} µs"
