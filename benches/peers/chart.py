"""The comparison as an SVG that is readable on a light and on a dark page."""

from xml.sax.saxutils import escape

from machine import count

WIDTH = 760
LEFT = 190
RIGHT = 70
TOP = 66
BAR = 13
GAP = 22
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 }
    .name { text-anchor: end }
    .ours { font-weight: 600 }
    .small { font-size: 11px; fill: #59636e }
    .c0 { fill: #8c959f } .c1 { fill: #0a7ea4 } .c2 { fill: #54aeca } .c3 { fill: #c4693d }
    .axis { stroke: #d1d9e0 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .small { fill: #9198a1 }
      .c0 { fill: #6e7681 } .c1 { fill: #3fb6e0 } .c2 { fill: #2a7d9c } .c3 { fill: #e08a5b }
      .axis { stroke: #3d444d }
    }
"""


def draw(servers, tokens, machine):
    """One group of bars for each `(name, rates)`: public, one token, many tokens, every token new."""
    kinds = ["public route", "one token", f"{tokens:,} tokens in turn", "every token new"]
    largest = max(max(rates) for _, rates in servers)
    scale = (WIDTH - LEFT - RIGHT) / largest
    group = BAR * len(kinds) + GAP
    height = TOP + group * len(servers) + 20
    title = "Requests per second on one core, RSA 4096"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t">',
        f"  <title id=\"t\">{escape(title)}: {escape('; '.join(f'{name} {count(rates[1])} with one token' for name, rates in servers))}</title>",
        f"  <style>{STYLE}  </style>",
        f'  <text class="title" x="12" y="24">{escape(title)}</text>',
    ]
    x = 12
    for index, kind in enumerate(kinds):
        out.append(f'  <rect class="c{index}" x="{x}" y="38" width="11" height="11" rx="2"/>')
        out.append(f'  <text x="{x + 16}" y="48">{escape(kind)}</text>')
        x += 34 + 7 * len(kind)
    for row, (name, rates) in enumerate(servers):
        y = TOP + row * group
        middle = y + BAR * len(kinds) / 2 + 4
        ours = " ours" if row == 0 else ""
        out.append(f'  <text class="name{ours}" x="{LEFT - 10}" y="{middle:.0f}">{escape(name)}</text>')
        for index, rate in enumerate(rates):
            top = y + index * BAR
            width = rate * scale
            out.append(f'  <rect class="c{index}" x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR - 2}" rx="2"/>')
            out.append(f'  <text class="small" x="{LEFT + width + 5:.1f}" y="{top + BAR - 3}">{count(rate)}</text>')
    bottom = TOP + group * len(servers) - GAP
    out.append(f'  <line class="axis" x1="{LEFT - 0.5}" y1="{TOP - 4}" x2="{LEFT - 0.5}" y2="{bottom + 4}"/>')
    out.append(f'  <text class="small" x="12" y="{height - 8}">{escape(machine)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
