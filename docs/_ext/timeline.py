"""Drawing of two microbatches on two streams: layers of a step as an SVG, from the operators' own times."""

from collections.abc import Iterable, Mapping

import numpy as np

from perfmodel.estimate.timed_step import Line, StepTime

WIDTH, ROW, GAP, LEFT = 860.0, 44.0, 14.0, 92.0
COLOURS = (("#2f6f9f", "#9fc3dc"), ("#a8552d", "#e0b394"))
"""Dark and light shade of each microbatch."""

FIRST = {
    "attention norm": "project",
    "query and latent down projection": "project",
    "latent norms": "project",
    "query up projection": "project",
    "rotary and cache write": "project",
    "query absorption": "project",
    "latent attention": "attention",
    "value expansion": "output",
    "attention output projection": "output",
    "mlp norm": "output",
}
SECOND = {"router": "gate", "router top-k": "gate", "dispatch": "dispatch", "experts": "experts", "combine": "combine"}
"""Which operators are drawn as one bar."""


def bars(lines: Iterable[Line], names: Mapping[str, str]) -> dict[str, float]:
    """Seconds of every bar in one layer, in the order of the operators."""
    found: dict[str, float] = {}
    for line in lines:
        if line.operator.name in names:
            name = names[line.operator.name]
            found[name] = found.get(name, 0.0) + float(np.ravel(line.time.seconds)[0])
    return found


def timeline(step: StepTime, shown: float = 2.6) -> str:
    """Draw a window of a step on two streams, so many times the busier one long, each microbatch in its colour."""
    if step.streams is None:
        raise ValueError("a step in one piece has no streams to draw")
    streams = [bars(step.streams.first, FIRST), bars(step.streams.second, SECOND)]
    lengths = [sum(each.values()) for each in streams]
    half = max(lengths)
    begin, end = 2.0 * half, (2.0 + shown) * half  # once both streams run
    scale = (WIDTH - LEFT) / (end - begin)
    height = 2 * ROW + GAP + 40
    out = [
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="Two microbatches on two streams"'
        ' style="width:100%;font-size:11px" fill="currentColor">'
    ]
    for row, name in enumerate(("attention", "experts")):
        y = row * (ROW + GAP)
        out.append(f'<text x="0" y="{y + ROW / 2 + 4:.1f}">{name}</text>')
        for turn in range(int(np.ceil(2.0 + shown))):
            start = turn * half + row * lengths[0]
            for i, (label, seconds) in enumerate(streams[row].items()):
                left, right = max(start, begin), min(start + seconds, end)
                start += seconds
                if right <= left:
                    continue
                x, wide = LEFT + (left - begin) * scale, (right - left) * scale
                colour = COLOURS[turn % 2][i % 2]
                text = "#fff" if i % 2 == 0 else "#222"
                out.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{ROW:.0f}" fill="{colour}"'
                    f' stroke="#fff" stroke-width="0.5"><title>{label}, {seconds * 1e6:.0f} us</title></rect>'
                )
                if wide > 5.8 * len(label):
                    place = f'x="{x + wide / 2:.1f}" y="{y + ROW / 2 + 4:.1f}"'
                    out.append(f'<text {place} text-anchor="middle" fill="{text}">{label}</text>')
    bottom = 2 * ROW + GAP
    for mark in range(int(shown) + 1):
        x = LEFT + mark * half * scale
        out.append(f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{mark * half * 1e6:.0f} us</text>')
    names = " and ".join(f'<tspan fill="{dark}">{name}</tspan>' for name, (dark, _) in zip("AB", COLOURS, strict=True))
    out.append(f'<text x="{LEFT:.1f}" y="{bottom + 36:.1f}">microbatches {names}</text></svg>')
    return "\n".join(out)
